"""Host and node ports that lead to a pod with an interface of its own: who reaches it by them, and as whom.

Node A has a public address. Its group lets the internet in to ``OPEN`` and ``NODE_PORT`` alone, and the VPC to all.
``own`` and ``second`` have interfaces of their own on A; the group of both lets in ``LET_IN`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from berth_node import portmap
from berth_node.portmap import PortMapping
from berth_node.seams import NodeLayout

from tests.netns.dataplane.own_place import Place, standing
from tests.netns.dataplane.site import INTERNET, A, B, attachment, layout_of, two_nodes
from tests.sandbox.echo import PORT, Outcome, tcp_echo, udp_echo
from tests.sandbox.kubeproxy import MODES, KubeProxy, Mode, ServicePort
from tests.sandbox.world import Eni, GroupRule, Route, SecurityGroup, World

A0, B0, NODE_EIP = "10.0.1.10", "10.0.2.10", "203.0.113.10"
OWN, SECOND = "10.0.1.20", "10.0.1.30"
PODS = {
    "own": (A, OWN, 300_000_002),
    "second": (A, SECOND, 300_000_003),
    "neighbour": (A, "10.0.1.33", 0),
    "single": (A, "10.0.1.80", 0),
    "client": (B, "10.0.2.33", 0),
    "other": (B, "10.0.2.34", 0),
}
OPEN, SHUT, NEAR, NODE_PORT = 8080, 8081, 8082, 30001
LET_IN = (PODS["client"][1], PODS["single"][1], SECOND, B0)
"""Of the pods on node A ``single`` and ``second`` are, and ``neighbour`` is not; of node B's ``other`` is not."""

Probe = Callable[..., Outcome]
_ANY = "0.0.0.0/0"


def groups() -> tuple[SecurityGroup, ...]:
    let_out = GroupRule(True, "any", _ANY)
    ports = [GroupRule(False, how, _ANY, (port, port)) for how in ("tcp", "udp") for port in (OPEN, NODE_PORT)]
    to_pod = [GroupRule(False, how, f"{who}/32", (PORT, PORT)) for how in ("tcp", "udp") for who in LET_IN]
    return (
        SecurityGroup("sg-node", (let_out, GroupRule(False, "any", "10.0.0.0/16"), *ports)),
        SecurityGroup("sg-own", (let_out, *to_pod)),
    )


def world() -> World:
    made = two_nodes()
    routes = (Route("10.0.0.0/16", "local"), Route("0.0.0.0/0", "igw-1"))
    subnets = tuple(replace(s, routes=routes) if s.id == "subnet-a" else s for s in made.subnets)
    enis = [replace(eni, security_groups=("sg-node",)) for eni in made.enis]
    at = {(eni.instance_id, eni.device_index): n for n, eni in enumerate(enis)}
    enis[at[A, 0]] = replace(enis[at[A, 0]], public_address=NODE_EIP)
    first = replace(enis[at[A, 1]], addresses=(OWN,), prefixes=(), security_groups=("sg-own",))
    enis[at[A, 1]] = first
    enis.append(Eni("eni-0000000000000da2", "02:00:00:00:0d:a2", "subnet-a", (SECOND,), (), A, 2))
    enis[-1] = replace(enis[-1], security_groups=("sg-own",))
    return replace(made, subnets=subnets, enis=tuple(enis), groups=groups())


def layout(name: str) -> NodeLayout:
    made = layout_of(world(), name)
    own = {address for _, address, table in PODS.values() if table}
    return replace(made, interfaces=tuple(replace(i, pod=i.primary_address in own) for i in made.interfaces))


def both(*host_ports: int) -> str:
    mappings = (PortMapping(how, port, PORT) for port in host_ports for how in ("tcp", "udp"))
    return portmap.encode(tuple(mappings))


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    lent = {"own": both(OPEN, SHUT), "neighbour": both(NEAR)}
    pods = [
        (name, where, attachment(name, address, table=table, ports=lent.get(name, "")))
        for name, (where, address, table) in PODS.items()
    ]
    with standing(world(), layout, pods) as made:
        yield made


@pytest.fixture(params=[None, *MODES], ids=["alone", *MODES])
def services(place: Place, request: pytest.FixtureRequest) -> Iterator[None]:
    """Beside kube-proxy in each mode, which has Services of its own, and without it."""
    with proxies(request.param):
        yield


class proxies:  # noqa: N801 - a context manager
    """kube-proxy on both nodes: ``own`` behind ``10.100.0.1:7007`` and ``NODE_PORT``."""

    def __init__(self, mode: Mode | None, **changes: object) -> None:
        self.made = [KubeProxy(name, mode) for name in (A, B)] if mode else []
        one = ServicePort("own", "10.100.0.1", PORT, (f"{OWN}:{PORT}",), node_port=NODE_PORT)
        self.service = replace(one, **changes)  # type: ignore[arg-type]

    def __enter__(self) -> None:
        for proxy in self.made:
            proxy.apply([self.service, replace(self.service, protocol="udp")])

    def __exit__(self, *_: object) -> None:
        for proxy in self.made:
            proxy.remove()


@pytest.fixture(autouse=True)
def nothing_dropped_for_its_source(place: Place) -> Iterator[None]:
    before = place.fabric.counters()["source_check_drops"]
    yield
    assert place.fabric.counters()["source_check_drops"] == before


HOW = pytest.mark.parametrize("how", [tcp_echo, udp_echo], ids=["tcp", "udp"])


@HOW
@pytest.mark.usefixtures("services")
class TestHostPort:
    def test_pods_and_hosts_elsewhere_reach_it_as_the_nodes_groups_allow(self, how: Probe) -> None:
        for client in ("client", "other"):
            assert how(client, A0, OPEN).told == f"own {PODS[client][1]}"
        assert how(B, A0, OPEN).told == f"own {B0}"

    def test_the_internet_reaches_it_where_the_nodes_group_allows_and_only_there(self, how: Probe) -> None:
        assert how("internet", NODE_EIP, OPEN).told == f"own {INTERNET}"
        assert how("internet", NODE_EIP, SHUT, timeout=0.7).told == "timeout"

    def test_its_own_node_reaches_it_by_each_of_its_addresses(self, how: Probe) -> None:
        for address in (A0, "127.0.0.1"):
            assert how(A, address, OPEN).told == f"own {A0}"

    def test_it_reaches_itself(self, how: Probe) -> None:
        assert how("own", A0, OPEN).told == f"own {A0}"

    def test_pods_on_its_node_reach_it_as_its_own_group_allows(self, how: Probe) -> None:
        for client in ("single", "second"):
            assert how(client, A0, OPEN).told == f"own {PODS[client][1]}"
        assert how("neighbour", A0, OPEN, timeout=0.7).told == "timeout"

    def test_it_reaches_the_host_ports_of_others_on_its_node(self, how: Probe) -> None:
        assert how("own", A0, NEAR).told == f"neighbour {OWN}"


@HOW
@pytest.mark.parametrize("mode", MODES)
class TestNodePort:
    def test_all_reach_it_by_its_node_as_the_node_where_the_nodes_group_allows(self, how: Probe, mode: Mode) -> None:
        with proxies(mode):
            for client in ("client", "other", B, A):
                assert how(client, A0, NODE_PORT).told == f"own {A0}", client
            assert how("internet", NODE_EIP, NODE_PORT).told == f"own {A0}"
            assert how("own", A0, NODE_PORT).told == f"own {A0}"

    def test_all_reach_it_by_another_node_as_the_pods_group_allows(self, how: Probe, mode: Mode) -> None:
        with proxies(mode):
            for client in (A, B, "client", "other", "neighbour", "single", "own"):
                assert how(client, B0, NODE_PORT).told == f"own {B0}", client

    def test_with_a_local_policy_it_sees_who_called(self, how: Probe, mode: Mode) -> None:
        with proxies(mode, local_endpoints=(f"{OWN}:{PORT}",)):
            assert how("internet", NODE_EIP, NODE_PORT).told == f"own {INTERNET}"
            for client in ("client", "other"):
                assert how(client, A0, NODE_PORT).told == f"own {PODS[client][1]}"

    def test_it_and_others_with_an_interface_of_their_own_reach_each_other(self, how: Probe, mode: Mode) -> None:
        with proxies(mode):
            assert how("second", A0, NODE_PORT).told == f"own {A0}"

    @pytest.mark.parametrize("backend", ["second", "client"])
    def test_it_reaches_others_by_its_nodes_port(self, how: Probe, mode: Mode, backend: str) -> None:
        with proxies(mode, endpoints=(f"{PODS[backend][1]}:{PORT}",)):
            assert how("own", A0, NODE_PORT).told == f"{backend} {A0}"


@HOW
@pytest.mark.parametrize("mode", MODES)
def test_pods_on_its_node_reach_it_by_a_cluster_ip_as_its_group_allows(how: Probe, mode: Mode) -> None:
    with proxies(mode):
        for client in ("single", "second"):
            assert how(client, "10.100.0.1").told == f"own {PODS[client][1]}"
        assert how("neighbour", "10.100.0.1", timeout=0.7).told == "timeout"
