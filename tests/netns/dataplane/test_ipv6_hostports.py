"""Host ports over IPv6: who reaches a pod by its node's port, and as whom; and the table's life."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from berth_node import portmap
from berth_node.dataplane.ports import TABLE
from berth_node.portmap import PortMapping
from berth_node.seams import Attachment

from tests.netns.dataplane.site import A, B, Node, attachment, layout_of
from tests.netns.dataplane.site6 import A0, B0, Site, alone, dual_nodes, dual_pods, dual_site
from tests.sandbox import netns
from tests.sandbox.echo import PORT, tcp_echo, udp_echo

LAYOUT = layout_of(dual_nodes(), A)
KINDS = ("a0-prefix", "a1-prefix", "a0-alone", "a1-alone")
HOST_PORTS = {name: 8001 + place for place, name in enumerate(KINDS)}
BY_ADDRESS = 8101


def _both(host_port: int, host_ip: str = "") -> tuple[PortMapping, ...]:
    return tuple(PortMapping(protocol, host_port, PORT, host_ip) for protocol in ("tcp", "udp"))


def _pod(name: str, *mappings: PortMapping) -> Attachment:
    ports = portmap.encode(mappings)
    if name.endswith("alone"):
        return attachment(name, alone(name[:2], 7), ports=ports)
    four, six = dual_pods(A)[name]
    return attachment(name, four, address6=six, ports=ports)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with dual_site() as made:
        pods = [_pod(name, *_both(port)) for name, port in HOST_PORTS.items()]
        pods[0] = _pod(KINDS[0], *_both(HOST_PORTS[KINDS[0]]), *_both(BY_ADDRESS, A0))
        for pod in pods:  # each is found whole, so this only adds the ports
            made.a.call(made.a.dataplane.attach, replace(pod, netns_fd=made.a.descriptor(pod.name)))
            assert made.a.call(made.a.dataplane.check, pod) == ()
        yield made


@pytest.fixture(autouse=True)
def nothing_dropped(site: Site) -> Iterator[None]:
    before = site.fabric.counters()
    yield
    assert site.fabric.counters() == before


@pytest.mark.parametrize("pod", KINDS)
def test_a_client_reaches_a_host_port_with_its_own_address(site: Site, pod: str) -> None:
    for client in ("b0-prefix", "b1-prefix", "b1-alone", "a0-single", "a1-single"):
        for ask in (tcp_echo, udp_echo):
            assert ask(client, A0, HOST_PORTS[pod]).told == f"{pod} {site.pods[client]}", (client, ask)
    assert tcp_echo(B, A0, HOST_PORTS[pod]).told == f"{pod} {B0}"


@pytest.mark.parametrize("pod", KINDS)
def test_a_pod_reaches_itself_by_its_own_host_port(site: Site, pod: str) -> None:
    assert tcp_echo(pod, A0, HOST_PORTS[pod]).told == f"{pod} {A0}"
    assert udp_echo(pod, A0, HOST_PORTS[pod]).told == f"{pod} {A0}"


@pytest.mark.parametrize("pod", KINDS)
def test_the_node_reaches_a_host_port_by_its_own_address(site: Site, pod: str) -> None:
    assert tcp_echo(A, A0, HOST_PORTS[pod]).told == f"{pod} {A0}"


def test_a_port_of_one_address_is_that_addresss(site: Site) -> None:
    assert tcp_echo("b0-prefix", A0, BY_ADDRESS).told.startswith("a0-prefix")


def test_a_pod_of_both_families_has_its_ports_on_both(site: Site) -> None:
    assert tcp_echo(B, "10.0.1.10", HOST_PORTS["a1-prefix"]).failure is not None  # only :: is served there
    listing = site.a.sh("nft", "list", "table", "ip", TABLE)
    assert f"tcp . {HOST_PORTS['a1-prefix']} : {dual_pods(A)['a1-prefix'][0]} . {PORT}" in listing
    assert str(BY_ADDRESS) not in listing


def _table(node: Node) -> str:
    return netns.run(node.name, ["nft", "list", "table", "ip6", TABLE], check=False).stdout


@pytest.mark.parametrize("command", ["nft delete table ip6 berth-ports", "nft flush map ip6 berth-ports by_port"])
def test_the_table_comes_back(site: Site, command: str) -> None:
    before = _table(site.a)
    site.a.sh(*command.split())
    told = site.a.call(site.a.dataplane.check, _pod("a1-alone", *_both(HOST_PORTS["a1-alone"])))
    assert told
    assert site.a.call(site.a.dataplane.configure, LAYOUT) == ()
    assert _table(site.a) == before
    assert tcp_echo("b0-prefix", A0, HOST_PORTS["a1-alone"]).told.startswith("a1-alone")


def test_another_process_takes_them_over_and_they_go_with_their_pods(site: Site) -> None:
    pods = [_pod(name, *_both(port)) for name, port in HOST_PORTS.items()]
    site.a.restart()
    site.a.call(site.a.dataplane.adopt, pods)
    assert site.a.call(site.a.dataplane.configure, LAYOUT) == ()
    assert tcp_echo("b0-prefix", A0, HOST_PORTS["a1-alone"]).told.startswith("a1-alone")
    for pod in pods:
        site.a.call(site.a.dataplane.detach, pod)
    assert "elements" not in _table(site.a)
    assert site.a.call(site.a.dataplane.configure, LAYOUT) == ()
    assert _table(site.a) == ""
