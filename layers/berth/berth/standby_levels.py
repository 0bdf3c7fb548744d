"""What a standby pool holds, and what is to be done about it. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from berth.contract import address_count
from berth.model import InterfaceView, SubnetView
from berth.standby_items import REAPER, StandbyItem
from berth.standby_pools import StandbyPool

__all__ = [
    "FORGET_SECONDS",
    "FRESH_SECONDS",
    "GIVE_BACK_SECONDS",
    "REPLAY_SECONDS",
    "SETTLE_SECONDS",
    "Level",
    "level",
    "obstacle",
]

FORGET_SECONDS: Final = 600.0
"""So long after it was settled an interface is remembered: a describe that lags must not bring it back to its pool."""
REPLAY_SECONDS: Final = 600.0
"""After this long what EC2 was asked for is certain to be described, if it was done."""
FRESH_SECONDS: Final = 120.0
"""So long after it was made an interface may not be described yet."""
GIVE_BACK_SECONDS: Final = 3600.0
"""So long a claimed interface may be attached to nothing before it goes back to its pool. Only a claimer that nobody
remembers leaves it so: what a living or dying node has claimed, its own looks attach or delete."""
SETTLE_SECONDS: Final = 120.0
"""A claim that is this old and not settled is worth a look at its node."""


@dataclass(frozen=True, slots=True)
class Level:
    """One pool, each interface in one of these.

    ``ready`` can be claimed. ``strays`` are in EC2 and not in the table; ``missing`` the other way round. ``condemned``
    are the reaper's, ``held`` were claimed by a node a while ago and are not settled, ``recent`` a moment ago. ``done``
    are settled; of those, ``past`` are long enough settled.
    """

    ready: tuple[StandbyItem, ...] = ()
    strays: tuple[InterfaceView, ...] = ()
    missing: tuple[StandbyItem, ...] = ()
    condemned: tuple[StandbyItem, ...] = ()
    held: tuple[StandbyItem, ...] = ()
    recent: tuple[StandbyItem, ...] = ()
    past: tuple[StandbyItem, ...] = ()
    done: tuple[StandbyItem, ...] = ()

    @property
    def unsettled(self) -> int:
        """All that exist and are not wholly a node's."""
        parts = (self.ready, self.strays, self.condemned, self.held, self.recent)
        return sum(map(len, parts))

    @property
    def idle_addresses(self) -> int:
        """What the ready ones hold of their subnet, with a primary address each."""
        return sum(1 + sum(map(address_count, i.interface.blocks)) for i in self.ready)

    @property
    def empty(self) -> bool:
        return not (self.unsettled or self.missing or self.done)

    def wanting(self, pool: StandbyPool) -> int:
        """How many are to be made: up to the count, and never beyond the most."""
        return max(min(pool.count - len(self.ready) - len(self.strays), pool.most - self.unsettled), 0)

    def surplus(self, pool: StandbyPool | None) -> tuple[StandbyItem, ...]:
        """Those beyond the count, the oldest first; all of a pool that is no longer wanted. Strays must be adopted."""
        strays = (StandbyItem(i, i.created_at or 0.0) for i in self.strays)
        oldest = sorted((*self.ready, *strays), key=lambda i: (i.created_at, i.interface.id))
        return tuple(oldest[: max(len(oldest) - (pool.count if pool else 0), 0)])


def level(items: Iterable[StandbyItem], loose: Mapping[str, InterfaceView], now: float) -> Level:
    """Sort a pool's ``items`` and the ``loose`` interfaces that EC2 shows of it."""
    known = tuple(items)
    unclaimed = [i for i in known if not i.claimed_by]
    open_claims = [i for i in known if i.claimed_by not in ("", REAPER) and not i.settled_at]
    done = tuple(i for i in known if i.settled_at)
    # one that is not shown and young may only not be shown yet; it counts as ready, for it will be
    gone = {i.interface.id for i in unclaimed if i.interface.id not in loose and now - i.created_at > FRESH_SECONDS}
    ids = {i.interface.id for i in known}
    return Level(
        ready=tuple(i for i in unclaimed if i.interface.id not in gone),
        strays=tuple(loose[i] for i in sorted(loose.keys() - ids)),
        missing=tuple(i for i in unclaimed if i.interface.id in gone),
        condemned=tuple(i for i in known if i.claimed_by == REAPER and not i.settled_at),
        held=tuple(i for i in open_claims if now - i.claimed_at > SETTLE_SECONDS),
        recent=tuple(i for i in open_claims if now - i.claimed_at <= SETTLE_SECONDS),
        past=tuple(i for i in done if now - i.settled_at > FORGET_SECONDS),
        done=done,
    )


def obstacle(
    pool: StandbyPool, subnets: Mapping[str, SubnetView], groups: frozenset[str], low_percent: int
) -> tuple[str, bool]:
    """Why nothing may be made for the pool ("": it may), and whether what it has must go too."""
    subnet = subnets.get(pool.subnet_id)
    if subnet is None:
        return f"{pool.subnet_id} does not exist", False
    if not subnet.allowed:
        return f"{pool.subnet_id} is not tagged berth:allowed", True
    barred = sorted(set(pool.groups) - groups)
    if barred:
        return f"{', '.join(barred)}: not there, or not tagged berth:allowed", True
    size = ipaddress.ip_network(subnet.cidr).num_addresses if subnet.cidr else 0
    if (subnet.free - pool.addresses) * 100 < low_percent * size:
        return f"{pool.subnet_id} has {subnet.free} free addresses; nodes need the last {low_percent} %", False
    return "", False
