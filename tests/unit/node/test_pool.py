"""The pool's decisions, one by one."""

from __future__ import annotations

from berth.contract import Order, Policy, Surrender
from berth_node.pool import Pool, Waiter
from berth_node.report import build
from berth_node.usable import addresses_of

from tests.unit.node.make import MACS, block

A, B, C = "10.0.0.16/28", "10.0.0.32/28", "10.0.1.16/28"


def lend(pool: Pool, *names: str) -> Pool:
    for name in names:
        address = pool.choose()
        assert address is not None
        pool = pool.lend((name, "eth0"), address)
    return pool


def pods(count: int, start: int = 0) -> list[str]:
    return [f"p{i}" for i in range(start, start + count)]


def surrender(cidr: str, device: int = 0) -> Surrender:
    return Surrender(MACS[device], cidr, f"as-{cidr}")


def test_the_fullest_block_of_the_first_interface_is_filled_first() -> None:
    pool = Pool(blocks=(block(A), block(B), block(C, 1)))
    pool = pool.lend(("x", "eth0"), "10.0.0.40")
    assert pool.choose() == "10.0.0.32"
    pool = lend(pool, *pods(15))
    assert pool.choose() == "10.0.0.16"
    pool = lend(pool, *pods(16, 100))
    assert pool.choose() == "10.0.1.16"


def test_nothing_is_lent_that_is_unusable_releasing_surrendered_or_cooling() -> None:
    blocks = (
        block(A, usable=False),
        block(B, releasing=True),
        block(C, 1),
        block("10.0.1.5/32", 1),
        block("10.0.1.6/32", 1),
    )
    pool = Pool(blocks=blocks, surrendered=(surrender(C, 1),), cooling={"10.0.1.5": 100.0})
    pool = lend(pool, "a")
    assert pool.lent == {("a", "eth0"): "10.0.1.6"}
    assert pool.choose() is None


def test_a_returned_address_cools_and_then_is_free_again() -> None:
    pool = lend(Pool(blocks=(block("10.0.0.9/32"),)), "a").release(("a", "eth0"), 120.0)
    assert pool.choose() is None
    assert pool.cooled(119.9).choose() is None
    assert pool.cooled(120.0).choose() == "10.0.0.9"


def test_an_address_whose_connections_the_kernel_may_know_cools_until_they_are_flushed() -> None:
    pool = lend(Pool(blocks=(block("10.0.0.9/32"),)), "a").release(("a", "eth0"), 120.0, flush=True)
    assert pool.cooled(500.0).choose() is None
    assert pool.flushed(["10.0.0.9"]).cooled(119.9).choose() is None
    assert pool.flushed(["10.0.0.9"]).cooled(120.0).choose() == "10.0.0.9"
    assert pool.cooled(500.0).flushed(["10.0.0.9"]).cooled(500.0).choose() == "10.0.0.9"


def test_an_address_that_a_pod_holds_never_cools() -> None:
    pool = lend(Pool(blocks=(block("10.0.0.9/32"),)), "a")
    assert pool.cool(["10.0.0.9"], 100.0) == pool


def test_supply_leaves_cooling_surrendered_and_unusable_out() -> None:
    pool = Pool(
        Policy(warm_addresses=4, max_pods=110),
        (block(A), block(B), block(C, 1), block("10.0.1.9/32", 1, shown=False)),
        surrendered=(surrender(C, 1),),
        cooling=dict.fromkeys(addresses_of(B), 9.0),
    )
    assert pool.supply == 16
    assert pool.wanted == 4
    pool = lend(pool, *pods(14))
    assert (pool.wanted, pool.supply, pool.deficit) == (18, 16, 2)


def test_the_target_is_clamped_to_max_pods_and_the_minimum_counts_what_is_kept() -> None:
    pool = lend(Pool(Policy(warm_addresses=8, max_pods=18, minimum_addresses=0), (block(A),)), *pods(16))
    assert (pool.wanted, pool.deficit) == (18, 2)
    assert Pool(Policy(warm_addresses=0, minimum_addresses=40, max_pods=30), (block(A),)).deficit == 14


def idle(warm: int = 0, minimum: int = 0) -> Pool:
    policy = Policy(warm_addresses=warm, minimum_addresses=minimum)
    return lend(Pool(policy, (block(A), block(B), block(C, 1))), "a")


def test_surplus_is_surrendered_after_the_hold_last_block_first() -> None:
    pool = idle(warm=8).balanced(0.0, 60.0)
    assert pool.surrendered == ()
    assert pool.balanced(59.9, 60.0).surrendered == ()
    assert [s.cidr for s in pool.balanced(60.0, 60.0).surrendered] == [C, B]


def test_surplus_that_ends_starts_the_hold_again() -> None:
    pool = idle(warm=8).balanced(0.0, 60.0)
    busy = lend(pool, *pods(35)).balanced(30.0, 60.0)
    assert busy.surplus_since is None
    for name in pods(35):
        busy = busy.release((name, "eth0"), 0.0)
    again = busy.cooled(1.0).balanced(40.0, 60.0)
    assert again.balanced(99.0, 60.0).surrendered == ()
    assert again.balanced(100.0, 60.0).surrendered != ()


def test_whole_prefixes_are_surrendered_before_single_addresses() -> None:
    """A node that fell back to single addresses in a fragmented subnet gives back what one call frees most with."""
    blocks = (block("10.0.0.16/28"), block("10.0.0.32/28"), block("10.0.1.7/32", 1), block("10.0.1.8/32", 1))
    pool = Pool(Policy(warm_addresses=16, minimum_addresses=0), blocks)
    given = pool.balanced(0, 0).surrendered
    assert [s.cidr for s in given] == ["10.0.0.32/28", "10.0.1.8/32", "10.0.1.7/32"]
    pool = Pool(Policy(warm_addresses=17, minimum_addresses=0), blocks)
    assert [s.cidr for s in pool.balanced(0, 0).surrendered] == ["10.0.0.32/28", "10.0.1.8/32"]


def test_only_whole_idle_blocks_are_surrendered_and_never_below_target_or_minimum() -> None:
    assert [s.cidr for s in idle(warm=16).balanced(0, 0).surrendered] == [C]
    assert [s.cidr for s in idle(minimum=32).balanced(0, 0).surrendered] == [C]
    assert idle(warm=40).balanced(0, 0).surrendered == ()
    cooling = idle().cool(["10.0.1.20"], 50.0).lend(("b", "eth0"), "10.0.0.33")
    assert cooling.balanced(0, 0).surrendered == ()


def test_one_block_always_stays() -> None:
    pool = Pool(Policy(warm_addresses=0), (block("10.0.0.8/32"), block("10.0.0.9/32")))
    assert [s.cidr for s in pool.balanced(0, 0).surrendered] == ["10.0.0.9/32"]


def test_a_surrendered_block_is_taken_back_when_demand_returns_unless_it_is_marked() -> None:
    pool = idle().balanced(0, 0)
    assert [s.cidr for s in pool.surrendered] == [C, B]
    pool = lend(pool, *pods(15)).wait(Waiter(("w", "eth0"), "u"))
    assert [s.cidr for s in pool.balanced(1, 60).surrendered] == [C]
    marked = pool.refreshed((block(A), block(B, releasing=True), block(C, 1)), pool.policy)
    assert [s.cidr for s in marked.balanced(1, 60).surrendered] == [B]


def test_a_surrender_ends_when_the_record_lists_the_assignment_no_more() -> None:
    pool = Pool(blocks=(block(A), block(B)), surrendered=(surrender(B),))
    assert pool.refreshed((block(A), block(B)), pool.policy).surrendered == (surrender(B),)
    assert pool.refreshed((block(A),), pool.policy).surrendered == ()


def test_the_same_block_assigned_again_is_not_taken_for_the_surrendered_one() -> None:
    stale = Surrender(MACS[0], A, "as-earlier")
    pool = Pool(blocks=(block(A),), surrendered=(stale,))
    assert pool.choose() == "10.0.0.16"
    assert pool.refreshed(pool.blocks, pool.policy).surrendered == ()


def test_a_block_that_a_pod_holds_an_address_of_is_never_listed_as_surrendered() -> None:
    pool = Pool(blocks=(block(A),), surrendered=(surrender(A),)).lend(("a", "eth0"), "10.0.0.17")
    assert pool.balanced(0, 60).surrendered == ()


def test_reported_cooling_leaves_surrendered_blocks_out() -> None:
    pool = Pool(
        blocks=(block(A), block(B)),
        surrendered=(surrender(B),),
        cooling={"10.0.0.16": 1.0, "10.0.0.40": 1.0, "1.1.1.1": 1},
    )
    assert pool.cooling_outside_surrendered == 1


def waiter(container: str, uid: str = "uid") -> Waiter:
    return Waiter((container, "eth0"), uid)


def test_a_pod_that_its_runtime_tries_again_counts_once() -> None:
    pool = Pool(blocks=(block("10.0.0.9/32"),)).wait(waiter("first")).wait(waiter("second")).wait(waiter("x", "other"))
    assert (pool.demand, pool.need) == (("uid", "other"), 2)
    assert build(pool, 1, Order(1, 1)).waiting == ("other", "uid")
    pool = pool.lend(("first", "eth0"), "10.0.0.9", "uid")
    assert (pool.demand, pool.need) == (("uid", "other"), 3)


def test_a_refused_pod_stays_in_demand_until_its_next_attempt_or_its_time_is_over() -> None:
    pool = Pool(blocks=(block("10.0.0.9/32"),)).wait(waiter("first")).refuse(waiter("first"), 30.0)
    assert (pool.waiting, pool.demand, pool.need) == ((), ("uid",), 1)
    assert pool.cooled(29.9).demand == ("uid",)
    assert pool.cooled(30.0).demand == ()
    again = pool.wait(waiter("second"))
    assert (again.demand, again.unwait(("second", "eth0")).demand) == (("uid",), ())
    assert pool.lend(("second", "eth0"), "10.0.0.9", "uid").demand == ()


def test_the_runtimes_clean_up_of_a_failed_add_does_not_end_its_demand_but_the_next_del_does() -> None:
    pool = Pool().wait(waiter("first")).refuse(waiter("first"), 30.0)
    assert pool.deleted(("another", "eth0")) == pool
    once = pool.deleted(("first", "eth0"))
    assert once.demand == ("uid",)
    assert once.deleted(("first", "eth0")).demand == ()
