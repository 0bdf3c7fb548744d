"""An interface that serves no pods any more: nothing is lent of it, and what is idle on it is given back."""

from __future__ import annotations

from dataclasses import replace

from berth.contract import Policy, Surrender
from berth_node.pool import Pool
from berth_node.usable import blocks_of, layouts_of, unusable_of

from tests.unit.node.make import MACS, interface, metadata, record

SPARING = Policy(warm_addresses=0, spare_primary=True)
FIRST, SECOND = "10.0.0.16/28", "10.0.1.16/28"
RECORD = record(interface(0, FIRST), interface(1, SECOND), policy=SPARING)


def pool(**fields: object) -> Pool:
    blocks = blocks_of(RECORD, metadata(RECORD), frozenset(MACS))
    return replace(Pool(policy=SPARING, blocks=blocks), **fields)  # type: ignore[arg-type]


def given_back(made: Pool) -> list[str]:
    return [s.cidr for s in made.surrendered]


def test_nothing_is_lent_of_a_spared_primary_and_it_is_not_called_unusable() -> None:
    made = pool()
    assert [(b.cidr, b.usable, b.spared) for b in made.blocks] == [(FIRST, False, True), (SECOND, True, False)]
    assert made.choose() == "10.0.1.16"
    assert (made.supply, made.free) == (16, 16)
    assert unusable_of(made.blocks) == ()


def test_it_stays_routed_for_the_pods_that_have_it() -> None:
    assert [i.blocks for i in layouts_of(RECORD, frozenset(MACS))] == [(FIRST,), (SECOND,)]


def test_another_interface_is_not_spared_whatever_the_policy_says() -> None:
    second_card = replace(interface(1, SECOND), device_index=0, network_card=1)
    made = record(second_card, policy=SPARING)
    assert [b.spared for b in blocks_of(made, metadata(made), frozenset(MACS))] == [False]


def test_what_is_idle_on_it_is_given_back_at_once() -> None:
    made = pool().balanced(0.0, hold=60.0)
    assert made.surrendered == (Surrender(MACS[0], FIRST, f"as-{FIRST}"),)
    assert made.balanced(1.0, hold=60.0) == made


def test_a_pod_keeps_its_address_and_the_block_goes_once_it_has_cooled() -> None:
    held = pool().lend(("old", "eth0"), "10.0.0.20")
    assert given_back(held.balanced(0.0, hold=60.0)) == []
    cooling = held.release(("old", "eth0"), until=30.0)
    assert given_back(cooling.balanced(1.0, hold=60.0)) == []
    assert given_back(cooling.cooled(30.0).balanced(30.0, hold=60.0)) == [FIRST]


def test_what_cools_there_is_told_of_no_more_than_what_is_given_back() -> None:
    """The control plane does not count the primary: its cooling addresses would be taken off the others'."""
    cooling = pool(cooling={"10.0.0.20": 99.0})
    assert cooling.cooling_outside_surrendered == 0
    assert pool(cooling={"10.0.1.20": 99.0}).cooling_outside_surrendered == 1


def test_its_pods_count_as_need_so_that_there_is_room_for_them_to_move() -> None:
    held = pool(policy=replace(SPARING, warm_addresses=16)).lend(("old", "eth0"), "10.0.0.20")
    assert (held.need, held.deficit) == (1, 1)


def test_it_is_taken_back_when_the_policy_changes_back_and_pods_need_it() -> None:
    given = pool().balanced(0.0, hold=60.0)
    serving = replace(RECORD, policy=replace(SPARING, spare_primary=False, minimum_addresses=32))
    blocks = blocks_of(serving, metadata(serving), frozenset(MACS))
    again = given.refreshed(blocks, serving.policy).balanced(1.0, hold=60.0)
    assert given_back(again) == []
    assert again.supply == 32


def test_a_block_that_metadata_does_not_show_is_not_offered() -> None:
    blocks = blocks_of(RECORD, (), frozenset(MACS))
    made = Pool(policy=SPARING, blocks=blocks)
    assert given_back(made.balanced(0.0, hold=60.0)) == []
    assert unusable_of(blocks) == (FIRST, SECOND)
