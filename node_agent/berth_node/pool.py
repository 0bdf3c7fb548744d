"""The pool: which address a pod gets, when one may be lent again, and which blocks the node can give back.

Pure: a :class:`Pool` is a frozen value and each transition returns a new one. Times are seconds of one clock that the
caller passes in. Nothing is lent from a block that is unusable, surrendered or marked releasing.

An address's life: free → lent → cooling → free. A block's: listed → surrendered → releasing (marked by a Lambda) →
gone from the record; until it is marked, the agent may take it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from berth.contract import Policy, Surrender, address_count

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
class Pool:
    """All of a node's pool. ``blocks`` are all blocks of the record in lending order; ``cooling`` is address → until,
    ``refused`` is pod uid → refusal.

    ``surplus_since`` is when there first was more than the target, None while there is not.
    """

    policy: Policy = field(default_factory=Policy)
    blocks: tuple[Block, ...] = ()
    lent: Mapping[Key, str] = field(default_factory=dict)
    cooling: Mapping[str, float] = field(default_factory=dict)
    waiting: tuple[Waiter, ...] = ()
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    surrendered: tuple[Surrender, ...] = ()
    surplus_since: float | None = None

    # ------------------------------------------------------------------------------------------- what it is

    @property
    def lendable(self) -> tuple[Block, ...]:
        """Blocks that addresses are lent from, in order."""
        return tuple(b for b in self.blocks if b.usable and not _given_up(b, self.surrendered))

    @property
    def demand(self) -> tuple[str, ...]:
        """The uids of the pods that need an address and have none, each once however often its runtime tries."""
        return tuple(dict.fromkeys((*(w.uid for w in self.waiting), *self.refused)))

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
        return sum(1 for b in self.lendable for a in addresses_of(b.cidr) if a not in self.cooling or a in self._used)

    @property
    def deficit(self) -> int:
        """How many addresses are missing, as the Lambdas reckon it (DESIGN, Target)."""
        least = min(self.policy.max_pods, self.policy.minimum_addresses)
        return max(self.wanted - self.supply, least - self._kept, 0)

    @property
    def free(self) -> int:
        """Addresses that could be lent now."""
        return sum(len(self._free_of(b)) for b in self.lendable)

    @property
    def cooling_outside_surrendered(self) -> int:
        """Cooling addresses of listed blocks that are not surrendered."""
        return sum(
            1
            for b in self.blocks
            if not _given_up(b, self.surrendered)
            for a in addresses_of(b.cidr)
            if a in self.cooling and a not in self._used
        )

    def block_of(self, address: str) -> Block | None:
        """The listed block that an address belongs to."""
        return next((b for b in self.blocks if address in addresses_of(b.cidr)), None)

    @property
    def _used(self) -> frozenset[str]:
        return frozenset(self.lent.values())

    @property
    def _kept(self) -> int:
        return sum(address_count(b.cidr) for b in self.blocks if not _given_up(b, self.surrendered))

    def _free_of(self, block: Block) -> tuple[str, ...]:
        used = self._used
        return tuple(a for a in addresses_of(block.cidr) if a not in used and a not in self.cooling)

    # --------------------------------------------------------------------------------------------- lending

    def cooled(self, now: float) -> Pool:
        """Forget cooling and refusals that are over."""
        left = {a: until for a, until in self.cooling.items() if until > now}
        refused = {uid: r for uid, r in self.refused.items() if r.until > now}
        same = len(left) == len(self.cooling) and len(refused) == len(self.refused)
        return self if same else replace(self, cooling=left, refused=refused)

    def choose(self) -> str | None:
        """The next address: from the first interface that has one, its fullest block, the lowest address.

        Filling one block before the next keeps whole prefixes idle, and only an idle prefix can be given back.
        """
        used = self._used
        options = [(b, self._free_of(b)) for b in self.lendable]
        options = [(b, free) for b, free in options if free]
        if not options:
            return None
        first = options[0][0].order
        fullness = Counter({b: sum(a in used for a in addresses_of(b.cidr)) for b, _ in options if b.order == first})
        fullest = fullness.most_common(1)[0][0]  # ties: insertion order, which is the lending order
        return next(free[0] for b, free in options if b is fullest)

    def lend(self, key: Key, address: str, uid: str = "") -> Pool:
        """Record that ``key`` has ``address`` (chosen before, or found in the kernel) and its pod waits no more."""
        waiting = tuple(w for w in self.waiting if w.key != key)
        refused = {u: r for u, r in self.refused.items() if u != uid}
        return replace(self, lent={**self.lent, key: address}, waiting=waiting, refused=refused)

    def release(self, key: Key, until: float) -> Pool:
        """Take back what ``key`` has; the address cools until then."""
        address = self.lent.get(key)
        if address is None:
            return self
        lent = {k: a for k, a in self.lent.items() if k != key}
        return replace(self, lent=lent).cool([address], until)

    def cool(self, addresses: Iterable[str], until: float) -> Pool:
        """Let addresses cool at least until then; those that pods hold are left alone."""
        used = self._used
        extra = {a: max(until, self.cooling.get(a, until)) for a in addresses if a not in used}
        return replace(self, cooling={**self.cooling, **extra}) if extra else self

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
        without any address would never be ready, nor get a pod.
        """
        pool = self._without_used_surrenders()._take_back()
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
        used = self._used
        kept = tuple(s for s in self.surrendered if used.isdisjoint(addresses_of(s.cidr)))
        return self if kept == self.surrendered else replace(self, surrendered=kept)

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
        used = self._used
        above_wanted = self.supply - self.wanted
        above_least = self._kept - max(1, min(self.policy.max_pods, self.policy.minimum_addresses))
        spare = []
        last_first = reversed(self.lendable)  # sorting leaves blocks of one size in this order
        for block in sorted(last_first, key=lambda b: address_count(b.cidr), reverse=True):
            size = address_count(block.cidr)
            idle = all(a not in used and a not in self.cooling for a in addresses_of(block.cidr))
            if idle and size <= above_wanted and size <= above_least:
                spare.append(block)
                above_wanted, above_least = above_wanted - size, above_least - size
        return spare
