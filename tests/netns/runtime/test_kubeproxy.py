"""kube-proxy's rules, in both modes, on a node between a client, two backends and a host outside."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.sandbox import netns
from tests.sandbox.kubeproxy import MODES, KubeProxy, ServicePort, ruleset
from tests.sandbox.kubeproxy_nft import ruleset as nft_ruleset
from tests.sandbox.probe import EchoServers, Failure, tcp_echo, udp_echo
from tests.sandbox.waiting import eventually

NODE, CLIENT, B1, B2, OUTSIDE = "10.6.0.1", "10.6.1.1", "10.6.1.2", "10.6.1.3", "192.168.6.1"
CLUSTER_IP, PODS = "172.30.0.10", "10.6.1.0/24"
ENDS = {"client": CLIENT, "b1": B1, "b2": B2, "outside": OUTSIDE}


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    """A node with three pods and a host beyond it; every end is a /32 behind a veth."""
    netns.create("node")
    netns.sysctl("node", {"ipv4/ip_forward": 1})
    lines = [f"address add {NODE}/32 dev lo"]
    for number, (name, address) in enumerate(ENDS.items()):
        netns.create(name)
        lines += [f"link add p{number} type veth peer name eth0 netns {name}", f"link set p{number} up"]
        lines += [f"route add {address}/32 dev p{number} src {NODE}"]
    netns.ip_batch("node", [*lines, f"route add default via {OUTSIDE} dev p3 onlink src {NODE}"])
    for name, address in ENDS.items():
        way = [f"address add {address}/32 dev eth0", "link set eth0 up", f"route add {NODE} dev eth0"]
        netns.ip_batch(name, [*way, f"route add default via {NODE}"])
    assert eventually(lambda: netns.settled("node", *ENDS))
    with EchoServers() as servers:
        for name in ("b1", "b2"):
            servers.add(name, 8080)
            servers.add(name, 5353)
        yield "node"
    for name in ("node", *ENDS):
        netns.delete(name)


@pytest.fixture(params=MODES)
def proxy(node: str, request: pytest.FixtureRequest) -> Iterator[KubeProxy]:
    proxy = KubeProxy(node, request.param, cluster_cidr=PODS)
    yield proxy
    proxy.remove()
    left = netns.run(node, ["iptables-save"]).stdout + netns.run(node, ["nft", "list", "ruleset"]).stdout
    assert "KUBE" not in left
    assert "kube-proxy" not in left


def web(*endpoints: str, **more: object) -> ServicePort:
    values = {"node_port": 30080, "port_name": "p80"} | more
    return ServicePort("web", CLUSTER_IP, 80, tuple(f"{e}:8080" for e in endpoints), **values)  # type: ignore[arg-type]


def dns(*endpoints: str) -> ServicePort:
    return ServicePort("dns", CLUSTER_IP, 53, tuple(f"{e}:5353" for e in endpoints), "udp", "kube-system", "dns")


def count(where: str, hook: str, match: str) -> None:
    netns.nft(where, f"table ip seen {{\n chain c {{\n type {hook};\n {match} counter\n }}\n}}\n")


def counted(where: str) -> int:
    """How many packets matched; forgets the rule."""
    found = re.search(r"counter packets (\d+)", netns.run(where, ["nft", "list", "table", "ip", "seen"]).stdout)
    netns.nft(where, "delete table ip seen\n")
    assert found is not None
    return int(found[1])


def test_a_pod_reaches_a_cluster_ip_with_its_own_address(proxy: KubeProxy) -> None:
    proxy.apply([web(B1), dns(B2)])
    assert tcp_echo("client", CLUSTER_IP, 80).seen == CLIENT
    assert udp_echo("client", CLUSTER_IP, 53).seen == CLIENT


def test_a_client_outside_the_cluster_is_masqueraded(proxy: KubeProxy) -> None:
    proxy.apply([web(B1)])
    assert tcp_echo("outside", CLUSTER_IP, 80).seen == NODE
    KubeProxy("node", proxy.mode).apply([web(B1)])
    assert tcp_echo("outside", CLUSTER_IP, 80).seen == OUTSIDE


def test_a_pod_reaches_itself_by_its_service(proxy: KubeProxy) -> None:
    proxy.apply([web(B1)])
    assert tcp_echo("b1", CLUSTER_IP, 80).seen == NODE


def test_the_node_itself_reaches_a_cluster_ip(proxy: KubeProxy) -> None:
    proxy.apply([web(B1), dns(B1)])
    assert tcp_echo("node", CLUSTER_IP, 80).seen == NODE
    assert udp_echo("node", CLUSTER_IP, 53).seen == NODE


def test_all_endpoints_are_used(proxy: KubeProxy) -> None:
    """The chance that 60 connections all go to one of two is 2⁻⁵⁹."""
    proxy.apply([web(B1, B2)])
    for name in ("b1", "b2"):
        count(name, "filter hook input priority 0", "tcp flags & (syn | ack) == syn")
    assert all(tcp_echo("client", CLUSTER_IP, 80).ok for _ in range(60))
    for name in ("b1", "b2"):
        assert counted(name) > 0


@pytest.mark.parametrize("client", ["client", "outside"])
def test_a_node_port_masquerades_under_the_cluster_policy(proxy: KubeProxy, client: str) -> None:
    proxy.apply([web(B1)])
    assert tcp_echo(client, NODE, 30080).seen == NODE


def test_a_node_port_keeps_the_client_under_the_local_policy(proxy: KubeProxy) -> None:
    proxy.apply([web(B1, B2, local_endpoints=(f"{B2}:8080",))])
    assert tcp_echo("outside", NODE, 30080).seen == OUTSIDE
    assert tcp_echo("node", NODE, 30080).seen == NODE


def test_a_service_without_endpoints_is_refused_at_once(proxy: KubeProxy) -> None:
    proxy.apply([web()])
    assert tcp_echo("client", CLUSTER_IP, 80).failure == Failure.REFUSED
    assert tcp_echo("outside", NODE, 30080).failure == Failure.REFUSED


def test_applying_is_a_full_sync(proxy: KubeProxy) -> None:
    proxy.apply([web(B1, B2), dns(B1)])
    proxy.apply([web(B2, node_port=30081)])
    assert tcp_echo("client", CLUSTER_IP, 80).ok
    assert tcp_echo("outside", NODE, 30081).ok
    assert tcp_echo("outside", NODE, 30080).failure == Failure.REFUSED  # nobody listens on the node
    assert not udp_echo("client", CLUSTER_IP, 53, timeout=0.3).ok
    saved = netns.run("node", ["iptables-save"]).stdout + netns.run("node", ["nft", "list", "ruleset"]).stdout
    assert B1 not in saved


def test_other_rules_stay(proxy: KubeProxy) -> None:
    netns.run("node", ["iptables", "-t", "nat", "-A", "PREROUTING", "-s", "203.0.113.9", "-j", "ACCEPT"])
    proxy.apply([web(B1)])
    proxy.remove()
    saved = netns.run("node", ["iptables-save", "-t", "nat"]).stdout
    assert "203.0.113.9" in saved
    netns.run("node", ["iptables", "-t", "nat", "-F"])
    proxy.remove()


def test_the_mark_is_gone_when_a_packet_leaves(proxy: KubeProxy) -> None:
    """kube-proxy takes its bit away again, and touches no other."""
    count("node", "filter hook postrouting priority 200", "mark and 0x4000 != 0")
    proxy.apply([web(B1)])
    assert tcp_echo("outside", NODE, 30080).ok
    assert counted("node") == 0


def test_chains_have_kube_proxys_names_and_rules() -> None:
    """Names and rules that kube-proxy's own tests list for this Service."""
    service = ServicePort("svc3", "172.30.0.43", 80, ("10.180.0.3:80",), "tcp", "ns3", "p80", 3003)
    written = ruleset([service], "10.0.0.0/8").splitlines()
    for line in (
        "-A KUBE-NODEPORTS -m comment --comment ns3/svc3:p80 -m tcp -p tcp --dport 3003 -j KUBE-EXT-X27LE4BHSL4DOUIK",
        '-A KUBE-SERVICES -m comment --comment "ns3/svc3:p80 cluster IP" -m tcp -p tcp -d 172.30.0.43 --dport 80'
        " -j KUBE-SVC-X27LE4BHSL4DOUIK",
        "-A KUBE-SEP-OYPFS5VJICHGATKP -m comment --comment ns3/svc3:p80 -s 10.180.0.3 -j KUBE-MARK-MASQ",
        "-A KUBE-SEP-OYPFS5VJICHGATKP -m comment --comment ns3/svc3:p80 -m tcp -p tcp -j DNAT"
        " --to-destination 10.180.0.3:80",
    ):
        assert line in written
    transaction = nft_ruleset([service], "10.0.0.0/8")
    for line in (
        "service-nodeports { tcp . 3003 : goto external-4AT6LBPK-ns3/svc3/tcp/p80 }",
        "service-4AT6LBPK-ns3/svc3/tcp/p80 ip daddr 172.30.0.43 ip saddr != 10.0.0.0/8 jump mark-for-masquerade",
        "endpoint-UEIP74TE-ns3/svc3/tcp/p80__10.180.0.3/80 meta l4proto tcp dnat to 10.180.0.3:80",
    ):
        assert line in transaction
