"""The agent's settings: ``/etc/berth/node.toml`` over defaults. Times are in seconds."""

from __future__ import annotations

import ipaddress
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, cast

from berth_node.chain import read_chain
from berth_node.http import listen_address
from berth_node.log import FORMATS
from berth_node.skel import VERSIONS

__all__ = ["DEFAULT_PATH", "Config", "ConfigError", "load", "parse"]

DEFAULT_PATH: Final = Path("/etc/berth/node.toml")


class ConfigError(ValueError):
    """A setting that cannot be used. The message names the file, the field and what to write there."""


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of one node. Only ``table`` and ``reports_queue_url`` have no default.

    ``add_wait_seconds`` must stay below the runtime's own limit on a pod sandbox (kubelet gives a runtime request 2
    minutes), so that a pod that finds no address gets "try again later" and a reason instead of a killed plugin.
    ``mtu`` 0 is the primary interface's. ``plugin_makes_links``: the plugin has the kernel make a pod's links while the
    agent chooses its address, and take them away without it. ``no_snat_cidrs`` adds to the record's list. ``ipvs``:
    beside kube-proxy's mode of that name pods are refused, or made and the trouble told of.
    ``cni_version`` is for runtimes older than CNI 1.0.0, such as containerd before 1.6.
    """

    table: str
    reports_queue_url: str
    region: str | None = None
    mtu: int = 0
    plugin_makes_links: bool = True
    snat: bool = True
    ipvs: str = "refuse"
    no_snat_cidrs: tuple[str, ...] = ()
    interface_mask: int = 0x7F
    connection_mark: int = 0x80
    add_wait_seconds: float = 45.0
    poll_quick_seconds: float = 0.5
    poll_slow_seconds: float = 15.0
    report_interval_seconds: float = 30.0
    report_debounce_seconds: float = 1.0
    surrender_hold_seconds: float = 60.0
    run_dir: Path = field(default=Path("/run/berth"))
    state_dir: Path = field(default=Path("/var/lib/berth"))
    cni_config: Path = field(default=Path("/etc/cni/net.d/10-berth.conflist"))
    cni_version: str = "1.1.0"
    cni_bin_dir: Path = field(default=Path("/opt/cni/bin"))
    chain: Sequence[Mapping[str, Any]] = ()
    cri_socket: str | None = None
    collect_interval_seconds: float = 120.0
    collect_age_seconds: float = 300.0
    log_level: str = "info"
    log_format: str = "auto"
    metrics_listen: str = "127.0.0.1:61678"


_POSITIVE: Final = frozenset(
    {
        "interface_mask",
        "connection_mark",
        "add_wait_seconds",
        "poll_quick_seconds",
        "poll_slow_seconds",
        "report_interval_seconds",
        "collect_interval_seconds",
    }
)
_CHOICES: Final = {
    "ipvs": ("refuse", "tell"),
    "log_level": ("debug", "info", "warning", "error"),
    "log_format": FORMATS,
    "cni_version": VERSIONS,
}


def _wrong_mtu(value: Any) -> str:
    """Hosts must accept 576 bytes (RFC 791), so less breaks the node's own protocols; a veth carries 65535 at most."""
    return (
        ""
        if value == 0 or 576 <= value <= 65535
        else f"expected 0 (the primary interface's) or 576 to 65535, got {value}"
    )


def _wrong_cidrs(value: Any) -> str:
    for item in value:
        try:
            ipaddress.IPv4Network(item)
        except ValueError as error:
            hint = ""
            if "host bits" in str(error):
                hint = f"; write {ipaddress.IPv4Network(item, strict=False)}"
            return f"expected IPv4 CIDRs such as 10.0.0.0/8, got {item!r:.80}{hint}"
    return ""


def _wrong_socket(value: Any) -> str:
    return "" if not value or value.startswith("/") else f'expected an absolute path, or "" for none, got {value!r:.80}'


_RULES: Final[Mapping[str, Callable[[Any], str]]] = {
    "mtu": _wrong_mtu,
    "no_snat_cidrs": _wrong_cidrs,
    "cri_socket": _wrong_socket,
}
"""What is wrong with a value of the right type, in words; "" if nothing is."""


def _plain(hint: Any) -> type:
    """``str | None`` is read as ``str``: TOML has no null."""
    if isinstance(hint, types.UnionType):
        hint = next(h for h in typing.get_args(hint) if h is not type(None))
    return cast("type", typing.get_origin(hint) or hint)


def _value(where: str, name: str, kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str) and value.startswith("/"):
        return Path(value)
    if kind is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f'{where}: {name}: expected a list of texts, such as ["10.0.0.0/8"], got {value!r:.80}')
        value = tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is Path or not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = "an absolute path in quotes" if kind is Path else f"a value of type {kind.__name__}"
        raise ConfigError(f"{where}: {name}: expected {wanted}, got {value!r:.80}")
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (value < 0 or (name in _POSITIVE and not value))
    ):
        raise ConfigError(
            f"{where}: {name}: expected {'more than 0' if name in _POSITIVE else '0 or more'}, got {value}"
        )
    if name in _RULES and (wrong := _RULES[name](value)):
        raise ConfigError(f"{where}: {name}: {wrong}")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ConfigError(f"{where}: {name}: expected one of {', '.join(_CHOICES[name])}, got {value!r:.80}")
    if name == "metrics_listen":
        try:
            listen_address(str(value))
        except ValueError as error:
            raise ConfigError(f"{where}: {name}: {error}, got {value!r:.80}") from None
    return value


def parse(text: str, where: str = "node.toml") -> Config:
    """Read TOML text. Raises :class:`ConfigError`."""
    try:
        given: Mapping[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: is not TOML: {error}") from None
    hints = typing.get_type_hints(Config)
    unknown = sorted(given.keys() - hints.keys())
    if unknown:
        raise ConfigError(f"{where}: {unknown[0]}: no such setting; there are: {', '.join(sorted(hints))}")
    values: dict[str, Any] = {}
    for f in fields(Config):
        if f.name in given and f.name == "chain":
            try:
                values[f.name] = read_chain(given[f.name])
            except ValueError as error:
                raise ConfigError(f"{where}: chain: {error}") from None
        elif f.name in given:
            values[f.name] = _value(where, f.name, _plain(hints[f.name]), given[f.name])
        elif f.name in ("table", "reports_queue_url"):
            raise ConfigError(
                f"{where}: {f.name}: is missing; the stack's outputs TableName and NodeReportsQueueUrl have it"
            )
    return Config(**values)


def load(path: Path) -> Config:
    """Read the file at ``path``. Raises :class:`ConfigError`."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path))
