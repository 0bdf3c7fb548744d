"""The network around a node changes: its interfaces follow, as far as the deployed policies let them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.scenes import ask_for_look, dead_letters, mutations, new_scene, settle
from tests.sandbox.account import wait_for
from tests.sandbox.demo.stages import Scene, launch
from tests.sandbox.landscape import NodeSpec

TWO_LINKS = {"mode": "prefixes", "max-pods": "32", "minimum-addresses": "20"}
"""On a t3.micro: one prefix on each of two interfaces."""
CIDR = "2001:db8:1234:1a00::/64"


GROUPS: dict[str, str] = {}
"""Security groups by name, made before the function first asks: it remembers for a minute which are allowed."""


@pytest.fixture(scope="module")
def site() -> Iterator[Scene]:
    with new_scene(parameters={"ReconcileDelaySeconds": "2"}) as scene:
        assert scene.landscape is not None
        GROUPS["pods"], GROUPS["strange"] = new_group(scene, "pods", allowed=True), new_group(scene, "strange")
        subnet = scene.landscape.subnets["a"]
        scene.stack.client("ec2").associate_subnet_cidr_block(SubnetId=subnet, Ipv6CidrBlock=CIDR)
        launch(scene, [NodeSpec("node", "a", "t3.micro", TWO_LINKS)])
        wait_for("both interfaces", lambda: len(interfaces(scene)) == 2)
        settle(scene)
        yield scene
        assert dead_letters(scene) == {}


def interfaces(scene: Scene, node: str = "node") -> list[dict[str, Any]]:
    return list(scene.stack.interfaces(scene.machines[node].id))


def groups(interface: dict[str, Any]) -> list[str]:
    return [g["GroupId"] for g in interface["Groups"]]


def look(scene: Scene, node: str = "node") -> None:
    """Have the node looked at, as its agent's next report would."""
    ask_for_look(scene, scene.machines[node].id)


def new_group(scene: Scene, name: str, *, allowed: bool = False) -> str:
    assert scene.landscape is not None
    tags = [{"ResourceType": "security-group", "Tags": [{"Key": "berth:allowed", "Value": "true"}]}] if allowed else []
    made = scene.stack.client("ec2").create_security_group(
        VpcId=scene.landscape.vpc, GroupName=name, Description=name, TagSpecifications=tags
    )
    return str(made["GroupId"])


def test_groups_that_the_primary_interface_is_given_come_to_the_others(site: Scene) -> None:
    ec2, wanted = site.stack.client("ec2"), GROUPS["pods"]
    primary, secondary = interfaces(site)
    assert groups(secondary) == groups(primary)
    ec2.modify_network_interface_attribute(NetworkInterfaceId=primary["NetworkInterfaceId"], Groups=[wanted])
    before = mutations(site)
    look(site)
    assert [groups(i) for i in interfaces(site)] == [[wanted], [wanted]]
    assert mutations(site) - before == {"ModifyNetworkInterfaceAttribute": 1}
    look(site)
    assert mutations(site) - before == {"ModifyNetworkInterfaceAttribute": 1}


def test_groups_that_nobody_has_allowed_do_not(site: Scene) -> None:
    ec2, strange = site.stack.client("ec2"), GROUPS["strange"]
    primary, secondary = interfaces(site)
    ec2.modify_network_interface_attribute(NetworkInterfaceId=primary["NetworkInterfaceId"], Groups=[strange])
    look(site)
    assert [groups(i) for i in interfaces(site)] == [[strange], groups(secondary)]


def test_a_node_that_is_told_to_have_both_families_gets_an_ipv6_prefix_on_each_interface(site: Scene) -> None:
    node = site.machines["node"].id
    site.stack.client("ec2").create_tags(Resources=[node], Tags=[{"Key": "berth:ip-families", "Value": "dual"}])
    before = mutations(site)
    look(site)
    shown = [p["Ipv6Prefix"] for i in interfaces(site) for p in i["Ipv6Prefixes"]]
    assert len(shown) == len(set(shown)) == 2
    assert mutations(site) - before == {"AssignIpv6Addresses": 2}
    record = site.stack.record(node)
    assert record is not None
    assert [a.cidr for i in record.interfaces for a in i.ipv6_assignments] == shown
    assert record.policy.ip_families == "dual"


def test_a_stopped_node_of_a_smaller_type_gives_up_what_that_has_no_room_for(site: Scene) -> None:
    """t3.small has three interfaces with three prefixes each, t3.micro two with one each."""
    launch(
        site, [NodeSpec("wide", "b", "t3.small", {"mode": "prefixes", "max-pods": "110", "minimum-addresses": "100"})]
    )
    wait_for("three interfaces", lambda: len(interfaces(site, "wide")) == 3)
    settle(site)
    wide, ec2 = site.machines["wide"].id, site.stack.client("ec2")
    ec2.stop_instances(InstanceIds=[wide])
    wait_for("it to have stopped", lambda: _state(site, wide) == "stopped")
    settle(site)
    before = mutations(site)
    ec2.modify_instance_attribute(InstanceId=wide, InstanceType={"Value": "t3.micro"})
    look(site, "wide")
    wait_for("two interfaces", lambda: len(interfaces(site, "wide")) == 2)
    assert (mutations(site) - before)["DetachNetworkInterface"] == 1
    assert all(len(i["Ipv4Prefixes"]) <= 1 for i in interfaces(site, "wide"))
    ec2.start_instances(InstanceIds=[wide])
    wait_for("it to run", lambda: _state(site, wide) == "running")
    settle(site)
    record = site.stack.record(wide)
    assert record is not None
    assert len(record.interfaces) == 2


def _state(scene: Scene, instance: str) -> str:
    answer = scene.stack.client("ec2").describe_instances(InstanceIds=[instance])
    return str(answer["Reservations"][0]["Instances"][0]["State"]["Name"])
