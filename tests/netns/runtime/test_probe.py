"""The prober between plain namespaces: what passes, and each way to fail by its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.sandbox import netns
from tests.sandbox.ping import ping
from tests.sandbox.probe import PORT, EchoServers, Failure, Matrix, Prober, Target, tcp_echo, udp_echo
from tests.sandbox.waiting import eventually


@contextmanager
def star(count: int) -> Iterator[list[Target]]:
    """Namespaces around a router, each with a /32 and a veth."""
    names = [f"end{n}" for n in range(count)]
    targets = [Target(name, name, f"10.7.{n // 200}.{n % 200 + 1}") for n, name in enumerate(names)]
    netns.create("router")
    for name in names:
        netns.create(name)
    netns.sysctl("router", {"ipv4/ip_forward": 1, "ipv4/conf/all/rp_filter": 0})
    lines = []
    for n in range(count):
        lines += [f"link add v{n} numtxqueues 1 numrxqueues 1 type veth peer name eth0 netns end{n}"]
        lines += [f"link set v{n} up", f"route add {targets[n].address}/32 dev v{n}"]
    netns.ip_batch("router", ["address add 10.7.255.1/32 dev lo", *lines])
    for target in targets:
        way = ["link set eth0 up", f"address add {target.address}/32 dev eth0", "route add 10.7.255.1 dev eth0"]
        netns.ip_batch(target.netns, [*way, "route add default via 10.7.255.1"])
    try:
        assert eventually(lambda: netns.settled("router", *names))
        yield targets
    finally:
        for name in ("router", *names):
            netns.delete(name)


def on_the_way(rule: str, hook: str = "filter hook forward priority 0") -> None:
    """One rule in the router."""
    netns.nft("router", f"table ip t {{\n chain c {{\n type {hook};\n {rule}\n }}\n }}\n")


@pytest.fixture
def three() -> Iterator[list[Target]]:
    with star(3) as targets:
        yield targets


def by_kind(matrix: Matrix, source: str, target: str) -> dict[str, Failure | None]:
    return {kind: outcome.failure for kind, outcome in matrix.outcomes[source, target].items()}


def test_every_ordered_pair_of_fifty_ends() -> None:
    with star(50) as targets, Prober(targets) as prober:
        for _ in range(2):
            matrix = prober.matrix()
            assert matrix.failures() == []
            assert (matrix.pairs, matrix.connected, matrix.ok) == (2450, 2450, True)
            assert all(set(kinds) == {"ping", "tcp"} for kinds in matrix.outcomes.values())


def test_a_silent_pair_times_out_alone(three: list[Target]) -> None:
    on_the_way("iif v0 oif v1 drop")
    with Prober(three) as prober:
        matrix = prober.matrix(timeout=0.5)
    assert by_kind(matrix, "end0", "end1") == {"ping": Failure.TIMEOUT, "tcp": Failure.TIMEOUT}
    assert by_kind(matrix, "end1", "end0") == {"ping": Failure.TIMEOUT, "tcp": Failure.TIMEOUT}  # no answers either
    assert (matrix.pairs, matrix.connected, matrix.ok) == (6, 4, False)
    assert "end0 → end1: ping timeout" in matrix.failures()


def test_unreachable_is_told_from_silence(three: list[Target]) -> None:
    netns.run("router", ["ip", "route", "replace", "unreachable", f"{three[1].address}/32"])
    with Prober(three) as prober:
        matrix = prober.matrix(timeout=2)
    assert by_kind(matrix, "end0", "end1") == {"ping": Failure.UNREACHABLE, "tcp": Failure.UNREACHABLE}


def test_a_lost_first_packet_is_a_failure_though_tcp_recovers(three: list[Target]) -> None:
    """The limit's one token goes to the first SYN, which is dropped; its repetition passes."""
    on_the_way("iif v0 oif v1 tcp flags & (syn | ack) == syn limit rate 1/hour burst 1 packets drop")
    with Prober(three) as prober:
        matrix = prober.matrix()
    assert by_kind(matrix, "end0", "end1") == {"ping": None, "tcp": Failure.RETRANSMITTED}
    assert matrix.connected == 5


def test_a_rewritten_source_is_a_failure_in_a_flat_network(three: list[Target]) -> None:
    on_the_way("oif v1 snat to 10.7.255.1", "nat hook postrouting priority srcnat")
    with Prober(three) as prober:
        matrix = prober.matrix()
    assert by_kind(matrix, "end0", "end1") == {"ping": None, "tcp": Failure.REWRITTEN}
    assert "end0 → end1: tcp rewritten (by end1, seen as 10.7.255.1)" in matrix.failures()


def test_the_answer_of_another_server_is_a_failure(three: list[Target]) -> None:
    rule = f"iif v0 ip daddr {three[1].address} tcp dport {PORT} dnat to {three[2].address}"
    on_the_way(rule, "nat hook prerouting priority dstnat")
    with Prober(three) as prober:
        matrix = prober.matrix()
    assert by_kind(matrix, "end0", "end1") == {"ping": None, "tcp": Failure.ANOTHER}
    assert matrix.connected == 5


def test_a_single_kind(three: list[Target]) -> None:
    with Prober(three) as prober:
        assert all(set(kinds) == {"ping"} for kinds in prober.matrix(("ping",)).outcomes.values())


def test_servers_say_their_name_and_whom_they_saw(three: list[Target]) -> None:
    a, b, c = three
    with EchoServers() as servers:
        servers.add(b.netns, name="web-1")
        servers.add(c.netns)
        for ask in (tcp_echo, udp_echo):
            outcome = ask(a.netns, b.address)
            assert (outcome.ok, outcome.seen, outcome.server) == (True, a.address, "web-1")
            assert outcome.told == f"web-1 {a.address}"
            assert outcome.seconds > 0
            assert ask(a.netns, c.address).server == ""


def test_a_server_answers_from_the_address_that_was_asked(three: list[Target]) -> None:
    a, b, _ = three
    netns.run(b.netns, ["ip", "address", "add", "10.8.0.2/32", "dev", "lo"])
    netns.run("router", ["ip", "route", "add", "10.8.0.2/32", "dev", "v1"])
    with EchoServers() as servers:
        servers.add(b.netns)
        assert udp_echo(a.netns, "10.8.0.2").seen == a.address


def test_each_way_to_fail_has_a_name(three: list[Target]) -> None:
    a, b, c = three
    on_the_way(f"ip daddr {c.address} drop")
    for ask in (tcp_echo, udp_echo):
        assert ask(a.netns, b.address, 9).failure == Failure.REFUSED
        assert ask(a.netns, b.address, 9).told == "refused"
        assert ask(a.netns, c.address, timeout=0.3).failure == Failure.TIMEOUT
        assert ask(b.netns, "10.99.0.1").failure == Failure.UNREACHABLE


def test_a_ping_is_answered_whole_or_told_what_the_path_takes(three: list[Target]) -> None:
    """It asks the path each time, and does not rely on what the kernel has learned."""
    a, b, _ = three
    netns.ip_batch("router", ["link set v1 mtu 1300"])
    whole = ping(a.netns, b.address, size=1272)
    assert (whole.failure, whole.server, whole.mtu) == (None, b.address, 0)
    for _ in range(2):
        cut = ping(a.netns, b.address, size=1273)
        assert (cut.failure, cut.server, cut.mtu) == (Failure.TOO_BIG, "10.7.255.1", 1300)
    assert ping(a.netns, b.address, size=1473).failure == Failure.TOO_BIG  # for the first link, as the kernel knows


def test_each_way_for_a_ping_to_fail_has_a_name(three: list[Target]) -> None:
    a, b, c = three
    on_the_way(f"ip daddr {c.address} drop")
    netns.run("router", ["ip", "route", "add", "unreachable", "10.99.0.1/32"])
    netns.run("router", ["ip", "route", "add", "blackhole", "10.99.0.2/32"])
    assert ping(a.netns, b.address, ttl=2).ok
    expired = ping(a.netns, b.address, ttl=1)
    assert (expired.failure, expired.server) == (Failure.EXPIRED, "10.7.255.1")
    unreachable = ping(a.netns, "10.99.0.1")
    assert (unreachable.failure, unreachable.server) == (Failure.UNREACHABLE, "10.7.255.1")
    assert ping(a.netns, c.address, timeout=0.3).failure == Failure.TIMEOUT
    assert ping(a.netns, "10.99.0.2", timeout=0.3).failure == Failure.TIMEOUT
    netns.run(a.netns, ["ip", "route", "del", "default"])
    assert ping(a.netns, b.address).failure == Failure.UNREACHABLE


def test_the_source_address_can_be_chosen(three: list[Target]) -> None:
    a, b, _ = three
    netns.run(a.netns, ["ip", "address", "add", "10.8.0.1/32", "dev", "eth0"])
    netns.run("router", ["ip", "route", "add", "10.8.0.1/32", "dev", "v0"])
    on_the_way("ip saddr 10.8.0.1 icmp type echo-request counter")
    assert ping(a.netns, b.address, source="10.8.0.1").ok
    assert "counter packets 1 " in netns.run("router", ["nft", "list", "ruleset"]).stdout
    with EchoServers() as servers:
        servers.add(b.netns, PORT + 1, b.address)
        assert tcp_echo(a.netns, b.address, PORT + 1, source="10.8.0.1").seen == "10.8.0.1"


def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_open(three: list[Target]) -> None:
    with EchoServers() as servers:
        servers.add(three[0].netns)
        with pytest.raises(OSError, match="in use"), Prober(three):
            pass
