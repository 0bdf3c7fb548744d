"""Replacing parts of moto. Every replacement names what it replaces, so that a moto that moved says so at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .changes import notify

__all__ = ["announce", "replace"]


def replace(owner: Any, name: str, replacement: Any) -> Any:
    """Put ``replacement`` at ``owner.name`` and return what was there. ``AttributeError`` if nothing was."""
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    return original


def announce(owner: Any, *names: str) -> None:
    """Make each of the methods tell the subscribers of changes when it has returned."""
    for name in names:
        setattr(owner, name, _announcing(getattr(owner, name)))


def _announcing(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        notify()
        return result

    return call
