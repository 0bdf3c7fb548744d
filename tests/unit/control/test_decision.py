"""A decision survives its log line, loses nothing that a planner looks at, and fits."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from berth.calls import AssignAddresses, AssignPrefixes, CreateInterface
from berth.cli.decoding import UnreadableError, decode
from berth.contract import Assignment, Interface, Order, Record, Report, Surrender
from berth.decision import Decision, Recorder, Rules, encode, prune, replan
from berth.model import Attachment, InterfaceView, NodePolicy, NodeView, SubnetView
from berth.plan import Plan, plan, plan_absence, plan_death
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.control.test_plan import INSTANCE, LIMITS, nodes, rules, view
from tests.unit.control.test_plan import SUBNETS as AROUND
from tests.unit.control.test_plan_oracle import Case, cases

SUBNET = SubnetView("subnet-1", "10.0.0.0/16", "vpc-1", "az-a", 500, allowed=True)
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
EVERYTHING = st.from_type(Decision)
"""Decisions with any value in every field, by the fields' own types."""


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(EVERYTHING)
def test_what_is_logged_is_read_back_equal(decision: Decision) -> None:
    assert decode(json.loads(json.dumps(encode(decision)))) == (decision, ())


@settings(max_examples=200, deadline=None)
@given(cases())
def test_a_planner_does_not_miss_what_is_left_out(case: Case) -> None:
    far = replace(SUBNET, id="subnet-far", zone="az-z", tags=(("secret", "x"),))
    seen = replace(
        case.view,
        instance=replace(case.view.instance, tags=(("password", "x"), ("berth:mode", "prefixes"))),
        allowed_groups=case.view.allowed_groups | {"sg-of-others"},
        notes=replace(case.view.notes, next_look=7.0, looks=3),
    )
    decision = Decision(seen, Plan(), Rules(case.policy, case.limits, (*case.subnets, far)))
    small = prune(decision)
    assert replan(small) == replan(decision)
    text = json.dumps(encode(small))
    assert not [word for word in ("password", "secret", "sg-of-others", "subnet-far") if word in text]


@settings(max_examples=200, deadline=None)
@given(nodes())
def test_nor_on_a_node_of_any_state_with_any_report(node: tuple[NodeView, NodePolicy]) -> None:
    decision = Decision(node[0], Plan(), Rules(node[1], LIMITS, AROUND))
    small, unknown = decode(json.loads(json.dumps(encode(prune(decision)))))
    assert (replan(small), unknown) == (replan(decision), ())


def test_the_tag_that_subnets_are_selected_by_is_kept() -> None:
    near = replace(SUBNET, tags=(("other", "x"), ("pods", "yes")))
    decision = Decision(view(), Plan(), Rules(NodePolicy(subnets=("pods", "yes")), LIMITS, (near,)))
    kept = prune(decision).rules
    assert kept is not None
    assert kept.subnets[0].tags == (("pods", "yes"),)


def test_the_dead_and_the_absent_are_replayed_by_their_own_planners() -> None:
    ours = InterfaceView(
        "eni-2", "", "subnet-1", "vpc-1", "az-a", "10.0.0.9", cluster="demo", node=INSTANCE.id, created_at=1.0
    )
    gone = NodeView(replace(INSTANCE, state="terminated"), "demo", (ours,), now=10.0)
    recorders = Recorder(plan_death), Recorder(plan_absence)
    for recorder in recorders:
        recorder(gone)
    death, absence = (r.decisions[0] for r in recorders)
    assert (death.absent, absence.absent) == (False, True)
    assert replan(death) == death.plan != absence.plan == replan(absence)


def test_only_decisions_that_do_not_follow_from_the_one_before_are_kept() -> None:
    first, second = AssignPrefixes("eni-1", 1), CreateInterface("subnet-1", ("sg-1",), prefixes=1)
    third = AssignAddresses("eni-1", 3)
    plans = iter([Plan((first, second)), Plan((second,)), Plan(()), Plan((third,)), Plan((third,))])
    recorder = Recorder(lambda _: next(plans))
    for _ in range(5):
        recorder(view())
    assert [d.plan.calls for d in recorder.decisions] == [(first, second), (third,)]


def test_a_quiet_decision_is_one_with_nothing_to_do_to_miss_or_to_wait_for() -> None:
    assert Decision(view(), Plan()).quiet
    assert not any(
        Decision(view(), p).quiet for p in (Plan(unmet=1), Plan(waiting="x"), Plan((AssignPrefixes("eni-1", 1),)))
    )


def test_the_largest_node_fits_a_log_line() -> None:
    """15 interfaces of 50 single addresses, all in the record, half of them given back."""
    interfaces, listed, surrendered = [], [], []
    for number in range(15):
        mac, addresses = f"02:00:00:00:00:{number:02x}", tuple(f"10.20.{number}.{a}" for a in range(2, 51))
        attachment = Attachment(f"eni-attach-{number:017x}", INSTANCE.id, number, delete_on_termination=True)
        interfaces.append(
            InterfaceView(f"eni-{number:017x}", mac, "subnet-1", "vpc-1", "az-a", f"10.20.{number}.1", addresses,
                          groups=("sg-1",) * 5, attachment=attachment, cluster="demo", node=INSTANCE.id, created_at=1e9)
        )  # fmt: skip
        given = tuple(Assignment(f"{a}/32", f"{number:032x}", releasing=bool(number % 2)) for a in addresses)
        listed.append(
            Interface(f"eni-{number:017x}", mac, number, "subnet-1", "10.20.0.0/16", "10.20.0.1", f"10.20.{number}.1",
                      assignments=given)
        )  # fmt: skip
        surrendered += [Surrender(mac, a.cidr, a.id) for a in given if number % 2]
    seen = view(
        *interfaces,
        record=Record(INSTANCE.arn, 7, interfaces=tuple(listed)),
        marked=tuple((s.assignment, 3) for s in surrendered),
        report=Report(Order(1, 2), 7, 300, surrendered=tuple(surrendered)),
    )
    decision = Decision(seen, Plan(), Rules(rules("addresses"), LIMITS, (SUBNET,)))
    assert len(json.dumps(encode(prune(decision)))) < 256_000


def test_an_ordinary_node_takes_a_few_kilobytes() -> None:
    decision = Decision(view(), plan(view(), rules(), LIMITS, [SUBNET]), Rules(rules(), LIMITS, (SUBNET,)))
    assert len(json.dumps(encode(prune(decision)))) < 2_000


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({}, "v"),
        ({"v": 99}, "upgrade"),
        ({"v": 1}, "decision"),
        ({"v": 1, "view": 3, "plan": {}}, "decision.view"),
        ({"v": 1, "view": {"instance": {}, "cluster": "c"}, "plan": {}}, "decision.view.instance"),
        ({"v": 1, "view": {"instance": {}, "cluster": 3}, "plan": {}}, "decision.view"),
        ({"v": 1, "view": {}, "plan": {"calls": [{"call": "LaunchRocket"}]}}, "LaunchRocket"),
        ({"v": 1, "view": {}, "plan": {"calls": {}}}, "decision.plan.calls"),
        ({"v": 1, "view": {}, "plan": {"unmet": True}}, "decision.plan.unmet"),
    ],
)
def test_what_cannot_be_read_names_its_field(item: dict[str, object], named: str) -> None:
    with pytest.raises(UnreadableError, match=named):
        decode(item if "plan" not in item or item.get("view") != {} else {**item, "view": encode(_ANY)["view"]})


_ANY = Decision(view(), Plan())


def test_fields_of_a_newer_version_are_named_and_passed_over() -> None:
    item = encode(_ANY)
    item["view"]["colour"] = "blue"
    assert decode(item) == (_ANY, ("decision.view.colour",))
