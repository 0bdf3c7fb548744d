"""Requests of pods that cannot be met now, and when a report that repeats them is worth a look again. Pure.

An empty pool, a group that is not allowed or a node without room stays so for a while, and each look costs describes.
So a request that a look has answered with a problem is looked for ever less often, up to :data:`MOST_SECONDS`; whatever
else has its node looked at looks for it too. It is known by what asks and for what, not by its id: kubelet tries a pod
again in a new sandbox, whose request has a new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from berth.contract import PodGrant, PodRequest, Record, Report
from berth.model import Unmet

__all__ = ["FIRST_SECONDS", "KEPT_SECONDS", "MOST_SECONDS", "asks_anew", "note_unmet"]

FIRST_SECONDS: Final = 15.0
MOST_SECONDS: Final = 300.0
"""So long after there is what it asks for, or so short, a pod that is tried again has it."""
KEPT_SECONDS: Final = 600.0
"""A request that nobody makes is remembered for so long after it was due: its pod may be tried again."""
_MOST_KEPT: Final = 512
"""Of one node, which has fewer pods. Those that are left out are looked for with each report."""
_JITTER: Final = 0.25


def asks_anew(report: Report, record: Record, unmet: Iterable[Unmet], now: float) -> bool:
    """Whether a look could act upon what pods ask for: it is more than the record grants, or less, and not put off.

    Without ``now`` nothing is put off. A problem that was told to a request which nobody makes any more is none.
    """
    if not report.requests and not record.grants:
        return False  # nearly every node
    own = {i.pod for i in record.interfaces if i.pod}
    if own - {r.id for r in report.requests} or any(
        r.groups and r.id in own and not r.address for r in report.requests
    ):
        return True  # an interface to take back, or its pod waits to be told that it has it
    put_off = {u.key for u in unmet if now and now < u.until}
    open_now = (*map(_key, _lacking(report, record)), *map(_kept_key, _over(report, record)))
    return any(key not in put_off for key in open_now)


def note_unmet(
    before: Iterable[Unmet], report: Report | None, record: Record, node: str, now: float
) -> tuple[Unmet, ...]:
    """What is to be noted after a look at ``node`` that has answered ``report`` with ``record``.

    One that was due is put off for twice as long; one that was not stays due when it was.
    """
    if report is None:
        return ()
    problems = {g.id for g in record.grants if g.problem}
    lacking = _lacking(report, record)
    told = [_key(r) for r in lacking if r.id in problems]
    told += [_kept_key(g) for g in _over(report, record) if g.problem]
    met = {_key(r) for r in report.requests if r not in lacking}
    known = {u.key: u for u in before if u.key not in met and now < u.until + KEPT_SECONDS}
    for key in told:
        last = known.get(key)
        if last is None or now >= last.until:
            looks = last.looks + 1 if last else 0
            known[key] = Unmet(key, looks, now + _wait(f"{node} {key} {looks}", looks))
    latest = sorted(known.values(), key=lambda u: (-u.until, u.key))[:_MOST_KEPT]
    return tuple(sorted(latest, key=lambda u: u.key))


def _lacking(report: Report, record: Record) -> list[PodRequest]:
    """Requests that have not got all they ask for."""
    public = {(g.id, g.address) for g in record.grants if g.public_address}
    own = {i.pod for i in record.interfaces if i.pod}
    return [
        r for r in report.requests if (r.public and (r.id, r.address) not in public) or (r.groups and r.id not in own)
    ]


def _over(report: Report, record: Record) -> Iterator[PodGrant]:
    """What is granted to requests that are made no more."""
    listed, public = {r.id for r in report.requests}, {r.id for r in report.requests if r.public}
    for g in record.grants:
        if (g.public_address and g.id not in public) or (g.interface_id and g.id not in listed):
            yield g


def _key(r: PodRequest) -> str:
    return _digest(r.namespace, r.name, r.uid, r.public, r.groups, "" if r.uid or r.name else r.id)


def _kept_key(g: PodGrant) -> str:
    return _digest("kept", g.id, g.allocation_id)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _wait(seed: str, looks: int) -> float:
    """Doubling, with a jitter that is the same for the same node and request: nodes do not march in step."""
    spread = int(hashlib.sha256(seed.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
    return float(min(FIRST_SECONDS * 2.0 ** min(looks, 10), MOST_SECONDS) * (1 - _JITTER * spread))
