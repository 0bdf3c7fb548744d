"""The last phase of a sweep: subnets that run low on addresses, or have no free /28 although addresses are left."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Final

from berth.bus import subnet_low
from berth.free_blocks import BlockMap, Room, usable_size
from berth.model import PREFIX_SIZE, SubnetView
from berth.sweep_run import OutOfTimeError, Run
from berth.sweep_store import Told

__all__ = ["subnets_page"]

TELL_AGAIN_SECONDS: Final = 3600.0
"""A shortage is told once an hour while it lasts, and sooner when it got worse."""
LOOK_AGAIN_SECONDS: Final = 900.0
"""So long a suspected subnet that was found in order is left alone: looking costs a walk over all its interfaces."""


def subnets_page(run: Run, subnets: Iterable[SubnetView], suspects: Container[str], told: dict[str, Told]) -> None:
    """Tell of shortages. ``suspects`` are subnets in which a node got no prefix; ``told`` is updated."""
    for subnet in subnets:
        if not subnet.cidr:  # IPv6 alone
            continue
        try:
            _subnet(run, subnet, subnet.id in suspects, told)
        except OutOfTimeError:
            raise
        except Exception:  # one subnet's trouble does not stop the others
            run.trouble(f"subnet {subnet.id}")


def _subnet(run: Run, subnet: SubnetView, suspected: bool, told: dict[str, Told]) -> None:
    low = _scarce(run, subnet.free, subnet)
    if not low and not suspected:
        told.pop(subnet.id, None)
        return
    last, now = told.get(subnet.id), run.edges.clock()
    if last is not None and not _due(last, subnet.free, now):
        _count(run, last.shortage)
        return
    try:
        room = _room(run, subnet)
    except OutOfTimeError:
        # the next run does not begin this walk again at once: a subnet so large must not hold up the others
        _tell(run, subnet, None, ("addresses",) if low else (), told)
        raise
    block_map, for_prefixes = room
    found = block_map.room()
    scarce = _scarce(run, found.free_prefixes * PREFIX_SIZE, subnet)
    # addresses in ranges that are reserved for prefixes do not count as free: where they are left, nothing is short
    low = low and not (for_prefixes and not scarce)
    shortage = (("addresses",) if low else ()) + (("prefixes",) if scarce else ())
    _tell(run, subnet, found, shortage, told)


def _scarce(run: Run, free: int, subnet: SubnetView) -> bool:
    return free * 100 < run.edges.settings.subnet_low_percent * usable_size(subnet.cidr)


def _due(last: Told, free: int, now: float) -> bool:
    """Whether to look again. Worse is: none left, or half of what was left when it was told."""
    if now - last.at >= (TELL_AGAIN_SECONDS if last.shortage else LOOK_AGAIN_SECONDS):
        return True
    return free < last.free and (free == 0 or free * 2 <= last.free)


def _room(run: Run, subnet: SubnetView) -> tuple[BlockMap, bool]:
    """Every address in use, whoever has it, page by page: memory is that of the map. And: is a range for prefixes?"""
    block_map, for_prefixes, survey = BlockMap(subnet.cidr), False, run.edges.survey
    for reservation in run.all("GetSubnetCidrReservations", survey.reserved, subnet.id):
        for_prefixes |= reservation.for_prefixes
        if not reservation.for_prefixes:
            block_map.use([reservation.cidr])
    for block in run.all("DescribeNetworkInterfaces", survey.used, subnet.id):
        block_map.use([block])
    return block_map, for_prefixes


def _tell(run: Run, subnet: SubnetView, room: Room | None, shortage: tuple[str, ...], told: dict[str, Told]) -> None:
    known = room.free_prefixes if room else -1
    told[subnet.id] = Told(run.edges.clock(), subnet.free, known, shortage)
    _count(run, shortage)
    if not shortage:
        return
    event = subnet_low(subnet.id, subnet.zone, subnet.free, usable_size(subnet.cidr), shortage, room)
    run.counts["EventsNotSent"] += run.edges.bus.send([event])


def _count(run: Run, shortage: Iterable[str]) -> None:
    names: Mapping[str, str] = {"addresses": "SubnetsLow", "prefixes": "SubnetsFragmented"}
    run.counts.update(names[s] for s in shortage)
