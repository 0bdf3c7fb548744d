"""Standby pools as the stack's parameter names them. Pure.

One entry for each pool: ``subnet-0abc/sg-1+sg-2/prefixes=3/count=200/max=300/cluster=demo``. ``count`` interfaces are
kept ready, each with so many /28 prefixes; no more than ``max`` (``count`` unless given) exist that are not yet wholly
a node's. ``cluster`` may be left out where the stack serves one alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from berth.model import PREFIX_SIZE, PolicyProblem

__all__ = ["PARAMETER", "StandbyPool", "parse_pools"]

PARAMETER: Final = "StandbyPools"
_SUBNET: Final = re.compile(r"subnet-[0-9a-f]{8,17}")
_GROUP: Final = re.compile(r"sg-[0-9a-f]{8,17}")
_MOST: Final = {"prefixes": 49, "count": 5000, "max": 5000}
"""No type has more than 50 addresses on an interface; 5,000 interfaces are the default quota of a region."""
_GROUPS: Final = 16
_FORM: Final = "expected SUBNET/GROUP+GROUP/prefixes=N/count=N, then max=N and cluster=NAME as wanted"


@dataclass(frozen=True, slots=True)
class StandbyPool:
    """Interfaces that are alike: any of them will do. ``groups`` are sorted; ``entry`` is what the parameter says."""

    cluster: str
    subnet_id: str
    groups: tuple[str, ...]
    prefixes: int
    count: int
    most: int
    entry: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """Names what makes its interfaces alike, so that a changed count keeps them and anything else does not."""
        text = "\n".join((self.cluster, self.subnet_id, "+".join(self.groups), str(self.prefixes)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def addresses(self) -> int:
        """What each interface holds of its subnet: its prefixes and its own primary address."""
        return self.prefixes * PREFIX_SIZE + 1


class _BadEntryError(ValueError):
    pass


def parse_pools(
    entries: Iterable[str], clusters: Sequence[str]
) -> tuple[tuple[StandbyPool, ...], tuple[PolicyProblem, ...]]:
    """The pools, sorted by key, and what is wrong with the entries that give none. Empty entries are left out.

    A bad entry never stops the others. While there is one, :mod:`berth.fill` leaves pools alone that no entry names:
    they may be those that it was meant to name.
    """
    pools: dict[str, StandbyPool] = {}
    problems: list[PolicyProblem] = []
    for entry in (e.strip() for e in entries):
        if not entry:
            continue
        try:
            pool = _parse(entry, clusters)
            if pool.key in pools:
                raise _BadEntryError("another entry names the same cluster, subnet, groups and prefixes; leave one")
            pools[pool.key] = pool
        except _BadEntryError as error:
            problems.append(PolicyProblem(PARAMETER, entry, f"{error}; the entry is not used"))
    return tuple(sorted(pools.values(), key=lambda p: p.key)), tuple(problems)


def _parse(entry: str, clusters: Sequence[str]) -> StandbyPool:
    subnet, _, rest = entry.partition("/")
    groups, _, rest = rest.partition("/")
    if not _SUBNET.fullmatch(subnet):
        raise _BadEntryError(f"{_FORM}; {subnet!r} is no subnet id")
    names = tuple(sorted(set(groups.split("+"))))
    if not all(_GROUP.fullmatch(n) for n in names) or len(names) > _GROUPS:
        raise _BadEntryError(f"{_FORM}; {groups!r} is not 1 to {_GROUPS} security group ids joined by +")
    fields = _fields(rest)
    prefixes, count = _number(fields, "prefixes", 1), _number(fields, "count", 0)
    most = _number(fields, "max", 0) if "max" in fields else count
    if most < count:
        raise _BadEntryError(f"max={most} is below count={count}; raise it or leave it out")
    return StandbyPool(_cluster(fields, clusters), subnet, names, prefixes, count, most, entry)


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in text.split("/") if text else ():
        name, equals, value = part.partition("=")
        if not equals or name not in ("prefixes", "count", "max", "cluster"):
            raise _BadEntryError(f"{_FORM}; {part!r} is none of these")
        if name in fields:
            raise _BadEntryError(f"{name} is given twice")
        fields[name] = value
    return fields


def _number(fields: dict[str, str], name: str, least: int) -> int:
    text, most = fields.get(name, ""), _MOST[name]
    # isdecimal alone would accept other scripts' digits, which int() reads too but nobody means
    if text.isascii() and text.isdecimal() and len(text) <= 6 and least <= int(text) <= most:
        return int(text)
    given = f"got {text!r}" if name in fields else "it is missing"
    raise _BadEntryError(f"{name}: expected a whole number from {least} to {most}, {given}")


def _cluster(fields: dict[str, str], clusters: Sequence[str]) -> str:
    name = fields.get("cluster", clusters[0] if len(clusters) == 1 else "")
    if name in clusters:
        return name
    given = f"got {name!r}" if name else "it is missing"
    raise _BadEntryError(f"cluster: expected one of {', '.join(clusters)}, {given}")
