"""Snapshots: read from Describe answers, saved, and read again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from berth.flat.documents import UnreadableSnapshotError, dump, load
from berth.flat.matrix import check
from berth.flat.reading import read_snapshot

from tests.flat.answers import answers_of
from tests.flat.design import draw
from tests.unit.flat.networks import network, with_peer


@pytest.mark.parametrize("seed", range(30))
def test_a_snapshot_and_its_verdict_survive_being_saved(seed: int) -> None:
    design = draw(seed)
    snapshot = read_snapshot(answers_of(design), no_snat=design.no_snat, taken_at="2026-11-28T12:00:00+00:00")
    again = load(json.loads(json.dumps(dump(snapshot))))
    assert again == snapshot
    assert again.taken_at == snapshot.taken_at
    assert check(again) == check(snapshot)


def test_a_design_is_the_same_for_the_same_seed() -> None:
    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "something"}, "no snapshot"),
        ({"version": 99}, "version 99"),
        ({"vpcs": [{"id": "vpc-1"}]}, r"vpcs\[0\]"),
        ({"vpcs": [{"id": 5, "cidrs": []}]}, r"vpcs\[0\]\.id: expected str"),
        ({"nodes": "i-1"}, "nodes: expected a list"),
        ({"peerings": [{"id": "x", "vpcs": ["a"], "cidrs": [[], []]}]}, "expected 2 values"),
    ],
)
def test_what_is_no_snapshot_is_refused_with_the_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UnreadableSnapshotError, match=said):
        load(dump(network()) | change)


def test_fields_of_later_versions_are_passed_over() -> None:
    assert load(dump(network()) | {"news": 1}) == network()


def test_an_empty_account_has_nothing_to_check() -> None:
    matrix = check(read_snapshot({}))
    assert (matrix.cells, matrix.flat) == ((), False)


@pytest.mark.parametrize("item", ["Ipv6CidrBlock", "detached", "terminated", "deleted"])
def test_what_does_not_count_is_left_out(item: str) -> None:
    answers: dict[str, list[dict[str, Any]]] = {
        "Ipv6CidrBlock": [{"NetworkAclId": "acl-1", "VpcId": "v", "Entries": [
            {"RuleNumber": 1, "Egress": True, "RuleAction": "allow", "Protocol": "-1", "Ipv6CidrBlock": "::/0"}]}],
        "detached": [{"NetworkInterfaceId": "eni-1", "SubnetId": "s", "PrivateIpAddress": "10.0.0.9",
                      "Attachment": {"InstanceId": "i-1", "Status": "detached", "DeviceIndex": 1}}],
        "terminated": [{"InstanceId": "i-1", "State": {"Name": "terminated"}}],
        "deleted": [{"NatGatewayId": "nat-1", "State": "deleted", "SubnetId": "s", "NatGatewayAddresses": []}],
    }  # fmt: skip
    key = {"Ipv6CidrBlock": "NetworkAcls", "detached": "NetworkInterfaces", "terminated": "Instances",
           "deleted": "NatGateways"}[item]  # fmt: skip
    snapshot = read_snapshot({key: answers[item]})
    assert not snapshot.nodes
    assert not snapshot.nat_gateways
    assert not any(a.entries for a in snapshot.acls)
    assert not any(i.instance for i in snapshot.interfaces)


def test_a_peering_of_the_snapshot_counts_the_peers_cidrs() -> None:
    assert "10.1.0.0/16" in {e.name for e in check(with_peer(network(), described=False)).endpoints}
