"""The pool's counts, kept change by change, against a reference that looks at every address anew."""

from __future__ import annotations

from dataclasses import dataclass, replace

from berth.contract import Policy, Surrender
from berth_node.pool import Pool, Waiter
from berth_node.usable import Block, addresses_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.node.make import MACS, block

CIDRS = ("10.0.0.16/28", "10.0.0.32/30", "10.0.0.40/32", "10.0.1.16/29", "10.0.1.33/32", "10.0.1.34/32", "10.0.2.8/29")
ADDRESSES = (*(a for cidr in CIDRS for a in addresses_of(cidr)), "192.0.2.1")


@dataclass(frozen=True)
class Reference:
    """The figures by their definitions."""

    pool: Pool

    @property
    def used(self) -> set[str]:
        return set(self.pool.lent.values())

    def given_up(self, block: Block) -> bool:
        return any((s.assignment, s.cidr) == (block.assignment, block.cidr) for s in self.pool.surrendered)

    @property
    def lendable(self) -> list[Block]:
        return [b for b in self.pool.blocks if b.usable and not self.given_up(b)]

    def free_of(self, block: Block) -> list[str]:
        return [a for a in addresses_of(block.cidr) if a not in self.used and a not in self.pool.cooling]

    @property
    def free(self) -> int:
        return sum(len(self.free_of(b)) for b in self.lendable)

    @property
    def supply(self) -> int:
        every = [a for b in self.lendable for a in addresses_of(b.cidr)]
        return sum(a in self.used or a not in self.pool.cooling for a in every)

    @property
    def cooling(self) -> int:
        every = [a for b in self.pool.blocks if not self.given_up(b) for a in addresses_of(b.cidr)]
        return sum(a in self.pool.cooling and a not in self.used for a in every)

    def choose(self) -> str | None:
        options = [b for b in self.lendable if self.free_of(b)]
        sizes = {len(addresses_of(b.cidr)) for b in self.pool.blocks}
        # single addresses beside prefixes are kept for those that can have no other
        options = [b for b in options if len(sizes) == 1 or not b.cidr.endswith("/32")] or options
        first = [b for b in options if b.order == options[0].order]
        # max takes the first of equals: the lending order
        fullest = max(first, key=lambda b: sum(a in self.used for a in addresses_of(b.cidr)), default=None)
        return self.free_of(fullest)[0] if fullest else None

    @property
    def singles(self) -> tuple[str | None, int]:
        """The first that can be lent, and how many cannot although metadata shows them."""
        single = [b for b in self.pool.blocks if b.cidr.endswith("/32")]
        free = [b for b in single if b in self.lendable and self.free_of(b)]
        return (free[0].cidr[:-3] if free else None), sum(b.shown and b not in free for b in single)

    def spare(self) -> list[str]:
        """What a surplus that has lasted surrenders."""
        kept = sum(len(addresses_of(b.cidr)) for b in self.pool.blocks if not self.given_up(b))
        least = max(1, min(self.pool.policy.max_pods, self.pool.policy.minimum_addresses))
        above, over, spare = self.supply - self.pool.wanted, kept - least, []
        last_first = self.lendable[::-1]
        for b in sorted(last_first, key=lambda b: -len(addresses_of(b.cidr))):
            size = len(addresses_of(b.cidr))
            if len(self.free_of(b)) == size and size <= above and size <= over:
                spare.append(b.cidr)
                above, over = above - size, over - size
        return spare


def agree(pool: Pool) -> None:
    reference = Reference(pool)
    assert (pool.free, pool.supply, pool.choose()) == (reference.free, reference.supply, reference.choose())
    assert (pool.choose_single(), pool.singles_taken) == reference.singles
    assert pool.cooling_outside_surrendered == reference.cooling
    assert pool.lendable == tuple(reference.lendable)
    if not pool.surrendered:
        assert [s.cidr for s in replace(pool, surplus_since=None).balanced(0.0, 0.0).surrendered] == reference.spare()
    for address in ADDRESSES[::7]:
        assert pool.block_of(address) == next((b for b in pool.blocks if address in addresses_of(b.cidr)), None)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["lend", "adopt", "free", "cool", "flush", "time", "blocks", "give", "wait"]),
        st.integers(0, 999),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
@example([("cool", 1), ("cool", 10), ("time", 3)])
@example([("cool", 245), ("time", 3), ("adopt", 263), ("time", 0)])
def test_counts_kept_change_by_change_are_those_of_every_address_looked_at(steps: list[tuple[str, int]]) -> None:
    pool, now = Pool(Policy(warm_addresses=3, minimum_addresses=2), tuple(block(c, int(c[5])) for c in CIDRS[:5])), 0.0
    for serial, (step, n) in enumerate(steps):
        before = pool
        match step:
            case "lend":
                address = pool.choose()
                pool = pool.lend((f"p{serial}", "eth0"), address) if address else pool
            case "adopt":
                pool = pool.lend((f"p{n % 7}", "eth0"), ADDRESSES[n % len(ADDRESSES)])
            case "free" if pool.lent:
                pool = pool.release(list(pool.lent)[n % len(pool.lent)], now + n % 5)
            case "cool":
                pool = pool.cool(ADDRESSES[n % 40 :: 9], now + n % 11, flush=bool(n & 1))
            case "flush":
                pool = pool.flushed(sorted(pool.unflushed)[: n % 4])
            case "time":
                now += n % 4
                pool = pool.cooled(now).balanced(now, 2.0)
                assert all(until > now or a in pool.unflushed for a, until in pool.cooling.items())
            case "blocks":
                listed = [block(c, int(c[5]), usable=bool(n >> i & 1)) for i, c in enumerate(CIDRS) if n >> i & 6]
                pool = pool.refreshed(tuple(listed), pool.policy)
            case "give" if pool.blocks:
                b = pool.blocks[n % len(pool.blocks)]
                pool = replace(pool, surrendered=(*pool.surrendered, Surrender(MACS[0], b.cidr, b.assignment)))
            case "wait":
                pool = pool.wait(Waiter((f"w{n % 3}", "eth0"), f"u{n % 2}"))
        assert pool.unflushed <= pool.cooling.keys()
        agree(pool)
        agree(before)  # a value never changes
