"""The whole agent with the real data plane, of records that ask for IPv6 beside IPv4, and for IPv6 alone."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from berth.contract import IpFamilies

from tests.netns.agent.conftest import PREFIX, RUN, Site, eventually
from tests.netns.agent.real import NODE, real_node
from tests.sandbox import netns

pytestmark = pytest.mark.long

WIDE = "2001:db8:1:2:3::/80"
NODE6 = "2001:db8:1:2::5"


@pytest.fixture
def kernel(plugin: Path, tmp_path: Path) -> Iterator[Site]:
    """A node that has an IPv6 address of its own and a way out; its agent is not started."""
    with real_node(plugin, tmp_path, start=False) as made:
        netns.ip_batch(NODE, [f"addr add {NODE6}/64 dev eth0 nodad", "route add ::/0 via fe80:ec2::1 dev eth0 onlink"])
        yield made


def _start(kernel: Site, *cidrs: str, families: IpFamilies, ipv6: tuple[str, ...] = (WIDE,), **options: Any) -> None:
    kernel.serve(*cidrs, families=families, ipv6=ipv6, **options)
    kernel.start()
    kernel.ready()


def _ips(body: dict[str, Any]) -> list[str]:
    return [str(ip["address"]).partition("/")[0] for ip in body["ips"]]


def _beside(address: str) -> str:
    base = int(ipaddress.ip_network(WIDE).network_address)
    return str(ipaddress.IPv6Address(base | int(ipaddress.IPv4Address(address))))


def _reaches(where: str, address: str) -> bool:
    """A connection to a closed port is refused: so it got there, and the answer back, at the first attempt."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.open_socket(where, family) as sock:
        sock.settimeout(0.9)  # TCP would try again after a second
        return sock.connect_ex((address, 9)) == 111


def _ipv6_state() -> str:
    """All that Berth makes for IPv6 on a node."""
    commands = (
        ["ip", "-6", "rule"],
        ["ip", "-6", "route", "show", "table", "all", "proto", "190"],
        ["ip", "-6", "neigh", "show", "nud", "permanent"],
        ["nft", "list", "tables", "ip6"],
        ["sysctl", "net.ipv6.conf.all.forwarding"],
    )
    return "".join(netns.run(NODE, command, check=False).stdout for command in commands)


def test_a_pod_has_an_address_of_each_family_and_talks_by_both(kernel: Site) -> None:
    _start(kernel, PREFIX, families="dual")
    body = kernel.call("ADD", "pod-a").body
    four, six = _ips(body)
    assert six == _beside(four)
    assert [ip["address"].partition("/")[2] for ip in body["ips"]] == ["32", "128"]
    assert [ip["gateway"] for ip in body["ips"]] == ["169.254.1.1", "fe80::1"]
    assert [(r["dst"], r["gw"]) for r in body["routes"]] == [("0.0.0.0/0", "169.254.1.1"), ("::/0", "fe80::1")]
    assert kernel.call("CHECK", "pod-a", prevResult=body).code == 0
    kernel.call("ADD", "pod-b")
    for where, address in (("pod-b", six), ("pod-b", four), ("pod-b", NODE6), (NODE, six), ("pod-a", "10.0.1.5")):
        assert _reaches(where, address), (where, address)
    status = kernel.ask("status")
    assert (status["ip_families"], status["ipv6_problem"], status["problems"]) == ("dual", "", [])
    assert kernel.ask("pods")["pods"][0]["address6"] == six
    assert kernel.ask("interfaces")["interfaces"][0]["ipv6_prefixes"] == [
        {"cidr": WIDE, "state": "usable", "in_use": 2}
    ]
    assert six in kernel.ask("explain", six)["lines"][0]
    assert kernel.ask("check")["same"] is True


@pytest.mark.parametrize("families", ["dual", "ipv6"])
def test_a_plugin_takes_the_routes_of_all_of_a_pods_families_away(kernel: Site, families: IpFamilies) -> None:
    """By the word that the agent has left, which does not hear of it."""
    _start(kernel, PREFIX, families=families)
    addresses = _ips(kernel.call("ADD", "pod-a").body)
    eventually(lambda: list((RUN / "unwire").iterdir()), "word is left")
    assert kernel.process
    kernel.process.send_signal(signal.SIGSTOP)
    assert kernel.call("DEL", "pod-a").code == 0
    for family in ("-4", "-6"):
        routes = netns.run(NODE, ["ip", family, "route", "show", "table", "all", "proto", "190"]).stdout
        assert not [a for a in addresses if f"{a} dev" in routes]
    kernel.process.send_signal(signal.SIGCONT)
    eventually(lambda: kernel.ask("status")["pods"] == 0, "the addresses are free")
    assert kernel.ask("status")["problems"] == []


def test_a_pod_of_ipv6_alone_has_no_ipv4_and_none_is_asked_for(kernel: Site) -> None:
    _start(kernel, "10.0.1.9/32", families="ipv6")
    bodies = [kernel.call("ADD", name).body for name in ("pod-a", "pod-b", "pod-c")]
    (first,), (second,), (third,) = map(_ips, bodies)
    assert len({first, second, third}) == 3
    assert all(ipaddress.ip_address(a) in ipaddress.ip_network(WIDE) for a in (first, second, third))
    assert all(int(ipaddress.ip_address(a)) >> 47 & 1 for a in (first, second, third))
    assert _reaches("pod-a", second)
    assert _reaches("pod-a", NODE6)
    assert _reaches(NODE, third)
    assert kernel.call("CHECK", "pod-a", prevResult=bodies[0]).code == 0
    eventually(lambda: kernel.cloud.reports, "a report")
    report = kernel.cloud.reports[-1]
    assert (report.in_use, report.waiting, report.cooling) == (0, (), 0)
    assert kernel.ask("status")["pods"] == 3
    assert kernel.call("DEL", "pod-a").code == 0
    assert not _reaches("pod-b", first)


def test_max_pods_bounds_pods_of_ipv6_alone_and_the_next_one_waits_its_turn(kernel: Site) -> None:
    kernel.settings = {"add_wait_seconds": 20}
    _start(kernel, "10.0.1.9/32", families="ipv6", max_pods=1)
    kernel.call("ADD", "pod-a")
    kernel.pod("pod-b")
    text = b'{"cniVersion":"1.1.0","name":"berth","type":"berth"}'
    waiting = kernel.popen(kernel.environment("ADD", "pod-b"), text)
    eventually(lambda: kernel.ask("status")["waiting"] == 1, "the second pod waits")
    assert kernel.call("DEL", "pod-a").code == 0
    assert kernel.finish(waiting).code == 0
    assert all(report.waiting == () for report in kernel.cloud.reports)


def test_a_node_of_ipv4_has_nothing_of_ipv6(kernel: Site) -> None:
    before = _ipv6_state()
    _start(kernel, PREFIX, families="ipv4")
    body = kernel.call("ADD", "pod-a").body
    assert len(_ips(body)) == 1
    assert _ipv6_state() == before
    assert not [path for path in kernel.cloud.requests if "ipv6" in path]


@pytest.mark.parametrize("families", ["dual", "ipv6"])
@pytest.mark.parametrize("lost", [(), ("pods.journal",)])
def test_pods_keep_their_addresses_over_a_killed_agent_and_a_lost_journal(
    kernel: Site, families: IpFamilies, lost: tuple[str, ...]
) -> None:
    _start(kernel, PREFIX, families=families)
    body = kernel.call("ADD", "pod-a").body
    kernel.stop(signal.SIGKILL)
    for name in lost:
        Path("/run/berth", name).unlink()
    kernel.serve(PREFIX, families=families, ipv6=(WIDE,), revision=2, cooldown=1)
    kernel.start()
    (pod,) = kernel.ask("pods")["pods"]
    assert [a for a in (pod["address"], pod["address6"]) if a] == _ips(body)
    assert kernel.call("CHECK", "pod-a", prevResult=body).code == 0
    second = _ips(kernel.call("ADD", "pod-b").body)
    assert not set(second) & set(_ips(body))
    assert _reaches("pod-b", _ips(body)[-1])
    assert kernel.call("DEL", "pod-a").code == 0
    assert not _reaches("pod-b", _ips(body)[-1])


def test_pods_keep_what_they_have_when_the_policy_changes_and_the_last_one_takes_ipv6_with_it(kernel: Site) -> None:
    before = _ipv6_state().replace("forwarding = 0", "forwarding = 1")
    _start(kernel, PREFIX, families="dual")
    old = kernel.call("ADD", "pod-a").body
    kernel.serve(PREFIX, families="ipv4", ipv6=(WIDE,), revision=2)
    eventually(lambda: kernel.ask("status")["ip_families"] == "ipv4", "the policy is IPv4")
    assert len(_ips(kernel.call("ADD", "pod-b").body)) == 1
    assert kernel.call("CHECK", "pod-a", prevResult=old).code == 0
    assert _reaches(NODE, _ips(old)[1])
    kernel.serve(PREFIX, families="dual", ipv6=(WIDE,), revision=3)
    eventually(lambda: kernel.ask("status")["ip_families"] == "dual", "the policy is dual again")
    assert len(_ips(kernel.call("ADD", "pod-c").body)) == 2
    assert kernel.call("CHECK", "pod-a", prevResult=old).code == 0
    kernel.serve(PREFIX, families="ipv4", ipv6=(WIDE,), revision=4)
    eventually(lambda: kernel.ask("status")["ip_families"] == "ipv4", "the policy is IPv4 for good")
    for name in ("pod-a", "pod-c"):
        assert kernel.call("DEL", name).code == 0
    eventually(lambda: _ipv6_state() == before, "nothing of IPv6 is left")


def test_an_add_waits_for_a_prefix_that_is_listed_and_not_shown_yet(kernel: Site) -> None:
    kernel.serve(PREFIX, families="dual", ipv6=(WIDE,))
    kernel.cloud.interfaces = [type(i)(i.mac, i.device_index, i.addresses, i.prefixes) for i in kernel.cloud.interfaces]
    kernel.start()
    assert kernel.call("STATUS").body["code"] == 50
    assert "no IPv6 prefix of the record is usable" in kernel.ask("status")["why"]
    kernel.pod("pod-a")
    waiting = kernel.popen(kernel.environment("ADD", "pod-a"), b'{"cniVersion":"1.1.0","name":"berth","type":"berth"}')
    eventually(lambda: kernel.ask("status")["waiting"] == 1, "the pod waits")
    kernel.serve(PREFIX, families="dual", ipv6=(WIDE,))
    assert len(_ips(kernel.finish(waiting).body)) == 2


def test_where_the_subnet_has_no_prefix_to_give_pods_get_ipv4_alone_and_it_is_said(kernel: Site) -> None:
    _start(kernel, PREFIX, families="dual", ipv6=())
    assert len(_ips(kernel.call("ADD", "pod-a").body)) == 1
    assert "the record lists no IPv6 prefix" in kernel.ask("status")["ipv6_problem"]
    assert "IPv6 is not as the policy asks" in kernel.log()
    missing = next(m for m in kernel.ask("metrics")["metrics"] if m["name"] == "berth_ipv6_missing")
    assert missing["samples"][0]["value"] == 1


def test_a_node_whose_ipv6_is_switched_off_says_so_and_serves_ipv4(kernel: Site) -> None:
    netns.sysctl(NODE, {"ipv6/conf/all/disable_ipv6": 1})
    _start(kernel, PREFIX, families="ipv6")
    assert _ips(kernel.call("ADD", "pod-a").body) == ["10.0.1.16"]
    assert "set net.ipv6.conf.all.disable_ipv6 to 0" in kernel.ask("status")["ipv6_problem"]


@pytest.mark.parametrize(
    "command",
    [
        "ip -6 route flush table 300000000",
        "ip -6 route flush table 300000001",
        "ip -6 rule del priority 1000",
        "ip -6 rule del priority 1020",
        "nft delete table ip6 berth",
        "nft flush chain ip6 berth choose",
        "ip link set HOST down",
        "ip -6 neigh flush dev HOST nud permanent",
    ],
)
def test_what_something_else_takes_away_comes_back_by_itself(kernel: Site, command: str) -> None:
    _start(kernel, PREFIX, families="dual")
    result = kernel.call("ADD", "pod-a").body
    netns.run(NODE, command.replace("HOST", result["interfaces"][0]["name"]).split())
    eventually(lambda: kernel.call("CHECK", "pod-a", prevResult=result).code == 0, "all is there", 15.0)
    assert _reaches(NODE, _ips(result)[1])
    eventually(lambda: kernel.ask("status")["problems"] == [], "no problem is told", 15.0)
