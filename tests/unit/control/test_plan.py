"""The planner: tables for its choices, properties for its promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth.calls import (
    AssignAddresses,
    AssignPrefixes,
    Attach,
    Call,
    CreateInterface,
    DeleteInterface,
    SetDeleteOnTermination,
    Unassign,
)
from berth.contract import Assignment, Interface, Order, Policy, Record, Report, Surrender, address_count
from berth.growth import deficit
from berth.model import (
    Attachment,
    Instance,
    InterfaceView,
    Limits,
    NodePolicy,
    NodeView,
    Notes,
    Outcome,
    Setbacks,
    SubnetView,
)
from berth.overlay import apply
from berth.plan import ORPHAN_SECONDS, Plan, due_for_release, plan
from hypothesis import given
from hypothesis import strategies as st

NODE = "i-0123456789abcdef0"
ARN = f"arn:aws:ec2:eu-west-1:123456789012:instance/{NODE}"
GROUP = "sg-11111111"
NOW = 1_000_000.0
LIMITS = Limits(interfaces=4, addresses_per_interface=5)
SUBNETS = (SubnetView("subnet-a", "10.0.0.0/20", "vpc-1", "az-a", 4000, True),)
INSTANCE = Instance(NODE, ARN, "running", "m5.large", "subnet-a", "vpc-1", "az-a", 0.0)


def prefixes(interface: int, count: int) -> tuple[str, ...]:
    return tuple(f"10.0.{interface}.{16 * n}/28" for n in range(count))


def eni(
    number: int, blocks: int = 0, *, index: int | None = None, ours: bool = True, singles: int = 0, **changes: object
) -> InterfaceView:
    """An interface attached at ``index`` (None: unattached); ``blocks`` prefixes and ``singles`` addresses."""
    at = None if index is None else Attachment(f"attach-{number}", NODE, index, 0, "attached", True)
    made = InterfaceView(
        id=f"eni-{number}",
        mac=f"06:00:00:00:00:{number:02x}",
        subnet_id="subnet-a",
        vpc_id="vpc-1",
        zone="az-a",
        primary_address=f"10.0.{number}.250",
        prefixes=prefixes(number, blocks),
        addresses=tuple(f"10.0.{number}.{200 + n}" for n in range(singles)),
        groups=(GROUP,),
        attachment=at,
        cluster="demo" if ours else None,
        node=NODE if ours else None,
        created_at=NOW - 30 if ours else None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def primary(blocks: int = 0, singles: int = 0) -> InterfaceView:
    return eni(0, blocks, index=0, ours=False, singles=singles)


def view(*interfaces: InterfaceView, **changes: object) -> NodeView:
    made = NodeView(INSTANCE, "demo", interfaces, allowed_groups=frozenset({GROUP}), now=NOW)
    return replace(made, **changes)  # type: ignore[arg-type]


def report(in_use: int = 0, waiting: int = 0, **changes: object) -> Report:
    made = Report(Order(1, 1), 1, in_use, tuple(f"p{n}" for n in range(waiting)))
    return replace(made, **changes)  # type: ignore[arg-type]


def rules(mode: str = "prefixes", warm: int = 8, minimum: int = 0, max_pods: int = 110) -> NodePolicy:
    return NodePolicy(Policy(mode, warm, minimum, max_pods, 120))  # type: ignore[arg-type]


def calls(v: NodeView, policy: NodePolicy | None = None, subnets: tuple[SubnetView, ...] = SUBNETS) -> list[Call]:
    return list(plan(v, policy or rules(), LIMITS, subnets).calls)


# ------------------------------------------------------------------------------------------------ the target


@pytest.mark.parametrize(
    ("assigned", "said", "policy", "missing"),
    [
        (0, None, rules(warm=8), 8),
        (0, None, rules(warm=8, minimum=20), 20),
        (0, None, rules(warm=8, max_pods=5), 5),
        (1, report(in_use=10, waiting=2), rules(warm=8), 4),
        (1, report(in_use=10, cooling=6), rules(warm=0), 0),
        (1, report(in_use=10, cooling=7), rules(warm=0), 1),
        (1, report(in_use=16, waiting=100), rules(max_pods=20), 4),
        (2, report(in_use=4, unusable=(prefixes(0, 1)[0],)), rules(warm=13), 1),
        (2, report(in_use=4), rules(warm=8), 0),
        (1, report(in_use=0, cooling=16), rules(warm=0, minimum=16), 0),
    ],
)
def test_the_deficit_follows_the_formula(assigned: int, said: Report | None, policy: NodePolicy, missing: int) -> None:
    assert deficit(view(primary(assigned), report=said), policy) == missing


@pytest.mark.parametrize("mode", ["prefixes", "addresses"])
def test_a_node_that_asks_for_nothing_gets_one_address_since_without_any_it_is_never_ready(mode: str) -> None:
    nothing = rules(mode, warm=0, minimum=0)
    assert deficit(view(primary()), nothing) == 1
    assert deficit(view(primary(1), report=report(in_use=0)), nothing) == 0


def test_surrendered_blocks_are_no_supply() -> None:
    offer = Surrender(eni(0).mac, prefixes(0, 2)[1], "x")
    said = report(in_use=10, surrendered=(offer,))
    assert deficit(view(primary(2), report=said), rules(warm=8)) == 2
    assert deficit(view(primary(2), report=said), rules(warm=0, minimum=32)) == 16


def test_only_the_deficit_is_rounded_to_prefixes_never_the_target() -> None:
    """15 of 16 in use and one wanted free: nothing is missing. Rounding the target would assign and give back."""
    assert calls(view(primary(1), report=report(in_use=15)), rules(warm=1)) == []


def test_requests_raise_the_minimum_until_they_end() -> None:
    asked = Notes(requested=40, requested_until=NOW + 1)
    assert deficit(view(primary(), notes=asked), rules(warm=8)) == 40
    assert deficit(view(primary(), notes=asked, now=NOW + 1), rules(warm=8)) == 8


def test_draining_stops_warm_growth_only() -> None:
    leaving = Notes(draining_until=NOW + 1)
    assert deficit(view(primary(), notes=leaving), rules(warm=8, minimum=20)) == 0
    assert deficit(view(primary(), notes=leaving, report=report(waiting=3)), rules(warm=8)) == 3


# ------------------------------------------------------------------------------------------------ where it goes


def test_the_primary_is_filled_first() -> None:
    assert calls(view(primary(), eni(1, index=1))) == [AssignPrefixes("eni-0", 1)]


def test_the_fullest_secondary_comes_next() -> None:
    full = primary(4)
    got = calls(view(full, eni(1, 1, index=1), eni(2, 3, index=2)), rules(minimum=140, max_pods=200))
    assert got == [AssignPrefixes("eni-2", 1)]


def test_one_interface_that_holds_it_all_wins_over_two_calls() -> None:
    got = calls(view(primary(3), eni(1, 1, index=1)), rules(minimum=64 + 48, max_pods=200))
    assert got == [AssignPrefixes("eni-1", 3)]


def test_what_no_interface_holds_is_created_in_one_call() -> None:
    got = calls(view(primary()), rules(minimum=7 * 16, max_pods=200))
    assert got == [AssignPrefixes("eni-0", 4), CreateInterface("subnet-a", (GROUP,), prefixes=3)]


def test_foreign_interfaces_count_against_the_limit_and_get_nothing() -> None:
    foreign = [eni(n, index=n, ours=False) for n in (1, 2, 3)]
    got = plan(view(primary(4), *foreign), rules(minimum=100, max_pods=200), LIMITS, SUBNETS)
    assert got.calls == ()
    assert (got.unmet, got.reason) == (36, "the instance type allows no further interface")


def on_card(interface: InterfaceView, card: int) -> InterfaceView:
    assert interface.attachment is not None
    return replace(interface, attachment=replace(interface.attachment, network_card=card))


def test_interfaces_on_each_network_card_count_against_that_card() -> None:
    v = view(primary(1), on_card(eni(1, index=1, ours=False), 1), eni(2, 1), eni(3, 1))
    cards = replace(LIMITS, interfaces=4, cards=((0, 2), (1, 2)))
    assert list(plan(v, rules(), cards, SUBNETS).calls) == [Attach("eni-2", 1, 0), Attach("eni-3", 0, 1)]


def test_the_default_network_card_is_filled_first() -> None:
    v = view(primary(1), *(eni(n, 1) for n in (1, 2, 3)))
    cards = replace(LIMITS, interfaces=6, network_card=1, cards=((0, 2), (1, 2), (2, 2)))
    got = plan(v, rules(), cards, SUBNETS).calls
    assert got == (Attach("eni-1", 1, 1), Attach("eni-2", 0, 1), Attach("eni-3", 1, 0))


def test_the_cards_together_take_no_more_than_the_type_allows() -> None:
    v = view(primary(1), *(eni(n, 1) for n in (1, 2, 3)))
    cards = replace(LIMITS, interfaces=3, cards=((0, 2), (1, 2)))
    assert list(plan(v, rules(), cards, SUBNETS).calls) == [Attach("eni-1", 1, 0), Attach("eni-2", 1, 1)]


def test_a_new_interface_is_made_when_only_another_card_has_room() -> None:
    v = view(primary(4), eni(1, index=1, ours=False))
    cards = replace(LIMITS, interfaces=4, cards=((0, 2), (1, 2)))
    got = plan(v, rules(minimum=65, max_pods=200), cards, SUBNETS).calls
    assert [type(c) for c in got] == [CreateInterface]


def test_one_tagged_for_this_node_but_attached_to_another_is_foreign() -> None:
    stolen = replace(eni(1), attachment=Attachment("attach-9", "i-0123456789abcdef9", 1))
    v = view(primary(1), stolen, instance=replace(INSTANCE, state="terminated"))
    assert calls(v) == []


def test_a_selector_chooses_among_allowed_subnets_of_the_zone() -> None:
    full = primary(4)
    subnets = (
        *SUBNETS,
        SubnetView("subnet-b", "10.1.0.0/24", "vpc-1", "az-a", 100, True, (("pods", "yes"),)),
        SubnetView("subnet-c", "10.2.0.0/24", "vpc-1", "az-b", 200, True, (("pods", "yes"),)),
        SubnetView("subnet-d", "10.3.0.0/24", "vpc-1", "az-a", 200, False, (("pods", "yes"),)),
    )
    policy = replace(rules(minimum=70, max_pods=200), subnets=("pods", "yes"))
    assert calls(view(full), policy, subnets) == [CreateInterface("subnet-b", (GROUP,), prefixes=1)]


def test_groups_without_the_tag_are_not_used() -> None:
    got = plan(view(primary(4), allowed_groups=frozenset()), rules(minimum=70, max_pods=200), LIMITS, SUBNETS)
    assert got.calls == ()
    assert "berth:allowed" in got.reason


def test_a_fragmented_subnet_gets_addresses_and_an_exhausted_one_nothing() -> None:
    v = view(primary(), setbacks=Setbacks(fragmented=frozenset({"subnet-a"})))
    assert calls(v, rules(warm=3)) == [AssignAddresses("eni-0", 3)]
    v = view(primary(), setbacks=Setbacks(exhausted=frozenset({"subnet-a"})))
    assert plan(v, rules(warm=3), LIMITS, SUBNETS) == Plan((), 3, plan(v, rules(warm=3), LIMITS, SUBNETS).reason)


# ------------------------------------------------------------------------------------------------ states


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_an_unattached_interface_of_ours_is_adopted(state: str) -> None:
    v = view(primary(1), eni(1, 1), instance=replace(INSTANCE, state=state))
    assert calls(v) == [Attach("eni-1", 1)]


@pytest.mark.parametrize("state", ["pending", "stopping"])
def test_nothing_is_attached_in_other_states(state: str) -> None:
    assert calls(view(primary(1), eni(1, 1), instance=replace(INSTANCE, state=state))) == []


def test_a_pending_node_asks_to_be_looked_at_again_for_what_must_wait_until_it_runs() -> None:
    pending = replace(INSTANCE, state="pending")
    assert plan(view(primary(1), eni(1, 1), instance=pending), rules(), LIMITS, SUBNETS).waiting
    refused = Setbacks(refused=frozenset({"eni-0"}))
    assert plan(replace(view(primary(1), instance=pending), setbacks=refused), rules(), LIMITS, SUBNETS).waiting


def test_a_pending_node_that_has_all_it_needs_waits_for_nothing() -> None:
    """A delayed look for each node of a large launch would cost as many describes as its events do."""
    pending = replace(INSTANCE, state="pending")
    done = plan(view(primary(1), instance=pending), rules(), LIMITS, SUBNETS)
    assert (done.calls, done.waiting) == ((), "")


def test_a_free_device_index_is_found_between_used_ones() -> None:
    v = view(primary(1), eni(1, index=2, ours=False), eni(2, 1))
    assert calls(v) == [Attach("eni-2", 1)]


def test_delete_on_termination_is_set_on_ours_alone() -> None:
    ours, foreign = eni(1, 1, index=1), eni(2, index=2, ours=False)
    assert ours.attachment is not None
    assert foreign.attachment is not None
    ours = replace(ours, attachment=replace(ours.attachment, delete_on_termination=False))
    foreign = replace(foreign, attachment=replace(foreign.attachment, delete_on_termination=False))
    assert calls(view(primary(1), ours, foreign)) == [SetDeleteOnTermination("eni-1", "attach-1")]


def test_one_too_many_is_deleted_when_nobody_has_wanted_it_for_long_however_old_it_is() -> None:
    attached = [eni(n, index=n) for n in (1, 2, 3)]
    old = view(primary(1), *attached, eni(4, created_at=NOW - 86_400))
    assert plan(old, rules(), LIMITS, SUBNETS).unwanted == ("eni-4",)
    assert calls(old) == []
    assert calls(replace(old, notes=Notes(unwanted=(("eni-4", NOW - ORPHAN_SECONDS + 1),)))) == []
    long = replace(old, notes=Notes(unwanted=(("eni-4", NOW - ORPHAN_SECONDS - 1),)))
    assert calls(long) == [DeleteInterface("eni-4")]


def test_a_node_without_a_visible_primary_waits() -> None:
    got = plan(view(), rules(), LIMITS, SUBNETS)
    assert (got.calls, got.unmet) == ((), 0)
    assert got.waiting


# ------------------------------------------------------------------------------------------------ release


def recorded(*interfaces: InterfaceView, releasing: tuple[str, ...] = ()) -> Record:
    return Record(
        instance_arn=ARN,
        revision=5,
        interfaces=tuple(
            Interface(
                i.id,
                i.mac,
                0,
                "subnet-a",
                "10.0.0.0/20",
                "10.0.0.1",
                i.primary_address,
                assignments=tuple(Assignment(b, f"id-{b}", b in releasing) for b in i.blocks),
            )
            for i in interfaces
        ),
    )


@pytest.mark.parametrize(
    ("releasing", "listed", "acknowledged", "due"),
    [
        (True, True, 5, True),
        (True, True, 4, False),
        (True, False, 5, False),
        (False, True, 5, False),
    ],
)
def test_both_phases_are_needed(releasing: bool, listed: bool, acknowledged: int, due: bool) -> None:
    interface = primary(2)
    cidr = interface.blocks[1]
    offers = (Surrender(interface.mac, cidr, f"id-{cidr}"),) if listed else ()
    v = view(
        interface,
        record=recorded(interface, releasing=(cidr,) if releasing else ()),
        marked=((f"id-{cidr}", 5),) if releasing else (),
        report=report(surrendered=offers, acknowledged_revision=acknowledged, in_use=1),
    )
    assert calls(v) == ([Unassign("eni-0", (cidr,))] if due else [])


def test_prefixes_and_addresses_go_in_calls_of_their_own() -> None:
    interface = primary(1, singles=2)
    v = view(interface, leaving=frozenset(("eni-0", b) for b in interface.blocks))
    assert [c for c in calls(v, rules(warm=0)) if isinstance(c, Unassign)] == [
        Unassign("eni-0", ("10.0.0.0/28",)),
        Unassign("eni-0", ("10.0.0.200/32", "10.0.0.201/32")),
    ]


# ------------------------------------------------------------------------------------------------ properties


@st.composite
def nodes(draw: st.DrawFn) -> tuple[NodeView, NodePolicy]:
    """Any node of any state, with foreign interfaces, half-made ones, any report and any policy."""
    state = draw(st.sampled_from(["pending", "running", "stopping", "stopped", "shutting-down", "terminated"]))
    interfaces = [primary(draw(st.integers(0, 2)), draw(st.integers(0, 2)))]
    for number in range(1, draw(st.integers(1, 4))):
        index = number if draw(st.booleans()) else None
        ours = draw(st.booleans()) if index is not None else True
        interfaces.append(eni(number, draw(st.integers(0, 2)), index=index, ours=ours, singles=draw(st.integers(0, 2))))
    known = [b for i in interfaces for b in i.blocks]
    releasing = tuple(draw(st.lists(st.sampled_from(known), unique=True))) if known else ()
    offered = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    macs = {b: i.mac for i in interfaces for b in i.blocks}
    said = report(
        in_use=draw(st.integers(0, 60)),
        waiting=draw(st.integers(0, 60)),
        cooling=draw(st.integers(0, 10)),
        acknowledged_revision=draw(st.integers(3, 6)),
        surrendered=tuple(Surrender(macs[b], b, f"id-{b}") for b in offered),
    )
    made_view = view(
        *interfaces,
        instance=replace(INSTANCE, state=state),
        record=recorded(*interfaces, releasing=releasing),
        marked=tuple((f"id-{b}", draw(st.integers(3, 6))) for b in sorted(releasing)),
        report=draw(st.sampled_from([said, None])),
        notes=Notes(unwanted=tuple((i.id, NOW - draw(st.sampled_from([1.0, 1000.0]))) for i in interfaces[1:])),
        setbacks=Setbacks(fragmented=draw(st.sampled_from([frozenset(), frozenset({"subnet-a"})]))),
    )
    policy = rules(
        draw(st.sampled_from(["prefixes", "addresses"])),
        draw(st.integers(0, 40)),
        draw(st.integers(0, 200)),
        draw(st.integers(1, 250)),
    )
    return made_view, policy


def after(v: NodeView, call: Call, step: int) -> NodeView:
    """The view after EC2 did what ``call`` asks."""
    outcome = Outcome()
    start = 10 + 8 * step
    match call:
        case CreateInterface(prefixes=p, addresses=a):
            blank = eni(100 + step, created_at=NOW)
            made = replace(
                blank,
                prefixes=tuple(f"10.{start}.{n}.0/28" for n in range(p)),
                addresses=tuple(f"10.{start}.{n}.1" for n in range(a)),
            )
            outcome = Outcome(interface=made)
        case Attach():
            outcome = Outcome(attachment_id=f"attach-new-{step}")
        case AssignPrefixes(count=n):
            outcome = Outcome(blocks=tuple(f"10.{start}.{k}.0/28" for k in range(n)))
        case AssignAddresses(count=n):
            outcome = Outcome(blocks=tuple(f"10.{start}.{k}.9/32" for k in range(n)))
    interfaces = apply(v.interfaces, call, outcome, NODE)
    interfaces = tuple(
        replace(i, attachment=None) if i.attachment and i.attachment.status == "detaching" else i for i in interfaces
    )
    return replace(v, interfaces=interfaces)


@given(nodes())
def test_the_same_values_give_the_same_plan(scene: tuple[NodeView, NodePolicy]) -> None:
    v, policy = scene
    shuffled = replace(v, interfaces=tuple(reversed(v.interfaces)))
    assert plan(v, policy, LIMITS, SUBNETS) == plan(v, policy, LIMITS, SUBNETS)
    assert plan(shuffled, policy, LIMITS, tuple(reversed(SUBNETS))) == plan(v, policy, LIMITS, SUBNETS)


@given(nodes())
def test_a_plan_carried_out_leaves_nothing_to_plan(scene: tuple[NodeView, NodePolicy]) -> None:
    v, policy = scene
    for step in range(30):
        made = plan(v, policy, LIMITS, SUBNETS)
        if not made.calls:
            return
        v = after(v, made.calls[0], step)
    pytest.fail(f"still planning after 30 steps: {made.calls}")


@given(nodes())
def test_limits_are_never_exceeded(scene: tuple[NodeView, NodePolicy]) -> None:
    v, policy = scene
    for step in range(30):
        made = plan(v, policy, LIMITS, SUBNETS)
        if not made.calls:
            break
        v = after(v, made.calls[0], step)
        here = [i for i in v.interfaces if i.attachment and i.attachment.instance_id == NODE]
        assert len(here) <= LIMITS.interfaces
        indexes = [i.attachment.device_index for i in here if i.attachment]
        assert len(indexes) == len(set(indexes))
        assert all(i.slots <= LIMITS.addresses_per_interface for i in v.interfaces)


@given(nodes())
def test_growth_never_passes_max_pods_by_a_whole_prefix(scene: tuple[NodeView, NodePolicy]) -> None:
    v, policy = scene
    said = v.report
    if said is not None and (said.cooling or said.surrendered):
        v = replace(v, report=replace(said, cooling=0, surrendered=()))
    before = v.assigned()
    for step in range(30):
        made = plan(v, policy, LIMITS, SUBNETS)
        if not made.calls:
            break
        v = after(v, made.calls[0], step)
    assert v.assigned() <= max(before, policy.policy.max_pods + 15)


@given(nodes())
def test_nothing_is_unassigned_from_a_living_node_that_did_not_go_through_both_phases(
    scene: tuple[NodeView, NodePolicy],
) -> None:
    v, policy = scene
    unassigned = {
        (c.interface_id, b) for c in plan(v, policy, LIMITS, SUBNETS).calls if isinstance(c, Unassign) for b in c.blocks
    }
    assert unassigned <= set(due_for_release(v))
    assert v.record is not None
    allowed = set()
    if v.report is not None:
        marks, offers = dict(v.marked), {(s.mac, s.cidr, s.assignment) for s in v.report.surrendered}
        for interface in v.record.interfaces:
            for a in interface.assignments:
                acknowledged = a.releasing and v.report.acknowledged_revision >= marks[a.id]
                if acknowledged and (interface.mac, a.cidr, a.id) in offers:
                    allowed.add((interface.id, a.cidr))
    assert unassigned <= allowed


@given(nodes())
def test_foreign_interfaces_are_never_touched(scene: tuple[NodeView, NodePolicy]) -> None:
    v, policy = scene
    foreign = {i.id for i in v.interfaces if i.node is None and not i.is_primary_of(NODE)}
    touched = {getattr(c, "interface_id", "") for c in plan(v, policy, LIMITS, SUBNETS).calls}
    assert not foreign & touched


@given(nodes())
def test_a_plan_brings_what_it_says(scene: tuple[NodeView, NodePolicy]) -> None:
    v, policy = scene
    if v.instance.state != "running":
        return
    made = plan(v, policy, LIMITS, SUBNETS)
    brought = 0
    for call in made.calls:
        match call:
            case AssignPrefixes(count=n) | CreateInterface(prefixes=n) if n:
                brought += 16 * n
            case AssignAddresses(count=n) | CreateInterface(addresses=n):
                brought += n
    assert brought + made.unmet >= deficit(v, policy)
    assert not (made.unmet and not made.reason)
    assert address_count("10.0.0.0/28") == 16
