"""The deployed rules: what each sample matches, and that nothing Berth tells ever comes back to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from berth import bus
from moto.events.models import EventPattern

from tests.unit.control.stack_template import ROOT, load_template

RESOURCES: dict[str, Any] = load_template()["Resources"]
OWN_BUS = {"Ref": "Bus"}
EMITTED = sorted((ROOT / "events" / "emitted").glob("*.json"))


def plain(value: Any) -> Any:
    """A pattern with what CloudFormation would fill in: the text of each reference."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        if "Fn::If" in value:
            return plain(value["Fn::If"][1])
        intrinsic = next((k for k in value if k == "Ref" or k.startswith("Fn::")), None)
        return str(value[intrinsic]) if intrinsic else {k: plain(v) for k, v in value.items()}
    return value


RULES: dict[str, tuple[bool, EventPattern]] = {
    name: (r["Properties"].get("EventBusName") == OWN_BUS, EventPattern.load(json.dumps(plain(pattern))))
    for name, r in RESOURCES.items()
    if r["Type"] == "AWS::Events::Rule" and (pattern := r["Properties"].get("EventPattern"))
}
SENT_BY = {
    "instance-state-change": "InstanceStateRule",
    "launch-lifecycle-action": "LifecycleActionRule",
    "terminate-lifecycle-action": "LifecycleActionRule",
    "spot-interruption-warning": "SpotWarningRule",
    "rebalance-recommendation": "RebalanceRule",
    "node-capacity-requested": "CapacityRequestRule",
    "network-interface-call": "DriftRule",
    "network-change": "NetworkChangeRule",
    "flow-log-object": "FlowObjectRule",
    "route-change": "RouteChangeRule",
}


def queued(path: Path) -> Any:
    (message,) = json.loads(path.read_text())["Records"]
    return json.loads(message["body"])


def matching(event: Any) -> list[str]:
    return [name for name, (_, pattern) in RULES.items() if pattern.matches_event(event)]


@pytest.mark.parametrize("sample", SENT_BY)
def test_a_sample_matches_the_one_rule_that_brings_it(sample: str) -> None:
    event = queued(ROOT / "events" / f"{sample}.json")
    if "bucket" in event["detail"]:
        assert matching(event) == [], "of another bucket"
        event["detail"]["bucket"]["name"] = "FlowLogBucket"  # what the rule's reference stands for
    assert matching(event) == [SENT_BY[sample]]


@pytest.mark.parametrize("action", ["DeleteRoute", "AcceptVpcPeeringConnection", "EnableVgwRoutePropagation"])
def test_a_change_of_routes_is_followed_and_the_network_checked_whoever_made_it(action: str) -> None:
    event = queued(ROOT / "events" / "route-change.json")
    for identity in (USER, {"type": "AssumedRole", "invokedBy": "cloudformation.amazonaws.com"}):
        event["detail"] |= {"eventName": action, "userIdentity": identity}
        assert matching(event) == ["NetworkChangeRule", "RouteChangeRule"]
    event["detail"] |= {"errorCode": "Client.UnauthorizedOperation"}
    assert matching(event) == []


BERTH = {"sessionContext": {"sessionIssuer": {"arn": "ReconcileRole.Arn"}}}
USER = {"type": "IAMUser", "arn": "arn:aws:iam::123456789012:user/alice"}
BALANCER = {"type": "AssumedRole", "invokedBy": "elasticloadbalancing.amazonaws.com"}


@pytest.mark.parametrize(
    ("detail", "heard"),
    [
        ({"userIdentity": USER}, True),
        ({"userIdentity": BERTH}, False),
        ({"userIdentity": BALANCER}, False),
        ({"errorCode": "Client.UnauthorizedOperation"}, False),
        ({"eventName": "CreateNetworkInterface"}, False),
        ({"eventName": "DeleteNetworkInterface"}, True),
        ({"eventName": "AssociateAddress"}, True),
        ({"eventName": "DisassociateAddress"}, True),
        ({"eventName": "DisassociateAddress", "userIdentity": BERTH}, False),
    ],
)
def test_changes_to_interfaces_are_heard_of_when_others_make_them(detail: dict[str, Any], heard: bool) -> None:
    """And not AWS's own services, whose interfaces are never ours."""
    event = queued(ROOT / "events" / "network-interface-call.json")
    event["detail"] |= detail
    assert matching(event) == (["DriftRule"] if heard else [])


def test_every_rule_with_a_pattern_has_a_sample() -> None:
    assert set(RULES) == set(SENT_BY.values())


@pytest.mark.parametrize("sample", EMITTED, ids=lambda p: p.stem)
def test_what_berth_tells_matches_no_rule_of_its_own(sample: Path) -> None:
    """On any bus, also with a detail that looks like a request."""
    event = json.loads(sample.read_text())
    assert event["source"] == bus.SOURCE
    request = queued(ROOT / "events" / "node-capacity-requested.json")
    assert matching(event) == []
    assert matching(request | {"source": bus.SOURCE}) == []
    assert matching(event | {"detail-type": request["detail-type"], "detail": request["detail"]}) == []


def test_every_event_that_berth_tells_has_a_sample_and_a_schema() -> None:
    makers = (getattr(bus, name) for name in bus.__all__)
    told = {c for m in makers if callable(m) for c in getattr(getattr(m, "__code__", None), "co_consts", ())}
    names = {c.lower().replace(" ", "-") for c in told if isinstance(c, str) and c.istitle() and " " in c}
    assert {p.stem for p in EMITTED} == names
    schemas = {p.name.removesuffix(".schema.json") for p in (ROOT / "docs" / "events").glob("*.json")}
    assert schemas == names | {"node-capacity-requested"}


def test_only_our_own_bus_takes_requests() -> None:
    assert [name for name, (ours, _) in RULES.items() if ours] == ["CapacityRequestRule"]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_may_put_what_it_brings_on_its_queue_and_keeps_what_is_not_taken(name: str) -> None:
    (target,) = RESOURCES[name]["Properties"]["Targets"]
    allowed = [
        arn
        for r in RESOURCES.values()
        if r["Type"] == "AWS::SQS::QueuePolicy"
        for s in r["Properties"]["PolicyDocument"]["Statement"]
        if s["Effect"] == "Allow" and target["Arn"] in s["Resource"]
        for arn in s["Condition"]["ArnEquals"]["aws:SourceArn"]
    ]
    assert {"Fn::GetAtt": f"{name}.Arn"} in allowed
    # what others' calls tell is found by the sweep or the next check too
    assert ("DeadLetterConfig" in target) is (name not in ("DriftRule", "NetworkChangeRule", "RouteChangeRule"))


@pytest.mark.parametrize("clusters", [["demo"], ["blue", "green", "red"]])
def test_hooks_are_completed_in_groups_with_the_clusters_tag_alone(clusters: list[str]) -> None:
    policy = RESOURCES["ReconcileHooksPolicy"]
    text, values = policy["Properties"]["PolicyDocument"]["Fn::Sub"]
    delimiter, _ = values["Clusters"]["Fn::Join"]
    statements = json.loads(text.replace("${Clusters}", delimiter.join(clusters)))["Statement"]
    assert policy["Condition"] == "CompletesLaunchHooks"
    assert [next(iter(s["Condition"]["StringEquals"])) for s in statements] == [
        f"aws:ResourceTag/kubernetes.io/cluster/{name}" for name in clusters
    ]
    for statement in statements:
        assert statement["Effect"] == "Allow"
        assert statement["Condition"]["StringEquals"].popitem()[1] == ["owned", "shared"]
        assert statement["Resource"].endswith(":autoScalingGroup:*:autoScalingGroupName/*")
        assert statement["Action"] == [
            "autoscaling:CompleteLifecycleAction",
            "autoscaling:RecordLifecycleActionHeartbeat",
        ]
