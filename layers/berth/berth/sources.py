"""Chooses which interfaces bring missing addresses with the fewest mutating calls. Pure, and free of EC2's words.

Addresses come from *hosts*, interfaces with room (one call each), and from new interfaces (:data:`NEW_COST` calls
each: create, attach, DeleteOnTermination). Both lie in *sites*, which are subnets: where single addresses are assigned,
a site's free ones bound what all of them take together. The fewest calls win, then the fewest new interfaces, then the
order in which hosts and sites are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

__all__ = ["NEW_COST", "Choice", "Host", "Site", "choose"]

NEW_COST: Final = 3


@dataclass(frozen=True, slots=True)
class Host:
    """An interface that takes ``room`` more blocks, of its site's size."""

    id: str
    site: str
    room: int


@dataclass(frozen=True, slots=True)
class Site:
    """A subnet in which each block has ``per`` addresses. A new interface there takes ``new`` blocks; 0: none is made.

    ``free`` addresses are there for single ones (``per`` 1) and for the primary addresses of new interfaces; blocks of
    more come from ranges that no count tells of. ``rooms`` are of the hosts that may still be chosen, the largest
    first; ``room`` is of those that have been, as ``made`` counts new interfaces.
    """

    id: str
    per: int
    free: int
    new: int = 0
    rooms: tuple[int, ...] = ()
    room: int = 0
    made: int = 0

    def reach(self, hosts: int, new: int) -> int:
        """Addresses from the ``hosts`` largest hosts and ``new`` interfaces, beside what is chosen already."""
        made = self.made + new
        blocks = self.room + sum(self.rooms[:hosts]) + made * self.new
        return blocks * self.per if self.per > 1 else min(self.free - made, blocks)

    @property
    def most_new(self) -> int:
        """New interfaces that it has primary addresses for, and at least one more for each where they bound it."""
        return (self.free // (2 if self.per == 1 else 1) if self.new else 0) - self.made

    def with_host(self, room: int) -> Site:
        rest = list(self.rooms)
        rest.remove(room)
        return replace(self, rooms=tuple(rest), room=self.room + room)


@dataclass(frozen=True, slots=True)
class Choice:
    """``hosts`` are (host, blocks) and ``new`` (site, blocks) in the order to call; ``brought`` counts addresses."""

    hosts: tuple[tuple[Host, int], ...] = ()
    new: tuple[tuple[Site, int], ...] = ()
    brought: int = 0


def choose(hosts: Sequence[Host], sites: Sequence[Site], most_new: int, wanted: int) -> Choice:
    """The cheapest way to ``wanted`` addresses; if there is none, the cheapest to as many as can be had.

    ``sites`` must hold every host's site; their ``rooms`` are filled in here. ``most_new`` bounds new interfaces.
    """
    if wanted <= 0:
        return Choice()
    rooms: dict[str, list[int]] = {s.id: [] for s in sites}
    for host in hosts:
        rooms[host.site].append(host.room)
    known = {s.id: replace(s, rooms=tuple(sorted(rooms[s.id], reverse=True))) for s in sites}
    count, new, wanted = _cheapest(list(known.values()), len(hosts), most_new, wanted)
    picked, known = _pick_hosts(hosts, known, count, new, wanted)
    made = _pick_sites(known, new, wanted)
    return _fill(picked, made, known, wanted)


def _cheapest(sites: list[Site], hosts: int, most_new: int, wanted: int) -> tuple[int, int, int]:
    """(hosts, new interfaces, addresses to reach): the cheapest pair for ``wanted``, or for the most there is."""
    best = (0, 0, 0)
    bound = NEW_COST
    while True:
        table = _table(sites, hosts, most_new, bound)
        for count, new in _by_cost(hosts, most_new, bound):
            reach = table.get((count, new), 0)
            if reach >= wanted:
                return count, new, wanted
            if reach > best[2]:
                best = count, new, reach
        if bound >= hosts + NEW_COST * most_new:
            return best
        bound, best = bound * 3, (0, 0, 0)


def _by_cost(hosts: int, most_new: int, bound: int) -> Iterator[tuple[int, int]]:
    """Pairs of hosts and new interfaces that cost up to ``bound`` calls, the cheapest first, then the fewest new."""
    for cost in range(1, bound + 1):
        for new in range(min(most_new, cost // NEW_COST) + 1):
            if cost - NEW_COST * new <= hosts:
                yield cost - NEW_COST * new, new


def _table(sites: Sequence[Site], hosts: int, most_new: int, bound: int) -> dict[tuple[int, int], int]:
    """The most addresses that so many hosts and new interfaces reach, by their numbers, up to ``bound`` calls."""
    table = {(0, 0): 0}
    for site in sites:
        options = [
            (h, n, site.reach(h, n))
            for n in range(min(site.most_new, most_new, bound // NEW_COST) + 1)
            for h in range(min(len(site.rooms), hosts, bound - NEW_COST * n) + 1)
        ]
        merged: dict[tuple[int, int], int] = {}
        for (h0, n0), reach0 in table.items():
            for h, n, reach in options:
                key = (h0 + h, n0 + n)
                if key[0] <= hosts and key[1] <= most_new and key[0] + NEW_COST * key[1] <= bound:
                    merged[key] = max(merged.get(key, 0), reach0 + reach)
        table = merged
    return table


def _can(sites: Sequence[Site], hosts: int, new: int, wanted: int) -> bool:
    return _table(sites, hosts, new, hosts + NEW_COST * new).get((hosts, new), 0) >= wanted


def _pick_hosts(
    hosts: Sequence[Host], known: dict[str, Site], count: int, new: int, wanted: int
) -> tuple[list[Host], dict[str, Site]]:
    """The first hosts, in their order, with which ``count`` of them and ``new`` interfaces still reach ``wanted``."""
    picked: list[Host] = []
    rest = known
    for place, host in enumerate(hosts):
        missing = count - len(picked)
        if not missing:
            break
        tried = {**rest, host.site: rest[host.site].with_host(host.room)}
        if missing == len(hosts) - place or _can(list(tried.values()), missing - 1, new, wanted):
            picked.append(host)
            rest = tried
        else:
            spared = list(rest[host.site].rooms)
            spared.remove(host.room)
            rest = {**rest, host.site: replace(rest[host.site], rooms=tuple(spared))}
    return picked, rest


def _pick_sites(known: dict[str, Site], new: int, wanted: int) -> list[str]:
    made: list[str] = []
    for left in range(new - 1, -1, -1):
        for name, site in known.items():
            tried = {**known, name: replace(site, made=site.made + 1)}
            if site.most_new > 0 and _can(list(tried.values()), 0, left, wanted):
                made.append(name)
                known = tried
                break
    return made


def _fill(picked: Sequence[Host], made: Sequence[str], known: dict[str, Site], wanted: int) -> Choice:
    """Give each its blocks, the first as many as it takes."""
    free = {s.id: s.free - made.count(s.id) for s in known.values()}
    brought = 0

    def blocks(site: Site, room: int) -> int:
        nonlocal brought
        count = min(room, -(-(wanted - brought) // site.per))
        if site.per == 1:
            count = min(count, free[site.id])
            free[site.id] -= count
        brought += count * site.per
        return count

    hosts = tuple((h, blocks(known[h.site], h.room)) for h in picked)
    new = tuple((known[name], blocks(known[name], known[name].new)) for name in made)
    return Choice(tuple(x for x in hosts if x[1]), tuple(x for x in new if x[1]), brought)
