"""Events: every parser reads its sample, what cannot be read says why, what is sent matches its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from berth import bus
from berth.contract import PodRequest, decode_report
from berth.events import PARSERS, MalformedEventError, UnknownEventError, parse
from berth.events.node_look_requested import body
from berth.free_blocks import Room
from berth.model import PolicyProblem

ROOT = Path(__file__).parents[3]
NODE = "i-0123456789abcdef0"
ARN = f"arn:aws:ec2:eu-west-1:123456789012:instance/{NODE}"
SAMPLES = {p.stem: p for p in sorted((ROOT / "events").glob("*.json"))}
OTHERS = (
    "node-report",
    "scheduled-sweep",
    "network-interface-call",
    "network-change",
    "route-change",
    "flow-log-object",
)
"""Samples that other functions take, or that are no events of a rule with a parser."""
QUEUED = {n: p for n, p in SAMPLES.items() if n not in OTHERS}


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def queued(name: str) -> Any:
    (record,) = load(QUEUED[name])["Records"]
    return json.loads(record["body"])


def changed(name: str, **detail: object) -> str:
    event = queued(name)
    event["detail"] |= detail
    return json.dumps(event)


def test_every_parser_has_a_sample_and_every_sample_a_parser() -> None:
    keys = {(e["source"], e["detail-type"]) for e in map(queued, QUEUED)}
    assert keys == set(PARSERS)


@pytest.mark.parametrize("name", QUEUED)
def test_a_sample_is_read_by_its_parser(name: str) -> None:
    signal = parse(json.dumps(queued(name)))
    assert signal.instance_id == NODE
    assert signal.reason


def test_a_spot_warning_counts_from_when_it_was_sent() -> None:
    signal = parse(changed("spot-interruption-warning"))
    assert signal.draining_until == 1793599200.0 + 600
    assert signal.has_hints


def test_requested_capacity_is_read() -> None:
    signal = parse(changed("node-capacity-requested"))
    assert (signal.requested, signal.requested_until) == (48, 1793602800.0)
    assert signal.requested_at == 1793599200.0
    assert signal.event_id == queued("node-capacity-requested")["id"]


def test_our_own_delayed_message_is_read_back() -> None:
    assert parse(body(NODE, "because")).reason == "because"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "expected an object"),
        ("9" * 5000, "is not JSON"),
        ('{"source": 1}', "source"),
        ('{"source": "aws.ec2", "detail-type": "x"}', "detail"),
        (changed("instance-state-change", **{"instance-id": "i-nope"}), "detail.instance-id"),
        (changed("instance-state-change", **{"instance-id": None}), "detail.instance-id"),
        (changed("launch-lifecycle-action", EC2InstanceId="../../etc"), "detail.EC2InstanceId"),
        (changed("node-capacity-requested", addresses="many"), "detail.addresses"),
        (changed("node-capacity-requested", addresses=True), "detail.addresses"),
        (changed("node-capacity-requested", addresses=5000), "detail.addresses"),
        (changed("node-capacity-requested", until="tomorrow"), "detail.until"),
        (changed("node-capacity-requested", until="2026-11-02T07:00:00"), "detail.until"),
    ],
)
def test_a_malformed_event_names_the_field(text: str, says: str) -> None:
    with pytest.raises(MalformedEventError, match=says.replace(".", r"\.")):
        parse(text)


def test_an_unknown_event_says_which() -> None:
    with pytest.raises(UnknownEventError, match="EC2 Spot Fleet"):
        parse('{"source": "aws.ec2spotfleet", "detail-type": "EC2 Spot Fleet State Change", "detail": {}}')


def test_the_report_sample_is_a_report() -> None:
    (record,) = load(SAMPLES["node-report"])["Records"]
    assert decode_report(record["body"]).in_use == 11


SENT = {
    "node-addresses-ready": bus.addresses_ready(ARN, NODE, 16, 2),
    "node-address-demand-unmet": bus.demand_unmet(ARN, NODE, 9, "why"),
    "subnet-addresses-low": bus.subnet_low(
        "subnet-1", "eu-west-1a", 20, 251, ("addresses", "prefixes"), Room(0, 14, "10.0.1.200/30")
    ),
    "network-interface-reclaimed": bus.interface_reclaimed(NODE, "eni-1", "why"),
    "standby-pool-invalid": bus.standby_pool_invalid([PolicyProblem("StandbyPools", "x", "expected …")]),
    "network-not-flat": bus.network_not_flat(
        9,
        1,
        [
            {
                "code": "acl-ingress",
                "resource": "acl-1",
                "rule": "r",
                "remedy": "m",
                "on-the-way-back": True,
                "breaks": ["a → b tcp"],
            }
        ],
    ),
    "routes-unknown": bus.routes_unknown("pl-1", ["rtb-1"], 2),
    "public-address-unavailable": bus.public_address_unavailable(
        ARN, NODE, PodRequest("c/eth0", namespace="shop", name="edge", public="pool:edge"), "why"
    ),
    "node-policy-invalid": bus.policy_invalid(ARN, NODE, [PolicyProblem("berth:mode", "x", "expected …")]),
}


@pytest.mark.parametrize("name", [*SENT, "node-capacity-requested"])
def test_a_sample_matches_its_schema(name: str) -> None:
    sample = queued(name) if name in QUEUED else load(ROOT / "events" / "emitted" / f"{name}.json")
    schema = load(ROOT / "docs" / "events" / f"{name}.schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(sample, schema, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("name", SENT)
def test_what_is_sent_matches_its_schema(name: str) -> None:
    event = SENT[name]
    schema = load(ROOT / "docs" / "events" / f"{name}.schema.json")
    sent = {"source": bus.SOURCE, "detail-type": event.detail_type, "detail": dict(event.detail)}
    jsonschema.validate(sent, schema)
    assert not set(schema["properties"]["detail"]["properties"]) ^ set(event.detail)
