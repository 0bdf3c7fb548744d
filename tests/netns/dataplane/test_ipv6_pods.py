"""One pod's links with IPv6, beside IPv4 and alone: made, compared, taken away, and remembered by the kernel."""

from __future__ import annotations

import json

import pytest
from berth_node.dataplane.pods import PODS_TABLE
from berth_node.seams import Attachment, DataplaneError

from tests.netns.dataplane.site import Node, attachment
from tests.netns.dataplane.watch import changes
from tests.sandbox import netns
from tests.sandbox.waiting import eventually

FOUR, SIX = "10.0.1.33", "2001:db8:1:2:3:0:a00:121"
ALONE = "2001:db8:1:2:3:8000:1:2"
POD = "dp-web-1"


@pytest.fixture
def dual(bare: Node) -> Attachment:
    return attachment("web-1", FOUR, address6=SIX, mtu=8500, netns_fd=bare.pod(POD))


@pytest.fixture
def alone(bare: Node) -> Attachment:
    return attachment("web-1", ALONE, mtu=8500, netns_fd=bare.pod(POD))


def _addresses(where: str, device: str) -> list[dict[str, object]]:
    shown = netns.run(where, ["ip", "-6", "-j", "addr", "show", "dev", device]).stdout
    return [a for link in json.loads(shown) for a in link.get("addr_info", ())]


def _state(node: Node) -> list[str]:
    commands = (
        ["ip", "-4", "route", "show", "table", str(PODS_TABLE)],
        ["ip", "-6", "route", "show", "table", str(PODS_TABLE)],
        ["ip", "-6", "neigh", "show", "nud", "permanent"],
    )
    # `ip` fails for a table that no route is in
    told = [netns.run(node.name, command, check=False).stdout for command in commands]
    return [line.strip() for text in told for line in text.splitlines()]


def test_a_pod_gets_both_addresses_and_no_address_of_it_is_tentative(bare: Node, dual: Attachment) -> None:
    wired = bare.call(bare.dataplane.attach, dual)
    inside = _addresses(POD, "eth0")  # at once, and without waiting for anything
    assert [(a["local"], a["prefixlen"], a["scope"]) for a in inside if a["scope"] == "global"] == [
        (SIX, 128, "global")
    ]
    assert [a["scope"] for a in inside] == ["link", "global"] or [a["scope"] for a in inside] == ["global", "link"]
    assert not any(a.get("tentative") or a.get("dadfailed") for a in inside)
    routes = netns.run(POD, ["ip", "-6", "route", "show", "default"]).stdout
    assert routes.startswith("default via fe80::1 dev eth0 proto 190")
    in_pod = netns.run(POD, ["ip", "-6", "neigh", "show", "nud", "permanent"]).stdout.strip()
    assert in_pod == f"fe80::1 dev eth0 lladdr {wired.host_mac} PERMANENT"
    assert "inet 10.0.1.33/32" in netns.run(POD, ["ip", "addr"]).stdout
    host = _state(bare)
    assert host[0].startswith(f"{FOUR} dev {dual.host_ifname} proto 190")
    assert host[1].startswith(f"{SIX} dev {dual.host_ifname} proto 190")
    assert host[2] == f"{SIX} dev {dual.host_ifname} lladdr {wired.pod_mac} PERMANENT"
    assert _addresses("dp-bare", dual.host_ifname) == []


def test_what_arrives_right_after_attach_is_the_pods(bare: Node, dual: Attachment) -> None:
    """The kernel's own route to the address comes a moment later, by a work of its queue."""
    bare.call(bare.dataplane.attach, dual)
    local = netns.run(POD, ["ip", "-6", "route", "show", "table", "local"]).stdout
    assert f"local {SIX} dev eth0 proto 190" in local


def test_a_pod_of_ipv6_alone_has_nothing_of_ipv4(bare: Node, alone: Attachment) -> None:
    bare.call(bare.dataplane.attach, alone)
    assert "inet 1" not in netns.run(POD, ["ip", "addr", "show", "dev", "eth0"]).stdout
    assert netns.run(POD, ["ip", "-4", "route"]).stdout == ""
    assert [line.split()[0] for line in _state(bare)] == [ALONE, ALONE]
    assert bare.call(bare.dataplane.check, alone) == ()


def test_a_pod_of_ipv4_gets_nothing_of_ipv6_on_its_node(bare: Node) -> None:
    pod = attachment("web-1", FOUR, netns_fd=bare.pod(POD))
    bare.call(bare.dataplane.attach, pod)
    assert [line.split()[0] for line in _state(bare)] == [FOUR]
    assert [a for a in _addresses(POD, "eth0") if a["scope"] == "global"] == []


def test_a_runtime_that_switched_ipv6_off_in_the_pod_is_overruled(bare: Node, dual: Attachment) -> None:
    netns.sysctl(POD, {"ipv6/conf/all/disable_ipv6": 1, "ipv6/conf/default/disable_ipv6": 1})
    bare.call(bare.dataplane.attach, dual)
    assert bare.call(bare.dataplane.check, dual) == ()


@pytest.mark.parametrize("kind", ["dual", "alone"])
def test_attaching_again_changes_nothing(bare: Node, kind: str, request: pytest.FixtureRequest) -> None:
    pod: Attachment = request.getfixturevalue(kind)
    wired = bare.call(bare.dataplane.attach, pod)
    with changes("dp-bare") as seen:
        assert bare.call(bare.dataplane.attach, pod) == wired
    assert seen == []


@pytest.mark.parametrize("kind", ["dual", "alone"])
def test_the_kernel_alone_remembers_every_address(bare: Node, kind: str, request: pytest.FixtureRequest) -> None:
    pod: Attachment = request.getfixturevalue(kind)
    bare.call(bare.dataplane.attach, pod)
    bare.restart()
    assert bare.call(bare.dataplane.survey) == (pod,)


@pytest.mark.parametrize("kind", ["dual", "alone"])
def test_detaching_leaves_nothing(bare: Node, kind: str, request: pytest.FixtureRequest) -> None:
    pod: Attachment = request.getfixturevalue(kind)
    bare.call(bare.dataplane.attach, pod)
    bare.call(bare.dataplane.detach, pod)
    assert bare.sh("ip", "-6", "route", "show", "table", str(PODS_TABLE)) == ""
    assert eventually(lambda: "eni" not in bare.sh("ip", "link"))
    assert _state(bare) == []


def test_a_failure_in_the_pod_leaves_nothing(bare: Node, dual: Attachment) -> None:
    netns.run(POD, ["ip", "-6", "route", "add", "default", "dev", "lo", "metric", "1024"])
    with pytest.raises(DataplaneError, match="default route"):
        bare.call(bare.dataplane.attach, dual)
    assert _state(bare) == []
    assert "eni" not in bare.sh("ip", "link")
    assert "eth0" not in netns.run(POD, ["ip", "link"]).stdout


SABOTAGE = {
    "no route to 2001": ("dp-bare", f"-6 route del {SIX} table {PODS_TABLE}"),
    "no permanent neighbour for 2001": ("dp-bare", f"-6 neigh del {SIX} dev HOST"),
    "lacks the address 2001": (POD, f"-6 addr del {SIX}/128 dev eth0"),
    "lacks the routes by fe80::1": (POD, "-6 route del default"),
    "lacks the permanent neighbour fe80::1": (POD, "-6 neigh del fe80::1 dev eth0"),
    "no route to 10.0": ("dp-bare", f"route del {FOUR} table {PODS_TABLE}"),
}


@pytest.mark.parametrize("problem", SABOTAGE)
def test_check_names_what_is_missing_of_either_family(bare: Node, dual: Attachment, problem: str) -> None:
    bare.call(bare.dataplane.attach, dual)
    assert bare.call(bare.dataplane.check, dual) == ()
    where, command = SABOTAGE[problem]
    netns.run(where, ["ip", *command.replace("HOST", dual.host_ifname).split()])
    assert problem in " ".join(p.message for p in bare.call(bare.dataplane.check, dual))


MENDED = (
    f"ip -6 route flush table {PODS_TABLE}",
    f"ip -6 route replace {SIX} dev lo table {PODS_TABLE}",
    f"ip -6 neigh del {SIX} dev HOST",
    f"ip -6 neigh replace {SIX} lladdr 02:00:00:00:00:77 dev HOST nud permanent",
    "ip link set HOST down",
    "ip link set HOST alias something",
)


@pytest.mark.parametrize("command", MENDED)
def test_each_piece_on_the_host_comes_back(bare: Node, dual: Attachment, command: str) -> None:
    bare.call(bare.dataplane.attach, dual)
    before = _state(bare)
    bare.sh(*command.replace("HOST", dual.host_ifname).split())
    assert bare.call(bare.dataplane.repair, [dual]) == ()
    assert _state(bare) == before
    assert bare.call(bare.dataplane.check, dual) == ()
    with changes("dp-bare") as seen:
        assert bare.call(bare.dataplane.repair, [dual]) == ()
    assert seen == []


def test_a_route_of_ours_that_no_pod_has_is_swept(bare: Node, dual: Attachment) -> None:
    bare.call(bare.dataplane.attach, dual)
    before = _state(bare)
    bare.sh("ip", "-6", "route", "add", "2001:db8::9", "dev", "lo", "table", str(PODS_TABLE), "proto", "190")
    assert bare.call(bare.dataplane.repair, [dual]) == ()
    assert _state(bare) == before
