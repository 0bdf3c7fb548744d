"""A pod with an interface of its own: its security groups hold for everybody, its neighbours' for nobody but them.

``own`` has the interface at device index 2 of node A, in the group ``sg-own``, which lets TCP in from node B's pod
``client`` alone (and from the node itself, which no VPC sees). All others are in ``sg-all``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from berth_node.seams import NodeLayout

from tests.netns.dataplane.own_place import Place, standing
from tests.netns.dataplane.site import EIP, INTERNET, A, B, Node, attachment, layout_of, two_nodes
from tests.sandbox.echo import PORT, tcp_echo, udp_echo
from tests.sandbox.kubeproxy import MODES, KubeProxy, ServicePort
from tests.sandbox.world import GroupRule, SecurityGroup, World

OWN, NEIGHBOUR, SINGLE, CLIENT, OTHER = "10.0.1.20", "10.0.1.33", "10.0.1.80", "10.0.2.33", "10.0.2.34"
A0, B0 = "10.0.1.10", "10.0.2.10"
TABLE = 300_000_002
POD = attachment("own", OWN, table=TABLE)
PODS = {"neighbour": (A, NEIGHBOUR), "single": (A, SINGLE), "client": (B, CLIENT), "other": (B, OTHER)}

_ANY = "0.0.0.0/0"
_ALL = SecurityGroup("sg-all", tuple(GroupRule(way, "any", _ANY) for way in (True, False)))
_OWN = SecurityGroup(
    "sg-own",
    (
        GroupRule(False, "tcp", f"{CLIENT}/32", (PORT, PORT)),
        GroupRule(True, "tcp", _ANY),
        GroupRule(True, "udp", f"{CLIENT}/32"),
    ),
)


def world() -> World:
    made = two_nodes()
    enis = [replace(eni, security_groups=("sg-all",)) for eni in made.enis]
    at = next(n for n, eni in enumerate(enis) if (eni.instance_id, eni.device_index) == (A, 1))
    enis[at] = replace(enis[at], addresses=(OWN,), prefixes=(), security_groups=("sg-own",))
    return replace(made, enis=tuple(enis), groups=(_ALL, _OWN))


def layout(name: str = A) -> NodeLayout:
    made = layout_of(world(), name)
    return replace(made, interfaces=tuple(replace(i, pod=i.primary_address == OWN) for i in made.interfaces))


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    pods = [("own", A, POD), *((name, where, attachment(name, address)) for name, (where, address) in PODS.items())]
    with standing(world(), layout, pods) as made:
        yield made


def no_answer(where: str, address: str, port: int = PORT) -> bool:
    return not tcp_echo(where, address, port, timeout=0.7).ok


# ------------------------------------------------------------------------------------------------ groups hold


def test_only_whom_its_group_lets_in_reaches_the_pod(place: Place) -> None:
    assert tcp_echo("client", OWN).told == f"own {CLIENT}"
    assert no_answer("other", OWN)
    assert not udp_echo("client", OWN, timeout=0.7).ok


@pytest.mark.parametrize("neighbour", ["neighbour", "single"])
def test_a_neighbour_on_the_node_is_kept_out_too_and_is_itself_not_affected(place: Place, neighbour: str) -> None:
    assert no_answer(neighbour, OWN)
    address = PODS[neighbour][1]
    for who in ("client", "other"):
        assert tcp_echo(who, address).told == f"{neighbour} {PODS[who][1]}"
    assert tcp_echo(neighbour, CLIENT).told == f"client {address}"


@pytest.mark.parametrize("name", list(PODS))
def test_the_pod_reaches_others_near_and_far_by_its_own_address(place: Place, name: str) -> None:
    assert tcp_echo("own", PODS[name][1]).told == f"{name} {OWN}"


def test_what_its_group_does_not_let_out_stays_in_also_towards_neighbours(place: Place) -> None:
    assert udp_echo("own", CLIENT).told == f"client {OWN}"
    for name in ("other", "neighbour", "single"):
        assert not udp_echo("own", PODS[name][1], timeout=0.7).ok


def test_the_node_probes_the_pod_and_the_pod_reaches_its_node(place: Place) -> None:
    assert tcp_echo(A, OWN).told == f"own {A0}"
    assert tcp_echo("own", A0).told == f"node-a {OWN}"
    assert tcp_echo("own", B0).told == f"node-b {OWN}"


def test_to_the_internet_it_goes_as_its_node_like_others(place: Place) -> None:
    assert tcp_echo("own", INTERNET).told == tcp_echo("neighbour", INTERNET).told == f"internet {EIP}"


def test_without_snat_it_leaves_by_its_own_interface(place: Place) -> None:
    node = place.a
    node.call(node.dataplane.configure, replace(layout(), snat=False))
    try:
        assert tcp_echo("own", INTERNET).told == f"internet {EIP}"
        assert "10.0.1.20" in node.sh("ip", "route", "get", INTERNET, "from", OWN, "iif", POD.host_ifname)
    finally:
        node.call(node.dataplane.configure, layout())


def test_nothing_of_it_is_dropped_for_its_source(place: Place) -> None:
    before = place.fabric.counters()
    for name in PODS:
        tcp_echo("own", PODS[name][1])
        tcp_echo(name, OWN, timeout=0.5)
    assert place.fabric.counters()["source_check_drops"] == before["source_check_drops"]


# ------------------------------------------------------------------------------------------------ services


@pytest.fixture(params=MODES)
def services(place: Place, request: pytest.FixtureRequest) -> Iterator[dict[str, ServicePort]]:
    endpoints = {"own": OWN, **{name: address for name, (_, address) in PODS.items()}, "nobody": ""}
    made = {
        name: ServicePort(name, f"10.100.0.{n}", PORT, (f"{address}:{PORT}",) if address else (), node_port=30000 + n)
        for n, (name, address) in enumerate(endpoints.items(), 1)
    }
    proxies = [KubeProxy(node.name, request.param) for node in (place.a, place.b)]
    for proxy in proxies:
        proxy.apply([*made.values(), *(replace(s, protocol="udp") for s in made.values())])
    yield made
    for proxy in proxies:
        proxy.remove()


def test_services_work_for_it_and_to_it(place: Place, services: dict[str, ServicePort]) -> None:
    for name, (_, _address) in PODS.items():
        assert tcp_echo("own", services[name].cluster_ip).told == f"{name} {OWN}", name
    assert udp_echo("own", services["client"].cluster_ip).told == f"client {OWN}", "as to a DNS server"
    assert tcp_echo("client", services["own"].cluster_ip).told == f"own {CLIENT}"
    assert tcp_echo("own", services["own"].cluster_ip).told.startswith("own")
    assert tcp_echo(A, services["own"].cluster_ip).told == f"own {A0}"
    for name in ("neighbour", "single", "other"):
        assert no_answer(name, services["own"].cluster_ip), name


def test_a_service_without_backends_refuses_it_at_once(place: Place, services: dict[str, ServicePort]) -> None:
    refused = tcp_echo("own", services["nobody"].cluster_ip)
    assert not refused.ok
    assert refused == tcp_echo("neighbour", services["nobody"].cluster_ip)


def test_its_node_port_is_answered_by_its_node(place: Place, services: dict[str, ServicePort]) -> None:
    assert tcp_echo("client", A0, services["own"].node_port).told.startswith("own")


# ------------------------------------------------------------------------------------------------ rules, and whose


def rules_of(node: Node) -> list[str]:
    return [line for line in node.sh("ip", "rule").splitlines() if "iif eni" in line]


def test_the_pod_has_exactly_one_rule_and_pods_without_have_none(place: Place) -> None:
    (rule,) = rules_of(place.a)
    said = f"all fwmark 0/0x80 iif {POD.host_ifname} lookup {TABLE} proto 190"
    assert " ".join(rule.split("from")[1].split()) == said
    assert OWN not in place.a.sh("ip", "route", "show", "table", "300000000")
    assert f"{OWN} dev {POD.host_ifname}" in place.a.sh("ip", "route", "show", "table", str(TABLE))
    assert rules_of(place.b) == []
