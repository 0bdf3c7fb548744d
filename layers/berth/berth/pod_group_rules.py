"""Which security groups pods may ask for: the stack's parameters ``PodGroupProfiles`` and ``PodGroupNamespaces``.

Entries are separated by commas, as in ``web=sg-0123abcd+sg-4567cdef,db=sg-89ab0123`` and ``payments=db+web,*=web``: a
name, and what it stands for. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from berth.model import PodGroups

__all__ = ["parse_pod_groups"]

_GROUP: Final = re.compile(r"sg-[0-9a-f]{8,17}")
_PROFILE: Final = re.compile(r"(?!sg-)[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NAMESPACE: Final = re.compile(r"\*|[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def parse_pod_groups(environ: Mapping[str, str]) -> PodGroups:
    """Read the environment. Raises ValueError, which names the variable and the entry."""
    profiles = _entries(
        environ, "POD_GROUP_PROFILES", _PROFILE, "a profile's name", _GROUP, "security group ids (sg-…)"
    )
    namespaces = _entries(
        environ,
        "POD_GROUP_NAMESPACES",
        _NAMESPACE,
        "a namespace or *",
        re.compile(rf"\*|{_GROUP.pattern}|{_PROFILE.pattern}"),
        "profiles, security group ids (sg-…) or *",
    )
    return PodGroups(profiles, namespaces)


def _entries(
    environ: Mapping[str, str],
    variable: str,
    key: re.Pattern[str],
    whose: str,
    value: re.Pattern[str],
    what: str,
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: dict[str, tuple[str, ...]] = {}
    for entry in filter(None, (e.strip() for e in environ.get(variable, "").split(","))):
        name, equals, listed = (part.strip() for part in entry.partition("="))
        names = tuple(sorted({n.strip() for n in listed.split("+")}))
        if not equals or not key.fullmatch(name):
            raise ValueError(f"{variable}: {entry!r:.80}: expected {whose}, then = and {what} joined by +")
        if not all(value.fullmatch(n) for n in names):
            raise ValueError(f"{variable}: {entry!r:.80}: expected {what} joined by + after the =")
        if name in found:
            raise ValueError(f"{variable}: {name} is there twice; join its entries by +")
        found[name] = names
    return tuple(sorted(found.items()))
