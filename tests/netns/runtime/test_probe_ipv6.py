"""The prober over IPv6: what passes, and each way to fail by its name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sandbox import netns
from tests.sandbox.ping import ping
from tests.sandbox.probe import EchoServers, Failure, Prober, Target, tcp_echo, udp_echo
from tests.sandbox.waiting import eventually

ROUTER = "2001:db8:7:ff::1"


@pytest.fixture
def three() -> Iterator[list[Target]]:
    """Namespaces around a router, each with a /128 and a veth."""
    targets = [Target(f"end{n}", f"end{n}", f"2001:db8:7::{n + 1}") for n in range(3)]
    names = ["router", *(t.netns for t in targets)]
    for name in names:
        netns.create(name)
        netns.sysctl(name, {"ipv6/conf/default/accept_dad": 0})
    netns.sysctl("router", {"ipv6/conf/all/forwarding": 1})
    lines = [f"address add {ROUTER}/128 dev lo nodad"]
    for n, target in enumerate(targets):
        lines += [f"link add v{n} type veth peer name eth0 netns {target.netns}", f"link set v{n} up"]
        lines += [f"address add fe80::1 dev v{n} nodad", f"route add {target.address} dev v{n}"]
    netns.ip_batch("router", lines)
    for target in targets:
        way = ["link set eth0 up", f"address add {target.address}/128 dev eth0 nodad"]
        netns.ip_batch(target.netns, [*way, "route add ::/0 via fe80::1 dev eth0"])
    try:
        assert eventually(lambda: netns.settled(*names))
        assert eventually(lambda: all(netns.delivers(t.netns, t.address) for t in targets))
        yield targets
    finally:
        for name in names:
            netns.delete(name)


def on_the_way(rule: str, hook: str = "filter hook forward priority 0") -> None:
    """One rule in the router."""
    netns.nft("router", f"table ip6 t {{\n chain c {{\n type {hook};\n {rule}\n }}\n }}\n")


def test_every_ordered_pair(three: list[Target]) -> None:
    with Prober(three) as prober:
        for _ in range(2):
            matrix = prober.matrix()
            assert matrix.failures() == []
            assert (matrix.pairs, matrix.connected) == (6, 6)
            assert all(set(kinds) == {"ping", "tcp"} for kinds in matrix.outcomes.values())


def test_a_rewritten_source_and_a_silent_pair_are_failures(three: list[Target]) -> None:
    on_the_way("oif v1 snat to 2001:db8:7:ff::1", "nat hook postrouting priority srcnat")
    netns.nft("router", "table ip6 s {\n chain c {\n type filter hook forward priority 0; iif v0 oif v2 drop\n }\n }\n")
    with Prober(three) as prober:
        matrix = prober.matrix(timeout=0.5)
    assert matrix.outcomes["end0", "end1"]["tcp"].failure == Failure.REWRITTEN
    silent = {kind: outcome.failure for kind, outcome in matrix.outcomes["end0", "end2"].items()}
    assert silent == {"ping": Failure.TIMEOUT, "tcp": Failure.TIMEOUT}


def test_servers_say_whom_they_saw_and_answer_from_the_address_that_was_asked(three: list[Target]) -> None:
    a, b, _ = three
    netns.ip_batch(b.netns, ["address add 2001:db8:8::2/128 dev lo nodad"])
    netns.ip_batch("router", ["route add 2001:db8:8::2 via fe80::2 dev v1"])
    netns.ip_batch(b.netns, ["address add fe80::2 dev eth0 nodad"])
    assert eventually(lambda: netns.delivers(b.netns, "2001:db8:8::2", "fe80::2"))
    with EchoServers() as servers:
        servers.add(b.netns, name="web-1", address="::")
        servers.add(b.netns)  # the same port of IPv4
        for ask in (tcp_echo, udp_echo):
            assert ask(a.netns, b.address).told == f"web-1 {a.address}"
            assert ask(a.netns, "2001:db8:8::2").told == f"web-1 {a.address}"


def test_each_way_to_fail_has_a_name(three: list[Target]) -> None:
    a, b, c = three
    on_the_way(f"ip6 daddr {c.address} drop")
    netns.ip_batch("router", ["route add unreachable 2001:db8:99::1", "route add blackhole 2001:db8:99::2"])
    for ask in (tcp_echo, udp_echo):
        assert ask(a.netns, b.address, 9).failure == Failure.REFUSED
        assert ask(a.netns, c.address, timeout=0.3).failure == Failure.TIMEOUT
        assert ask(a.netns, "2001:db8:99::1").failure == Failure.UNREACHABLE


def test_each_way_for_a_ping_to_fail_has_a_name(three: list[Target]) -> None:
    a, b, c = three
    on_the_way(f"ip6 daddr {c.address} drop")
    netns.ip_batch("router", ["route add unreachable 2001:db8:99::1", "link set v1 mtu 1300"])
    assert ping(a.netns, b.address, ttl=2).ok
    expired = ping(a.netns, b.address, ttl=1)
    assert (expired.failure, expired.server) == (Failure.EXPIRED, ROUTER)
    unreachable = ping(a.netns, "2001:db8:99::1")
    assert (unreachable.failure, unreachable.server) == (Failure.UNREACHABLE, ROUTER)
    assert ping(a.netns, c.address, timeout=0.3).failure == Failure.TIMEOUT
    assert ping(a.netns, b.address, size=1252).ok
    for _ in range(2):
        cut = ping(a.netns, b.address, size=1253)
        assert (cut.failure, cut.server, cut.mtu) == (Failure.TOO_BIG, ROUTER, 1300)
