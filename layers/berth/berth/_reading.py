"""Reads typed fields out of the wire formats' JSON: what :mod:`berth.contract` is written with.

Apart from it only so that each stays short; everybody else imports from there. The standard library is all it needs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

__all__ = ["ContractError", "Reader"]

_T = TypeVar("_T")


class ContractError(ValueError):
    """A record or report that cannot be read. The message names the field and what was expected there."""

    def __init__(self, field_name: str, problem: str) -> None:
        super().__init__(f"{field_name}: {problem}")
        self.field = field_name


@lru_cache(maxsize=4096)
def _network(text: str) -> ipaddress.IPv4Network:
    """Remembered: the same records are read again and again, and this would be most of the work."""
    return ipaddress.IPv4Network(text)


@lru_cache(maxsize=4096)
def _address(text: str) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(text)


class Reader:
    """Reads typed fields out of a JSON object and names the field when one is wrong."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            raise ContractError(path, f"expected an object, got {type(value).__name__}")
        self._value, self._path = value, path

    def _get(self, name: str, kind: type[_T], default: _T | None) -> _T:
        value = self._value.get(name, default)
        # bool is an int in Python, but `true` is no count
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ContractError(f"{self._path}.{name}", f"expected {kind.__name__}, got {value!r:.80}")
        return value

    def text(self, name: str) -> str:
        return self._get(name, str, None)

    def count(self, name: str, default: int | None = None) -> int:
        value = self._get(name, int, default)
        if value < 0:
            raise ContractError(f"{self._path}.{name}", f"expected 0 or more, got {value}")
        return value

    def flag(self, name: str) -> bool:
        return self._get(name, bool, False)

    def choice(self, name: str, options: tuple[_T, ...], default: _T | None = None) -> _T:
        value = self._value.get(name, default)
        for option in options:
            if value == option:
                return option
        known = ", ".join(map(str, options))
        raise ContractError(f"{self._path}.{name}", f"expected one of {known}, got {value!r:.80}")

    def child(self, name: str) -> Reader:
        return Reader(self._value.get(name, {}), f"{self._path}.{name}")

    def many(self, name: str, build: Callable[[Reader], _T]) -> tuple[_T, ...]:
        values = self._get(name, list, [])
        return tuple(build(Reader(v, f"{self._path}.{name}[{i}]")) for i, v in enumerate(values))

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._get(name, list, [])
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise ContractError(f"{self._path}.{name}[{i}]", f"expected str, got {value!r:.80}")
        return tuple(values)

    def block(self, name: str) -> str:
        return self._checked(name, self.text(name), _network, "an IPv4 block such as 10.0.1.16/28")

    def ipv6_block(self, name: str) -> str:
        return self._checked(name, self.text(name), ipaddress.IPv6Network, "an IPv6 block such as 2001:db8:1:2:3::/80")

    def address(self, name: str) -> str:
        return self._checked(name, self.text(name), _address, "an IPv4 address such as 10.0.1.5")

    def blocks(self, name: str) -> tuple[str, ...]:
        return tuple(
            self._checked(f"{name}[{i}]", v, _network, "an IPv4 block such as 10.0.1.16/28")
            for i, v in enumerate(self.texts(name))
        )

    def _checked(self, name: str, text: str, parse: Callable[[str], object], wanted: str) -> str:
        try:
            parse(text)
        except ValueError:
            raise ContractError(f"{self._path}.{name}", f"expected {wanted}, got {text!r:.80}") from None
        return text
