"""When a node takes a standby interface, and which: the planner alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth.calls import (
    AssignPrefixes,
    Attach,
    Call,
    ClaimStandby,
    CreateInterface,
    SetDeleteOnTermination,
    TagForNode,
)
from berth.contract import address_count
from berth.model import InterfaceView, NodeView, Setbacks
from berth.plan import plan
from berth.standby_choice import with_claim, with_claimed
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.test_plan import (
    GROUP,
    INSTANCE,
    LIMITS,
    NODE,
    SUBNETS,
    calls,
    eni,
    primary,
    report,
    rules,
    view,
)

ASSIGN, ATTACH = "AssignPrivateIpAddresses", "AttachNetworkInterface"
FULL = primary(4)


def spare(number: int, blocks: int = 3, **changes: object) -> InterfaceView:
    return replace(eni(number, blocks, node=None, standby="pool"), **changes)  # type: ignore[arg-type]


def waits(assign: float, attach: float) -> tuple[tuple[str, float], ...]:
    return ((ASSIGN, assign), (ATTACH, attach))


class TestWhereANewOneWouldBeNeeded:
    def test_a_standby_one_spares_its_creation_whatever_the_buckets(self) -> None:
        wanted = view(FULL, standby=(spare(5),), report=report(64, 20))
        assert calls(replace(wanted, standby=())) == [CreateInterface("subnet-a", (GROUP,), prefixes=2)]
        assert calls(wanted) == [ClaimStandby("eni-5")]
        assert calls(replace(wanted, waits=waits(0, 60))) == [ClaimStandby("eni-5")]

    def test_the_smallest_that_brings_it_all_is_taken(self) -> None:
        wanted = view(FULL, standby=(spare(5, 4), spare(6, 2), spare(7, 1), spare(8, 2)), report=report(64, 20))
        assert calls(wanted) == [ClaimStandby("eni-6")]

    def test_the_largest_where_none_brings_it_all_and_then_another(self) -> None:
        wanted = view(FULL, standby=(spare(5, 1), spare(6, 4), spare(7, 4)), report=report(64, 90))
        policy = rules(max_pods=400)
        assert calls(wanted, policy) == [ClaimStandby("eni-6")]
        after = with_claim(wanted, "eni-6", won=True)
        assert calls(after, policy) == [Attach("eni-6", 1), ClaimStandby("eni-7")]

    def test_one_that_brings_it_all_wins_over_more_calls(self) -> None:
        few = replace(LIMITS, addresses_per_interface=3)
        wanted = view(primary(1), standby=(spare(5, 2),), report=report(16, 24))
        assert len(plan(replace(wanted, standby=()), rules(), few, SUBNETS).calls) >= 1
        assert plan(wanted, rules(), few, SUBNETS).calls == (ClaimStandby("eni-5"),)

    def test_a_subnet_without_free_addresses_still_has_those_that_stand_by(self) -> None:
        full = (replace(SUBNETS[0], free=0),)
        wanted = view(FULL, standby=(spare(5),), report=report(64, 20))
        assert calls(wanted, subnets=full) == [ClaimStandby("eni-5")]

    def test_while_the_node_is_pending_it_is_claimed_and_attached_once_it_runs(self) -> None:
        wanted = view(FULL, standby=(spare(5),), instance=replace(INSTANCE, state="pending"), report=report(64, 20))
        assert calls(wanted) == [ClaimStandby("eni-5")]
        claimed = with_claim(wanted, "eni-5", won=True)
        assert calls(claimed) == []
        assert calls(replace(claimed, instance=INSTANCE)) == [Attach("eni-5", 1)]

    def test_whoever_loses_the_race_takes_the_next_and_then_makes_one(self) -> None:
        wanted = view(FULL, standby=(spare(5), spare(6)), report=report(64, 20))
        once = with_claim(wanted, "eni-5", won=False)
        assert calls(once) == [ClaimStandby("eni-6")]
        assert calls(with_claim(once, "eni-6", won=False)) == [CreateInterface("subnet-a", (GROUP,), prefixes=2)]


class TestWhereThereIsRoom:
    WANTED = view(primary(1), standby=(spare(5),), report=report(16, 4))

    @pytest.mark.parametrize(
        ("assign", "attach", "taken"),
        [(0, 0, False), (0, 5, False), (2, 2, False), (2, 3, False), (2, 1.9, True), (0.1, 0, True)],
    )
    def test_the_fuller_bucket_is_drawn_on_and_a_tie_leaves_nothing_idle(
        self, assign: float, attach: float, taken: bool
    ) -> None:
        found = calls(replace(self.WANTED, waits=waits(assign, attach)))
        assert found == ([ClaimStandby("eni-5")] if taken else [AssignPrefixes("eni-0", 1)])

    def test_it_must_bring_all_that_is_missing(self) -> None:
        more = replace(self.WANTED, waits=waits(9, 0), report=report(16, 40), standby=(spare(5, 2),))
        assert calls(more) == [AssignPrefixes("eni-0", 3)]

    def test_warming_alone_waits_for_its_own_bucket(self) -> None:
        warming = replace(self.WANTED, waits=waits(9, 0), report=report(10))
        assert calls(warming) == [AssignPrefixes("eni-0", 1)]

    def test_a_new_node_does_not(self) -> None:
        new = view(primary(), standby=(spare(5, 1),), waits=waits(9, 0))
        assert calls(new) == [ClaimStandby("eni-5")]

    def test_no_more_than_max_pods_can_ever_use(self) -> None:
        small = replace(self.WANTED, waits=waits(9, 0))
        assert calls(small, rules(max_pods=32)) == [AssignPrefixes("eni-0", 1)]
        assert calls(replace(small, standby=(spare(5, 1),)), rules(max_pods=32)) == [ClaimStandby("eni-5")]

    def test_a_pending_node_that_would_have_to_wait_decides_when_it_runs(self) -> None:
        pending = replace(self.WANTED, waits=waits(9, 0), instance=replace(INSTANCE, state="pending"))
        found = plan(pending, rules(), LIMITS, SUBNETS)
        assert found.calls == ()
        assert "pending" in found.waiting
        assert calls(replace(pending, waits=waits(0, 0))) == [AssignPrefixes("eni-0", 1)]


class TestWhatFits:
    @pytest.mark.parametrize(
        "other",
        [
            spare(5, groups=("sg-other",)),
            spare(5, groups=(GROUP, "sg-other")),
            spare(5, zone="az-b"),
            spare(5, vpc_id="vpc-2"),
            spare(5, subnet_id="subnet-b"),
            spare(5, cluster="other"),
            spare(5, blocks=5),  # the type holds five addresses on an interface, the primary one included
            spare(5, blocks=0),
            replace(spare(5), node="i-another"),
            eni(5, 3, index=1, ours=False, cluster="demo", standby="pool"),
        ],
        ids=["groups", "more-groups", "zone", "vpc", "subnet", "cluster", "slots", "empty", "another's", "attached"],
    )
    def test_another_is_never_taken(self, other: InterfaceView) -> None:
        wanted = view(FULL, standby=(other,), report=report(64, 20))
        assert ClaimStandby(other.id) not in calls(wanted)

    def test_none_in_addresses_mode(self) -> None:
        wanted = view(primary(0, 4), standby=(spare(5),), report=report(4, 3))
        assert ClaimStandby("eni-5") not in calls(wanted, rules("addresses"))

    def test_none_where_the_type_allows_no_further_interface(self) -> None:
        crowded = [eni(n, 4, index=n) for n in (1, 2, 3)]
        assert calls(view(FULL, *crowded, standby=(spare(5),), report=report(256, 20)), rules(max_pods=400)) == []

    def test_none_after_ec2_has_refused_to_attach_more(self) -> None:
        wanted = view(FULL, standby=(spare(5),), report=report(64, 20), setbacks=Setbacks(no_create=True))
        assert calls(wanted) == []

    def test_none_with_groups_that_are_not_allowed(self) -> None:
        assert calls(view(FULL, standby=(spare(5),), report=report(64, 20), allowed_groups=frozenset())) == []


class TestWhatFollows:
    def claimed(self, status: str = "attached", *, protected: bool = False) -> NodeView:
        mine = eni(5, 3, index=1, standby="pool")
        assert mine.attachment is not None
        at = replace(mine.attachment, status=status, delete_on_termination=protected)
        return view(FULL, replace(mine, attachment=at), claimed=frozenset({"eni-5"}), report=report(64, 20))

    def test_protection_and_tag_come_in_a_later_look_than_the_attachment(self) -> None:
        found = plan(self.claimed("attaching"), rules(), LIMITS, SUBNETS)
        assert found.calls == ()
        assert "follow" in found.waiting
        attachment = "attach-5"
        assert calls(self.claimed()) == [SetDeleteOnTermination("eni-5", attachment), TagForNode("eni-5")]
        assert calls(self.claimed(protected=True)) == [TagForNode("eni-5")]

    def test_a_tag_that_is_given_is_waited_for_so_that_the_claim_ends(self) -> None:
        tagged = replace(self.claimed(protected=True), claimed=frozenset(), settling=frozenset({"eni-5"}))
        found = plan(tagged, rules(), LIMITS, SUBNETS)
        assert found.calls == ()
        assert "tag of eni-5" in found.waiting

    def test_they_come_after_everything_that_pods_wait_for(self) -> None:
        busy = replace(self.claimed(), report=report(112, 20))
        found = [type(c) for c in calls(busy, rules(max_pods=400))]
        assert found == [CreateInterface, SetDeleteOnTermination, TagForNode]

    def test_what_is_claimed_counts_as_the_nodes_before_its_tag_is_there(self) -> None:
        shown = replace(eni(5, 3, index=1, standby="pool"), node=None)
        merged, lacking, named = with_claimed([FULL, shown], [spare(5)], NODE)
        assert [i.node for i in merged if i.id == "eni-5"] == [NODE]
        assert (set(lacking), set(named)) == ({"eni-5"}, set())
        assert merged[1].attachment == shown.attachment
        tagged = replace(shown, node=NODE)
        assert [set(s) for s in with_claimed([FULL, tagged], [spare(5)], NODE)[1:]] == [set(), {"eni-5"}]
        assert with_claimed([FULL], [spare(5)], NODE)[0][1] == replace(spare(5), node=NODE)


# ------------------------------------------------------------------------------------------------ at random

INTERFACE = st.builds(
    lambda n, blocks, zone, group, cluster: spare(n, blocks, zone=zone, groups=(group,), cluster=cluster),
    st.integers(10, 30),
    st.integers(0, 6),
    st.sampled_from(["az-a", "az-a", "az-b"]),
    st.sampled_from([GROUP, GROUP, "sg-other"]),
    st.sampled_from(["demo", "demo", "other"]),
)
SECONDS = st.sampled_from([0.0, 0.5, 3.0])


@st.composite
def nodes(draw: st.DrawFn) -> NodeView:
    seconds = [eni(n, draw(st.integers(0, 4)), index=n) for n in range(1, 1 + draw(st.integers(0, 3)))]
    first = primary(draw(st.integers(0, 4)))
    spares = draw(st.lists(INTERFACE, max_size=5, unique_by=lambda i: i.id))
    said = draw(st.none() | st.builds(report, st.integers(0, 100), st.integers(0, 60)))
    return view(first, *seconds, standby=tuple(spares), report=said, waits=waits(draw(SECONDS), draw(SECONDS)))


def carried_out(wanted: NodeView, call: Call) -> NodeView:
    if isinstance(call, ClaimStandby):
        return with_claim(wanted, call.interface_id, won=True)
    if isinstance(call, TagForNode):
        return replace(wanted, claimed=wanted.claimed - {call.interface_id})
    shown = []
    for i in wanted.interfaces:
        if isinstance(call, Attach) and i.id == call.interface_id:
            shown.append(replace(i, attachment=eni(99, index=call.device_index).attachment))
        elif isinstance(call, AssignPrefixes) and i.id == call.interface_id:
            fresh = tuple(f"10.9.{i.id.removeprefix('eni-')}.{16 * n}/28" for n in range(call.count))
            shown.append(replace(i, prefixes=(*i.prefixes, *fresh)))
        else:
            shown.append(i)
    if isinstance(call, CreateInterface):
        number = 200 + len(shown)
        shown.append(replace(eni(number, call.prefixes), groups=call.groups))
    return replace(wanted, interfaces=tuple(shown))


@given(nodes(), st.integers(1, 110))
def test_only_what_matches_is_claimed_within_every_limit_and_the_plan_ends(wanted: NodeView, max_pods: int) -> None:
    policy = rules(max_pods=max_pods)
    offered = {i.id: i for i in wanted.standby}
    for _ in range(30):
        planned = plan(wanted, policy, LIMITS, SUBNETS)
        assert planned == plan(wanted, policy, LIMITS, SUBNETS), "the same view gives the same plan"
        before = plan(replace(wanted, standby=()), policy, LIMITS, SUBNETS)
        assert planned.unmet <= before.unmet, "a standby interface never leaves more unmet"
        if not planned.calls:
            break
        call = planned.calls[0]
        if isinstance(call, ClaimStandby):
            taken = offered[call.interface_id]
            assert (taken.zone, taken.groups, taken.cluster) == ("az-a", (GROUP,), "demo")
            assert 1 < taken.slots <= LIMITS.addresses_per_interface
            brought = sum(map(address_count, taken.blocks))
            most = -(-max_pods // 16) * 16
            assert wanted.assigned() + brought <= max(most, wanted.assigned() + 16 * -(-max_pods // 16))
        wanted = carried_out(wanted, call)
        mine = [i for i in wanted.interfaces if i.node in (None, NODE)]
        assert len(mine) <= LIMITS.interfaces
    else:
        pytest.fail("no end")
