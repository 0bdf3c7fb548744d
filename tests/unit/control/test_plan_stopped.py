"""A node whose type was changed while it was stopped gives up what the new one does not allow; no other node does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth.calls import AssignPrefixes, Attach, Call, CreateInterface, DeleteInterface, Detach, Unassign
from berth.contract import Policy
from berth.model import InterfaceView, Limits, NodePolicy, NodeView, Notes
from berth.plan import ORPHAN_SECONDS, plan
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.fakes import NODE as FAKE_NODE
from tests.unit.control.fakes import Scene
from tests.unit.control.plan_world import carry_out
from tests.unit.control.test_plan import GROUP, INSTANCE, LIMITS, NODE, NOW, SUBNETS, eni, nodes, on_card, primary, view
from tests.unit.control.test_reconcile import blocks, look, record

STOPPED = replace(INSTANCE, state="stopped")


def stopped(*interfaces: InterfaceView) -> NodeView:
    return view(*interfaces, instance=STOPPED)


def first(v: NodeView, limits: Limits) -> list[Call]:
    return list(plan(v, NodePolicy(), limits, SUBNETS).calls)


def test_a_stopped_node_whose_type_still_fits_keeps_everything() -> None:
    v = stopped(primary(4), eni(1, 4, index=1), eni(2, 1, index=2), eni(3, index=3, ours=False))
    assert first(v, LIMITS) == []


def test_whole_interfaces_go_first_the_emptiest_before_others() -> None:
    v = stopped(primary(2), eni(1, 2, index=1), eni(2, 0, index=2, singles=3), eni(3, 1, index=3))
    assert first(v, Limits(2, 5)) == [Detach("eni-2", "attach-2"), Detach("eni-3", "attach-3")]


def test_foreign_interfaces_take_places_and_stay() -> None:
    v = stopped(primary(1), eni(1, 2, index=1), eni(2, index=2, ours=False), eni(3, index=3, ours=False))
    assert first(v, Limits(2, 5)) == [Detach("eni-1", "attach-1")], "it is all that is ours to give"


def test_interfaces_of_a_network_card_that_is_gone_go_and_are_attached_where_there_is_room() -> None:
    v = stopped(primary(1), on_card(eni(1, 2, index=1), 1), eni(2, 1, index=1))
    limits = Limits(3, 5)
    assert first(v, limits) == [Detach("eni-1", "attach-1")]
    world, last = carry_out(v, NodePolicy(), limits, SUBNETS, check=False)
    assert [c for c in world.made if isinstance(c, Attach)] == [Attach("eni-1", 2, 0)]
    assert last.calls == ()
    world.check_limits()


def test_blocks_beyond_the_new_limit_leave_the_interfaces_that_stay() -> None:
    v = stopped(primary(3, singles=1), eni(1, 4, index=1))
    assert first(v, Limits(2, 4)) == [
        Unassign("eni-0", ("10.0.0.200/32",)),
        Unassign("eni-1", ("10.0.1.48/28",)),
    ]


def test_prefixes_leave_when_the_new_type_can_have_none() -> None:
    v = stopped(primary(1, singles=2))
    assert first(v, Limits(2, 5, prefixes=False)) == [Unassign("eni-0", ("10.0.0.0/28",))]


def test_a_detached_interface_that_the_type_has_no_place_for_is_deleted_in_the_end() -> None:
    v = stopped(primary(1), eni(1, 1, index=1), eni(2, 1))
    assert plan(v, NodePolicy(), Limits(2, 5), SUBNETS).unwanted == ("eni-2",)
    since = Notes(unwanted=(("eni-2", NOW - ORPHAN_SECONDS - 1),))
    assert first(replace(v, notes=since), Limits(2, 5)) == [DeleteInterface("eni-2")]


@pytest.mark.parametrize("state", ["pending", "running", "stopping"])
def test_only_a_stopped_node_sheds(state: str) -> None:
    v = view(primary(4), eni(1, 4, index=1), eni(2, 4, index=2), instance=replace(INSTANCE, state=state))
    assert not [c for c in first(v, Limits(2, 3)) if isinstance(c, Detach | Unassign)]


@given(nodes(), st.integers(1, 4), st.integers(2, 5), st.booleans())
def test_what_is_shed_is_ours_suffices_and_is_no_more_than_needed(
    scene: tuple[NodeView, NodePolicy], interfaces: int, addresses: int, prefixes: bool
) -> None:
    v, policy = scene
    v = replace(v, instance=STOPPED, record=None, report=None, marked=())
    limits = Limits(interfaces, addresses, prefixes=prefixes)
    world, last = carry_out(v, policy, limits, SUBNETS, check=False)
    assert last.calls == ()
    foreign = [i for i in v.interfaces if i.node is None and not i.is_primary_of(NODE)]
    assert [i for i in world.view.interfaces if i.id in {f.id for f in foreign}] == foreign
    mine = [i for i in world.view.managed if i.attachment]
    assert all(i.slots <= addresses for i in mine)
    assert len(mine) <= max(interfaces - len(foreign), 1)
    held = [i for i in v.managed if i.attachment]
    detached = {c.interface_id for c in world.made if isinstance(c, Detach)}
    assert len(detached) == max(len(held) + len(foreign) - max(interfaces, len(foreign) + 1), 0)
    for interface in (i for i in held if i.id not in detached):
        lost = {b for c in world.made if isinstance(c, Unassign) and c.interface_id == interface.id for b in c.blocks}
        barred = set() if prefixes else set(interface.prefixes)
        assert lost >= barred
        left = interface.slots - len(barred)
        assert len(lost - barred) == max(left - addresses, 0)


def test_the_record_drops_what_is_shed_before_ec2_does() -> None:
    scene = Scene(Policy(minimum_addresses=14 * 16, max_pods=250))
    scene.ec2.launch()
    look(scene)
    assert [i.id for i in record(scene).interfaces] == ["eni-00000001", "eni-00000002"]
    scene.ec2.set_state("stopped")
    scene.ec2.types["t3.micro"] = Limits(1, 4)
    scene.ec2.all_instances[FAKE_NODE] = replace(scene.ec2.all_instances[FAKE_NODE], type="t3.micro")
    made, shown = scene.ec2.calls, []
    real = scene.ec2.mutate

    def spy(*args: object) -> object:
        shown.append((list(made), blocks(record(scene))))
        return real(*args)  # type: ignore[arg-type]

    scene.ec2.mutate = spy  # type: ignore[assignment,method-assign]
    made.clear()
    look(scene)
    assert [type(c) for c in made] == [Unassign, Detach]
    before_unassign, before_detach = shown
    assert len(before_unassign[1] & blocks_of(scene.ec2.primary())) == 3
    assert blocks_of(scene.ec2.ours()[0]) & before_unassign[1], "the second interface is still the node's"
    assert before_detach[1] == blocks_of(scene.ec2.primary())
    assert blocks(record(scene)) == blocks_of(scene.ec2.primary())
    assert len(scene.ec2.primary().prefixes) == 3


def blocks_of(interface: InterfaceView) -> set[str]:
    return set(interface.blocks)


def test_a_node_that_starts_with_its_old_type_again_takes_its_interface_back() -> None:
    scene = Scene(Policy(minimum_addresses=14 * 16, max_pods=250))
    scene.ec2.launch()
    look(scene)
    scene.ec2.set_state("stopped")
    scene.ec2.types["t3.micro"] = Limits(1, 10)
    kept = scene.ec2.all_instances[FAKE_NODE]
    scene.ec2.all_instances[FAKE_NODE] = replace(kept, type="t3.micro")
    scene.machine.now += 100
    look(scene)
    assert scene.ec2.ours()[0].attachment is None
    scene.ec2.all_instances[FAKE_NODE] = replace(kept, state="running")
    scene.ec2.calls.clear()
    look(scene)
    assert not [c for c in scene.ec2.calls if isinstance(c, CreateInterface | AssignPrefixes)]
    assert len(record(scene).interfaces) == 2
    assert GROUP in scene.ec2.ours()[0].groups
