"""The pool: which address a pod gets, when one may be lent again, and which blocks the node can give back.

Pure: a :class:`Pool` is a frozen value and each transition returns a new one. Times are seconds of one clock that the
caller passes in. Nothing is lent from a block that is unusable, surrendered or marked releasing.

An address's life: free → lent → cooling → free. A block's: listed → surrendered → releasing (marked by a Lambda) →
gone from the record; until it is marked, the agent may take it back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from berth.contract import Policy, Surrender, address_count

from berth_node.stock import Stock
from berth_node.usable import Block, addresses_of

__all__ = ["Key", "Pool", "Refusal", "Waiter"]

Key: TypeAlias = tuple[str, str]
"""(container id, interface name)."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """A pod whose ADD found no address. ``uid`` is the pod's, or the container's id where the runtime names no pod."""

    key: Key
    uid: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A pod whose ADD gave up waiting (CNI code 11): the runtime asks again soon, with a new container.

    Its demand stands until ``until``, so that reports do not flap between two attempts. ``cleaned``: the DEL has come
    with which a runtime clears up after a failed ADD, and which says nothing of the pod itself.
    """

    key: Key
    until: float
    cleaned: bool = False


def _given_up(block: Block, surrendered: Iterable[Surrender]) -> bool:
    return any(s.assignment == block.assignment and s.cidr == block.cidr for s in surrendered)


@dataclass(frozen=True, slots=True)
class _Counted:
    """A stock and what it was counted from: of other values, it has to be counted anew."""

    stock: Stock
    blocks: tuple[Block, ...]
    surrendered: tuple[Surrender, ...]
    lent: Mapping[Key, str]
    cooling: Mapping[str, float]
    soonest: float
    """No address stops cooling before."""


@dataclass(frozen=True, slots=True)
class Pool:
    """All of a node's pool. ``blocks`` are all blocks of the record in lending order; ``cooling`` is address → until,
    ``refused`` is pod uid → refusal. ``unflushed`` are those cooling addresses of which the kernel may still know
    connections: they cool until it does not (:meth:`flushed`), however long that takes.

    ``surplus_since`` is when there first was more than the target, None while there is not.
    """

    policy: Policy = field(default_factory=Policy)
    blocks: tuple[Block, ...] = ()
    lent: Mapping[Key, str] = field(default_factory=dict)
    cooling: Mapping[str, float] = field(default_factory=dict)
    unflushed: frozenset[str] = frozenset()
    waiting: tuple[Waiter, ...] = ()
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    surrendered: tuple[Surrender, ...] = ()
    surplus_since: float | None = None
    _counted: _Counted | None = field(default=None, compare=False, repr=False)

    # ------------------------------------------------------------------------------------------- what it is

    @property
    def lendable(self) -> tuple[Block, ...]:
        """Blocks that addresses are lent from, in order."""
        return tuple(b for b in self.blocks if b.usable and not _given_up(b, self.surrendered))

    @property
    def asking(self) -> tuple[str, ...]:
        """The uids of the pods that have no address, each once however often its runtime tries."""
        return tuple(dict.fromkeys((*(w.uid for w in self.waiting), *self.refused)))

    @property
    def demand(self) -> tuple[str, ...]:
        """Those of them that need one of this pool, which is IPv4's."""
        return () if self.policy.ip_families == "ipv6" else self.asking

    @property
    def need(self) -> int:
        """Addresses that pods hold or wait for."""
        return len(self.lent) + len(self.demand)

    @property
    def wanted(self) -> int:
        """Addresses the node wants assigned for its pods and its warm reserve."""
        return min(self.policy.max_pods, self.need + self.policy.warm_addresses)

    @property
    def supply(self) -> int:
        """Addresses of lendable blocks that pods hold or could hold now."""
        return self._stock.supply

    @property
    def deficit(self) -> int:
        """How many addresses are missing, as the Lambdas reckon it (DESIGN, Target)."""
        least = min(self.policy.max_pods, self.policy.minimum_addresses)
        return max(self.wanted - self.supply, least - self._stock.kept, 0)

    @property
    def free(self) -> int:
        """Addresses that could be lent now."""
        return self._stock.free

    @property
    def cooling_outside_surrendered(self) -> int:
        """Cooling addresses of listed blocks that are not surrendered."""
        return self._stock.cooling

    def block_of(self, address: str) -> Block | None:
        """The listed block that an address belongs to."""
        return self._stock.block_of(address)

    @property
    def _stock(self) -> Stock:
        return self._count().stock

    def _count(self) -> _Counted:
        """The counts, kept with this value once made: nobody can see whether they were."""
        counted = self._counted
        if counted is None or not (
            counted.lent is self.lent
            and counted.cooling is self.cooling
            and counted.blocks is self.blocks
            and counted.surrendered is self.surrendered
        ):
            given_up = tuple(b.spared or _given_up(b, self.surrendered) for b in self.blocks)
            stock = Stock.of(self.blocks, given_up, self.lent.values(), self.cooling)
            soonest = min(self.cooling.values(), default=math.inf)
            counted = _Counted(stock, self.blocks, self.surrendered, self.lent, self.cooling, soonest)
            object.__setattr__(self, "_counted", counted)
        return counted

    def _made(self, counts: Mapping[str, Iterable[str]], soonest: float | None = None, **fields: Any) -> Pool:
        """A new value, with these fields, whose counts are this one's and what changed (see ``Stock.changed``)."""
        old = self._count()
        kept = (self.blocks, self.surrendered, fields.get("lent", self.lent), fields.get("cooling", self.cooling))
        counted = _Counted(old.stock.changed(**counts), *kept, old.soonest if soonest is None else soonest)
        # on the way of each ADD and DEL: dataclasses.replace() takes twice as long
        made = object.__new__(Pool)
        for name in _FIELDS:
            object.__setattr__(made, name, fields[name] if name in fields else getattr(self, name))
        object.__setattr__(made, "_counted", counted)
        return made

    # --------------------------------------------------------------------------------------------- lending

    def cooled(self, now: float) -> Pool:
        """Forget cooling and refusals that are over."""
        pool = self
        if any(r.until <= now for r in self.refused.values()):
            pool = replace(pool, refused={uid: r for uid, r in self.refused.items() if r.until > now})
        if pool._count().soonest > now:
            return pool
        left = {a: until for a, until in self.cooling.items() if until > now or a in self.unflushed}
        gone = self.cooling.keys() - left.keys()
        return pool._made({"cooled": gone}, self._soonest(left), cooling=left)

    def choose(self) -> str | None:
        """The next address: from the first interface that has one, its fullest block, the lowest address.

        Filling one block before the next keeps whole prefixes idle, and only an idle prefix can be given back. Single
        addresses beside prefixes come last: some pods can have no other.
        """
        return self._stock.choose()

    def choose_single(self) -> str | None:
        """The same among single addresses, for a pod that must not share a prefix."""
        return self._stock.choose_single()

    @property
    def singles_taken(self) -> int:
        """Single addresses that no further pod can have one of now: 0 on a node that has no prefixes as well."""
        return self._stock.singles_taken if self.policy.mode == "prefixes" else 0

    def lend(self, key: Key, address: str, uid: str = "") -> Pool:
        """Record that ``key`` has ``address`` (chosen before, or found in the kernel) and its pod waits no more."""
        waiting = tuple(w for w in self.waiting if w.key != key)
        refused = {u: r for u, r in self.refused.items() if u != uid} if self.refused else self.refused
        lent, unflushed = {**self.lent, key: address}, self.unflushed - {address}
        # an address that was waiting to be flushed is counted anew, since its cooling may be over from now on
        if key in self.lent or self._stock.holds(address) or address in self.unflushed:
            return replace(self, lent=lent, unflushed=unflushed, waiting=waiting, refused=refused, _counted=None)
        return self._made({"used": [address]}, lent=lent, unflushed=unflushed, waiting=waiting, refused=refused)

    def served(self, key: Key, uid: str) -> Pool:
        """The pod has an address that is none of this pool, and waits no more."""
        waiting = tuple(w for w in self.waiting if w.key != key)
        return replace(self, waiting=waiting, refused={u: r for u, r in self.refused.items() if u != uid})

    def _soonest(self, cooling: Mapping[str, float]) -> float:
        """Unflushed ones end with :meth:`flushed`; looking at them until then would be in vain."""
        return min((until for a, until in cooling.items() if a not in self.unflushed), default=math.inf)

    def flushed(self, addresses: Iterable[str]) -> Pool:
        """The kernel knows no connection of these any more. Those whose cooling is over are free from the next
        :meth:`cooled` on."""
        unflushed = self.unflushed.difference(addresses)
        ends = min((self.cooling.get(a, math.inf) for a in self.unflushed - unflushed), default=math.inf)
        return self._made({}, min(self._count().soonest, ends), unflushed=unflushed)

    def release(self, key: Key, until: float, *, flush: bool = False) -> Pool:
        """Take back what ``key`` has; the address cools until then, and until it is flushed if it must be."""
        address = self.lent.get(key)
        if address is None:
            return self
        lent = dict(self.lent)
        del lent[key]
        if address in lent.values():
            return self._made({}, lent=lent)
        return self._cool([address], until, flush, unused=[address], lent=lent)

    def cool(self, addresses: Iterable[str], until: float, *, flush: bool = False) -> Pool:
        """Let addresses cool at least until then, and until flushed if they must be, but not those that pods hold."""
        used = frozenset(self.lent.values())
        return self._cool([a for a in addresses if a not in used], until, flush)

    def _cool(
        self, addresses: Sequence[str], until: float, flush: bool, *, unused: Sequence[str] = (), **fields: Any
    ) -> Pool:
        if not addresses:
            return self
        cooling = {**self.cooling, **{a: max(until, self.cooling.get(a, until)) for a in addresses}}
        unflushed = self.unflushed.union(addresses) if flush else self.unflushed
        soonest = min(self._count().soonest, until)
        counts = {"cooling": addresses, "unused": unused}
        return self._made(counts, soonest, cooling=cooling, unflushed=unflushed, **fields)

    def wait(self, waiter: Waiter) -> Pool:
        """Queue a pod; a second time changes nothing."""
        if any(w.key == waiter.key for w in self.waiting):
            return self
        refused = {uid: r for uid, r in self.refused.items() if uid != waiter.uid}
        return replace(self, waiting=(*self.waiting, waiter), refused=refused)

    def unwait(self, key: Key) -> Pool:
        """Forget a waiting pod."""
        return replace(self, waiting=tuple(w for w in self.waiting if w.key != key))

    def refuse(self, waiter: Waiter, until: float) -> Pool:
        """The pod waits no more, but is expected to ask again."""
        return replace(self.unwait(waiter.key), refused={**self.refused, waiter.uid: Refusal(waiter.key, until)})

    def deleted(self, key: Key) -> Pool:
        """A DEL of an attachment that has no address: the first after its refusal is the runtime's clean-up, the next
        one means that the pod will not come back."""
        found = next(((uid, r) for uid, r in self.refused.items() if r.key == key), None)
        if found is None:
            return self
        uid, refusal = found
        others = {u: r for u, r in self.refused.items() if u != uid}
        return replace(self, refused=others if refusal.cleaned else {**others, uid: replace(refusal, cleaned=True)})

    # --------------------------------------------------------------------------------------------- giving back

    def refreshed(self, blocks: tuple[Block, ...], policy: Policy) -> Pool:
        """Take over what the record lists now. A surrendered block that it lists no more is done with."""
        listed = {(b.cidr, b.assignment) for b in blocks}
        kept = tuple(s for s in self.surrendered if (s.cidr, s.assignment) in listed)
        return replace(self, blocks=blocks, policy=policy, surrendered=kept)

    def balanced(self, now: float, hold: float) -> Pool:
        """Take surrendered blocks back if demand returned; surrender idle ones after ``hold`` seconds of surplus.

        Only whole idle blocks go, prefixes before single addresses (one call gives back more), the last in lending
        order first, and only while the target stays covered. One block always stays, even if nothing is wanted: a node
        without any address would never be ready, nor get a pod. Idle blocks of a spared interface go at once: nothing
        is lent of them.
        """
        pool = self._without_used_surrenders()._take_back()._without_spared()
        if pool.surrendered != self.surrendered:
            return replace(pool, surplus_since=None)
        spare = pool._spare()
        if not spare:
            return pool if pool.surplus_since is None else replace(pool, surplus_since=None)
        if pool.surplus_since is None:
            pool = replace(pool, surplus_since=now)
        if pool.surplus_since is None or now - pool.surplus_since < hold:
            return pool
        added = tuple(Surrender(mac=b.mac, cidr=b.cidr, assignment=b.assignment) for b in spare)
        return replace(pool, surrendered=(*pool.surrendered, *added), surplus_since=None)

    def _without_used_surrenders(self) -> Pool:
        """A surrendered block that a pod holds an address of is not given up: see Desk.balance for how it can be."""
        if not self.surrendered:
            return self
        used = frozenset(self.lent.values())
        kept = tuple(s for s in self.surrendered if used.isdisjoint(addresses_of(s.cidr)))
        return self if kept == self.surrendered else replace(self, surrendered=kept)

    def _without_spared(self) -> Pool:
        spared = [b for b in self.blocks if b.spared and b.shown and not _given_up(b, self.surrendered)]
        if not spared:
            return self
        busy = {*self.lent.values(), *self.cooling}
        idle = [b for b in spared if busy.isdisjoint(addresses_of(b.cidr))]
        added = tuple(Surrender(mac=b.mac, cidr=b.cidr, assignment=b.assignment) for b in idle)
        return replace(self, surrendered=(*self.surrendered, *added)) if added else self

    def _take_back(self) -> Pool:
        pool = self
        back = {(b.cidr, b.assignment) for b in self.blocks if b.usable}  # usable: not marked releasing
        for s in reversed(self.surrendered):
            if pool.deficit <= 0:
                break
            if (s.cidr, s.assignment) in back:
                pool = replace(pool, surrendered=tuple(x for x in pool.surrendered if x != s))
        return pool

    def _spare(self) -> list[Block]:
        above_wanted = self.supply - self.wanted
        above_least = self._stock.kept - max(1, min(self.policy.max_pods, self.policy.minimum_addresses))
        spare: list[Block] = []
        if above_wanted <= 0 or above_least <= 0:
            return spare
        # idle() has the last first, and sorting leaves blocks of one size in this order
        for block in sorted(self._stock.idle(), key=lambda b: address_count(b.cidr), reverse=True):
            size = address_count(block.cidr)
            if size <= above_wanted and size <= above_least:
                spare.append(block)
                above_wanted, above_least = above_wanted - size, above_least - size
        return spare


_FIELDS = tuple(f.name for f in dataclasses.fields(Pool) if f.compare)
