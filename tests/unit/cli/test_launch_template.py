"""`berth launch-template`: what the first interface carries, where it stands, and what the operator is warned of."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from berth.cli.main import main
from berth.cli.template_data import merge, size, template_data
from berth.contract import Policy
from berth.growth import deficit
from berth.model import Limits, NodePolicy, NodeView
from berth.plan import plan
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.control.test_plan import INSTANCE, SUBNETS, primary

LARGE = Limits(interfaces=3, addresses_per_interface=10)
XLARGE = Limits(interfaces=4, addresses_per_interface=15)
XEN = Limits(interfaces=4, addresses_per_interface=15, prefixes=False)
GROUP = "sg-0123456789abcdef0"
OFFLINE = ("--interfaces", "4", "--addresses-per-interface", "15")
COMMAND = ("launch-template", "--cluster", "demo", "--instance-type", "m6i.xlarge", *OFFLINE)


@pytest.mark.parametrize(
    ("policy", "limits", "prefixes", "addresses", "missing"),
    [
        (Policy(), XLARGE, 1, 0, 0),
        (Policy(minimum_addresses=30), XLARGE, 2, 0, 0),
        (Policy(minimum_addresses=110), XLARGE, 7, 0, 0),
        (Policy(minimum_addresses=500), XLARGE, 7, 0, 0),  # max-pods is 110
        (Policy(minimum_addresses=250, max_pods=250), XLARGE, 14, 0, 26),
        (Policy(warm_addresses=0), XLARGE, 1, 0, 0),
        (Policy(mode="addresses", minimum_addresses=5), XLARGE, 0, 8, 0),
        (Policy(mode="addresses", minimum_addresses=40), XLARGE, 0, 14, 26),
        (Policy(minimum_addresses=10), XEN, 0, 10, 0),
    ],
)
def test_it_carries_what_a_new_node_would_be_given(
    policy: Policy, limits: Limits, prefixes: int, addresses: int, missing: int
) -> None:
    sizing = size(policy, {"type": limits})
    assert (sizing.prefixes, sizing.addresses, sizing.missing) == (prefixes, addresses, missing)


def test_dual_stack_nodes_boot_with_an_ipv6_prefix_too() -> None:
    sizing = size(Policy(ip_families="dual"), {"type": replace(XLARGE, ipv6=True)})
    (interface,) = template_data(sizing, "demo", [GROUP])["NetworkInterfaces"]
    assert (interface["Ipv4PrefixCount"], interface["Ipv6PrefixCount"]) == (1, 1)
    assert size(Policy(ip_families="dual"), {"type": XLARGE}).ipv6_prefixes == 0


def test_several_types_get_what_fits_them_all() -> None:
    policy = Policy(minimum_addresses=200, max_pods=250)
    assert size(policy, {"a": XLARGE, "b": LARGE}).prefixes == 9
    assert size(policy, {"a": XLARGE, "b": XEN}).prefixes == 0


@settings(max_examples=100, deadline=None)
@given(
    warm=st.integers(0, 60),
    minimum=st.integers(0, 200),
    max_pods=st.integers(1, 110),
    limits=st.sampled_from([LARGE, XLARGE]),
)
def test_a_node_that_boots_with_it_needs_no_call(warm: int, minimum: int, max_pods: int, limits: Limits) -> None:
    policy = Policy("prefixes", warm, minimum, max_pods)
    sizing = size(policy, {"type": limits})
    held = tuple(f"10.0.0.{16 * n}/28" for n in range(sizing.prefixes))
    booted = NodeView(INSTANCE, "demo", (replace(primary(), prefixes=held),), allowed_groups=frozenset({"sg-1"}))
    if not sizing.missing:
        assert plan(booted, NodePolicy(policy), limits, SUBNETS).calls == ()
    assert deficit(booted, NodePolicy(policy)) == sizing.missing


def _data(**changes: Any) -> dict[str, Any]:
    return template_data(size(Policy(), {"type": XLARGE}), "demo", [GROUP], **changes)


def test_managed_node_groups_find_nothing_in_it_that_they_refuse() -> None:
    data = _data(kind="m6i.xlarge")
    refused = {"IamInstanceProfile", "InstanceMarketOptions", "HibernationOptions", "InstanceInitiatedShutdownBehavior"}
    assert not refused & data.keys()
    assert not {"SecurityGroupIds", "SecurityGroups"} & data.keys()
    (interface,) = data["NetworkInterfaces"]
    assert interface == {"DeviceIndex": 0, "DeleteOnTermination": True, "Groups": [GROUP], "Ipv4PrefixCount": 1}


def test_the_interface_carries_the_clusters_tag_and_no_instance() -> None:
    tags = {t["ResourceType"]: {p["Key"]: p["Value"] for p in t["Tags"]} for t in _data()["TagSpecifications"]}
    assert tags == {"network-interface": {"berth:cluster": "demo"}, "instance": {"kubernetes.io/cluster/demo": "owned"}}


def test_metadata_is_version_2_alone_and_without_tags_whose_slash_would_stop_the_launch() -> None:
    options = _data()["MetadataOptions"]
    assert (options["HttpTokens"], options["InstanceMetadataTags"]) == ("required", "disabled")


def test_a_new_version_keeps_what_the_latest_has() -> None:
    known = {
        "ImageId": "ami-1",
        "UserData": "eA==",
        "SecurityGroupIds": ["sg-b", "sg-a"],
        "NetworkInterfaces": [
            {"DeviceIndex": 0, "SubnetId": "subnet-1", "Ipv4PrefixCount": 4, "AssociatePublicIpAddress": True},
            {"DeviceIndex": 1, "SubnetId": "subnet-1"},
        ],
        "MetadataOptions": {"State": "applied", "HttpTokens": "optional", "HttpProtocolIpv6": "enabled"},
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "a"}]}],
    }  # fmt: skip
    merged = merge(known, template_data(size(Policy(), {"type": XLARGE}), "demo", []))
    first, second = merged["NetworkInterfaces"]
    assert (merged["ImageId"], merged["UserData"]) == ("ami-1", "eA==")
    assert "SecurityGroupIds" not in merged
    assert (first["Groups"], first["AssociatePublicIpAddress"], first["Ipv4PrefixCount"]) == (["sg-a", "sg-b"], True, 1)
    assert "SubnetId" not in first
    assert second == {"DeviceIndex": 1, "SubnetId": "subnet-1"}
    assert merged["MetadataOptions"]["HttpProtocolIpv6"] == "enabled"
    assert merged["MetadataOptions"]["HttpTokens"] == "required"
    (instance, _) = merged["TagSpecifications"]
    assert [t["Key"] for t in instance["Tags"]] == ["kubernetes.io/cluster/demo", "team"]
    assert merge(merged, template_data(size(Policy(), {"type": XLARGE}), "demo", [])) == merged


def test_it_prints_what_the_aws_cli_takes_and_warns_of_fragmented_subnets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--security-group", GROUP, "--minimum-addresses", "30"]) == 0
    said = capsys.readouterr()
    template = json.loads(said.out)
    assert template["LaunchTemplateName"] == "berth-demo"
    assert template["LaunchTemplateData"]["InstanceType"] == "m6i.xlarge"
    tags = template["LaunchTemplateData"]["TagSpecifications"][1]["Tags"]
    assert {"Key": "berth:minimum-addresses", "Value": "30"} in tags
    assert "without 2 free /28 ranges the launch itself fails" in said.err
    assert "create-subnet-cidr-reservation --reservation-type prefix" in said.err


def test_several_types_leave_the_type_to_the_node_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--instance-type", "m6a.xlarge", "--security-group", GROUP]) == 0
    assert "InstanceType" not in json.loads(capsys.readouterr().out)["LaunchTemplateData"]


def test_it_prints_a_resource_for_cloudformation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--security-group", GROUP, "--format", "cloudformation"]) == 0
    assert json.loads(capsys.readouterr().out)["Type"] == "AWS::EC2::LaunchTemplate"


def test_what_does_not_fit_the_first_interface_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--minimum-addresses", "250", "--max-pods", "250")
    assert main([*COMMAND, "--security-group", GROUP, *more]) == 0
    assert "224 fit the first interface" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--security-group is missing"),
        (("--security-group", "web"), "expected an id such as"),
        (("--security-group", GROUP, "--max-pods", "0"), "--max-pods 0: expected 1 to 4096"),
        (("--security-group", GROUP, "--cluster", "a b"), "--cluster 'a b'"),
    ],
)
def test_wrong_usage_says_what_is_expected(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, *arguments]) == 2
    assert said in capsys.readouterr().err
