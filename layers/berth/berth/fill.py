"""Keeps standby pools at their level: makes what is missing, deletes what is no longer wanted. One run at a time.

Every interface goes through its item in the table: what is made enters it before a node can claim it, and what is
deleted is claimed for that first, by the same conditional write as a node's. Killed between any two steps, the next run
finishes the work: creations are repeated with their tokens or found by their tag, deletions are begun again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from berth.brake import Level as Pull
from berth.bus import Event, standby_pool_invalid
from berth.model import InterfaceView, PolicyProblem
from berth.policy import fingerprint
from berth.standby_items import StandbyItem
from berth.standby_levels import REPLAY_SECONDS, Level, level, obstacle
from berth.standby_pools import PARAMETER, StandbyPool, parse_pools
from berth.standby_stock import Creating
from berth.standby_work import FillEdges, NoTokenError, StandbyWork

__all__ = ["LEASE", "fill"]

logger = logging.getLogger(__name__)

LEASE: Final = "standby#filler"
LEASE_SLACK_SECONDS: Final = 30.0
SPARE_SECONDS: Final = 15.0
"""Time that a call and the writes after it may take; none is begun with less left."""


def fill(edges: FillEdges, seconds: float) -> Counter[str]:
    """One run, within ``seconds``. Returns counts for metrics.

    Each page of a describe draws on the token budget. Where that ends before all pools are seen, nothing is done.

    Raises :class:`~berth.ec2_wire.Ec2Error` if EC2 cannot be described; the next run tries again.
    """
    start, holder = edges.clock(), edges.token()
    if not edges.leases.take(LEASE, holder, start, start + seconds + LEASE_SLACK_SECONDS):
        logger.info("another run is at work")
        return Counter()
    work = StandbyWork(edges, start + seconds - SPARE_SECONDS)
    try:
        with suppress(NoTokenError):
            _run(edges, work)
    finally:
        edges.leases.release(LEASE, holder, None)
    return work.counts


@dataclass(slots=True)
class _Stand:
    """All pools. ``wanted`` are those of the parameter, with nothing to be kept where that is not allowed any more.

    ``barred`` says why nothing is made for a pool. ``problems`` are to be told; ``unreadable`` are some of the entries.
    """

    wanted: dict[str, StandbyPool]
    levels: dict[str, Level]
    creating: dict[str, Creating]
    barred: dict[str, str] = field(default_factory=dict)
    problems: list[PolicyProblem] = field(default_factory=list)
    unreadable: bool = False


def _run(edges: FillEdges, work: StandbyWork) -> None:
    stand = _look(edges, work)
    for key, found in stand.levels.items():
        work.adopt(found.strays)
        for item in (*found.missing, *found.past):
            edges.stock.forget(item)
        work.chase(found.held)
        _tell_level(edges, key, stand)
    _tell_problems(edges, work, stand.problems)
    pull = edges.brake.level()
    if pull is Pull.NORMAL:
        for key, found in stand.levels.items():
            kept = stand.wanted.get(key)
            known = kept is not None or not stand.unreadable
            work.reap(found.surplus(kept) if known else (), found.condemned)
    if pull is not Pull.READ_ONLY:
        for key in _neediest(stand):
            pool = stand.wanted[key]
            work.make(pool, stand.levels[key].wanting(pool), stand.creating[key])
    done = [k for k, found in stand.levels.items() if k not in stand.wanted and found.empty]
    for key in done:
        edges.stock.note_creating(key, Creating())
    if done:
        edges.stock.unregister(done)


def _look(edges: FillEdges, work: StandbyWork) -> _Stand:
    settings, now = edges.settings, edges.clock()
    pools, problems = parse_pools(settings.standby_pools, settings.clusters)
    wanted = {p.key: p for p in pools}
    loose = _by_pool(edges.ec2.loose(settings.clusters, work.pay))
    known = edges.stock.pools()
    new = sorted((wanted.keys() | loose.keys()) - known)
    if new:
        edges.stock.register(new)
    stand = _Stand(wanted, {}, {}, problems=list(problems), unreadable=bool(problems))
    for key in sorted({*known, *new}):
        items, noted = edges.stock.items(key)
        shown = loose.get(key, {})
        missing = level(items, shown, now).missing
        stand.levels[key] = level(items, shown | work.seek(missing), now)
        stand.creating[key] = _in_doubt(noted, items, stand.levels[key].strays, now)
    if pools:
        _judge(edges, work, stand)
    return stand


def _in_doubt(noted: Creating, items: Iterable[StandbyItem], strays: Iterable[InterfaceView], now: float) -> Creating:
    """Creations that nobody has heard of: not those that are certain to be described by now, nor if all are found."""
    began = float(int(noted.at))
    found = [i for i in (*(i.created_at for i in items), *(i.created_at for i in strays)) if i == began]
    over = now - noted.at >= REPLAY_SECONDS or len(found) >= noted.noted + len(noted.tokens)
    return Creating() if over else noted


def _judge(edges: FillEdges, work: StandbyWork, stand: _Stand) -> None:
    """Whether each pool's subnet and groups are still to be used."""
    pools = list(stand.wanted.values())
    try:
        places = edges.ec2.places({p.subnet_id for p in pools}, {g for p in pools for g in p.groups}, work.pay)
    except NoTokenError:
        stand.barred.update(dict.fromkeys(stand.wanted, "out of tokens to look at its subnet and groups"))
        return
    for pool in pools:
        why, leaves = obstacle(pool, places.subnets, places.groups, edges.settings.subnet_low_percent)
        if not why:
            continue
        stand.barred[pool.key] = why
        if leaves:
            stand.wanted[pool.key] = replace(pool, count=0, most=0)
            stand.problems.append(PolicyProblem(PARAMETER, pool.entry, f"{why}; what was made for it is deleted"))


def _neediest(stand: _Stand) -> Sequence[str]:
    """Pools for which something is to be made, the emptiest first."""
    keys = [k for k in stand.wanted if k not in stand.barred]
    return sorted(keys, key=lambda k: (len(stand.levels[k].ready) / max(stand.wanted[k].count, 1), k))


def _by_pool(interfaces: Iterable[InterfaceView]) -> dict[str, dict[str, InterfaceView]]:
    found: dict[str, dict[str, InterfaceView]] = {}
    for interface in interfaces:
        if interface.standby:
            found.setdefault(interface.standby, {})[interface.id] = interface
    return found


# ------------------------------------------------------------------------------------------------------- telling


def _tell_level(edges: FillEdges, key: str, stand: _Stand) -> None:
    found, pool = stand.levels[key], stand.wanted.get(key)
    edges.meters.stands("StandbyInterfaces", len(found.ready), pool=key)
    edges.meters.stands("StandbyIdleAddresses", found.idle_addresses, pool=key)
    shown: Mapping[str, object] = {
        "pool": key,
        "entry": pool.entry if pool else "",
        "ready": len(found.ready),
        "idle_addresses": found.idle_addresses,
        "unsettled": found.unsettled,
        "wanting": found.wanting(pool) if pool else 0,
        "surplus": len(found.surplus(pool)),
        "barred": stand.barred.get(key, ""),
    }
    logger.info("standby pool", extra=shown)


def _tell_problems(edges: FillEdges, work: StandbyWork, problems: Sequence[PolicyProblem]) -> None:
    work.counts["StandbyPoolsInvalid"] += len(problems)
    for problem in problems:
        logger.warning("standby pool not used", extra={"entry": problem.value, "error": problem.message})
    if edges.stock.news(fingerprint(problems)) and problems:
        told: list[Event] = [standby_pool_invalid(problems)]
        work.counts["EventsNotSent"] += edges.bus.send(told)
