"""Security groups, network ACLs, destination checks and peerings on packets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.netns.fabric.vpc import (
    ENI_A0,
    ENI_B0,
    NODE_A,
    NODE_B,
    datagrams,
    eni,
    instance,
    send_as,
    server,
    two_nodes,
    with_eni,
)
from tests.sandbox import netns
from tests.sandbox.echo import Failure, tcp_echo, udp_echo
from tests.sandbox.fabric import Fabric
from tests.sandbox.ping import ping
from tests.sandbox.world import (
    AclRule,
    GroupRule,
    NetworkAcl,
    Peering,
    Route,
    SecurityGroup,
    Subnet,
    Vpc,
    World,
)

A, B = "10.0.1.10", "10.0.2.10"
ALL = GroupRule(True, "any", "0.0.0.0/0"), GroupRule(False, "any", "0.0.0.0/0")
OUT = (ALL[0],)


def grouped(*rules_of_b: GroupRule, rules_of_a: tuple[GroupRule, ...] = ALL) -> World:
    """Node A in sg-a, node B in sg-b."""
    world = with_eni(two_nodes(), eni(ENI_A0, "subnet-a", A, instance=NODE_A, security_groups=("sg-a",)))
    world = with_eni(world, eni(ENI_B0, "subnet-b", B, instance=NODE_B, security_groups=("sg-b",)))
    return replace(world, groups=(SecurityGroup("sg-a", rules_of_a), SecurityGroup("sg-b", rules_of_b)))


def walled(*rules: AclRule, subnet: str = "subnet-b") -> World:
    world = two_nodes()
    subnets = tuple(replace(s, acl="acl-1") if s.id == subnet else s for s in world.subnets)
    everything = tuple(AclRule(100, way, True, "any", "0.0.0.0/0") for way in (True, False))
    return replace(world, subnets=subnets, acls=(NetworkAcl("acl-1", (*rules, *everything)),))


@pytest.fixture
def servers(fabric: Fabric) -> Iterator[None]:
    with server(NODE_B, B), server(NODE_A, A):
        yield


def counters() -> str:
    return netns.run("vpc", ["nft", "list", "counters", "table", "ip", "filters"]).stdout


@pytest.mark.usefixtures("servers")
def test_a_group_without_rules_lets_nothing_in_and_answers_out(fabric: Fabric) -> None:
    fabric.apply(grouped(*OUT))
    assert tcp_echo(NODE_A, B, timeout=0.3).failure == Failure.TIMEOUT
    assert ping(NODE_A, B, timeout=0.3).failure == Failure.TIMEOUT
    assert tcp_echo(NODE_B, A).told == B
    assert udp_echo(NODE_B, A).told == B
    assert ping(NODE_B, A).ok
    assert "packets 0" not in counters().split("group_drops")[1]


@pytest.mark.usefixtures("servers")
def test_state_belongs_to_an_interface_so_both_must_allow(fabric: Fabric) -> None:
    """A's group lets nothing out; that B's lets everything in does not help."""
    fabric.apply(grouped(*ALL, rules_of_a=(GroupRule(False, "any", "0.0.0.0/0"),)))
    assert tcp_echo(NODE_A, B, timeout=0.3).failure == Failure.TIMEOUT
    assert tcp_echo(NODE_B, A).told == B


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(
    ("rule", "tcp", "udp", "icmp"),
    [
        (GroupRule(False, "tcp", "0.0.0.0/0", (7000, 8000)), True, False, False),
        (GroupRule(False, "tcp", "0.0.0.0/0", (80, 80)), False, False, False),
        (GroupRule(False, "udp", "10.0.1.0/24"), False, True, False),
        (GroupRule(False, "udp", "10.0.3.0/24"), False, False, False),
        (GroupRule(False, "icmp", "0.0.0.0/0", icmp=(8, -1)), False, False, True),
        (GroupRule(False, "icmp", "0.0.0.0/0", icmp=(0, -1)), False, False, False),
        (GroupRule(False, "any", "sg-a"), True, True, True),
        (GroupRule(False, "any", "sg-b"), False, False, False),
    ],
)
def test_a_rule_allows_what_it_says(fabric: Fabric, rule: GroupRule, tcp: bool, udp: bool, icmp: bool) -> None:
    fabric.apply(grouped(*OUT, rule))
    got = (tcp_echo(NODE_A, B, timeout=0.3), udp_echo(NODE_A, B, timeout=0.3), ping(NODE_A, B, timeout=0.3))
    assert tuple(outcome.ok for outcome in got) == (tcp, udp, icmp)


@pytest.mark.usefixtures("servers")
def test_a_group_reference_matches_addresses_of_prefixes_and_follows_them(fabric: Fabric) -> None:
    world = grouped(*OUT, GroupRule(False, "any", "sg-a"))
    fabric.apply(world)
    netns.ip_batch(NODE_A, ["addr add 10.0.1.40/32 dev lo"])
    assert tcp_echo(NODE_A, B, source="10.0.1.40", timeout=0.3).failure == Failure.TIMEOUT
    more = replace(world.enis_of(NODE_A)[0], prefixes=("10.0.1.32/28",))
    without = tuple(e for e in world.enis if "10.0.1.32/28" not in e.prefixes)
    fabric.apply(with_eni(replace(world, enis=without), more))
    assert tcp_echo(NODE_A, B, source="10.0.1.40").told == "10.0.1.40"


@pytest.mark.usefixtures("servers")
def test_a_changed_group_counts_at_once_and_connections_go_on(fabric: Fabric) -> None:
    """The state outlives the rules: EC2 too keeps established, tracked connections."""
    fabric.apply(grouped(*ALL))
    with netns.open_socket(NODE_A) as sock:
        sock.settimeout(3)
        sock.connect((B, 7007))
        fabric.apply(grouped(*OUT))
        assert sock.recv(100).startswith(A.encode())
    assert tcp_echo(NODE_A, B, timeout=0.3).failure == Failure.TIMEOUT


@pytest.mark.usefixtures("servers")
def test_a_refusal_and_an_unreachable_port_come_back_through_groups(fabric: Fabric) -> None:
    fabric.apply(grouped(*OUT, *ALL))
    assert tcp_echo(NODE_A, B, port=9).failure == Failure.REFUSED
    assert udp_echo(NODE_A, B, port=9).failure == Failure.REFUSED


@pytest.mark.usefixtures("servers")
def test_an_acl_is_stateless_and_needs_a_rule_for_answers(fabric: Fabric) -> None:
    fabric.apply(walled(AclRule(50, True, False, "tcp", "0.0.0.0/0", (1024, 65535))))
    assert tcp_echo(NODE_A, B, timeout=0.3).failure == Failure.TIMEOUT
    assert udp_echo(NODE_A, B).ok
    assert tcp_echo(NODE_B, A, timeout=0.3).failure == Failure.TIMEOUT, "7007 is in the range, too"


@pytest.mark.usefixtures("servers")
def test_the_lowest_number_of_an_acl_decides_in_whatever_order_rules_are_listed(fabric: Fabric) -> None:
    deny, allow = AclRule(50, False, False, "tcp", "10.0.1.0/24"), AclRule(40, False, True, "tcp", "10.0.1.0/24")
    fabric.apply(walled(deny, allow))
    assert tcp_echo(NODE_A, B).ok
    fabric.apply(walled(deny))
    assert tcp_echo(NODE_A, B, timeout=0.3).failure == Failure.TIMEOUT


@pytest.mark.usefixtures("servers")
def test_an_acl_is_asked_only_at_the_border_of_its_subnet(fabric: Fabric) -> None:
    closed = walled(*(AclRule(50, way, False, "any", "0.0.0.0/0") for way in (True, False)))
    world = replace(closed, instances=(*closed.instances, instance("i-c")))
    fabric.apply(with_eni(world, eni("eni-c0", "subnet-b", "10.0.2.30", instance="i-c")))
    assert tcp_echo("i-c", B).told == "10.0.2.30"
    assert tcp_echo(NODE_A, B, timeout=0.3).failure == Failure.TIMEOUT


@pytest.mark.usefixtures("servers")
def test_an_acl_tells_echo_requests_from_replies(fabric: Fabric) -> None:
    fabric.apply(walled(AclRule(50, False, False, "icmp", "0.0.0.0/0", icmp=(8, 0))))
    assert ping(NODE_A, B, timeout=0.3).failure == Failure.TIMEOUT
    assert ping(NODE_B, A).ok


@pytest.mark.parametrize("check", [True, False])
def test_a_route_to_an_interface_delivers_only_with_its_check_off(fabric: Fabric, check: bool) -> None:
    world = two_nodes()
    world = with_eni(world, eni(ENI_B0, "subnet-b", B, instance=NODE_B, source_check=check))
    through = Route("203.0.113.128/25", ENI_B0)
    subnets = tuple(replace(s, routes=(through,)) if s.id == "subnet-a" else s for s in world.subnets)
    fabric.apply(replace(world, subnets=subnets))
    netns.ip_batch(NODE_B, ["addr add 203.0.113.130/32 dev lo"])
    with datagrams(NODE_B, "203.0.113.130") as receiver:
        receiver.settimeout(0.3)
        send_as(NODE_A, A, "203.0.113.130", b"for another")
        if check:
            with pytest.raises(TimeoutError):
                receiver.recv(100)
        else:
            assert receiver.recv(100) == b"for another"
    assert fabric.counters()["destination_check_drops"] == int(check)


def peered(*, routes_there: bool = True, peering: bool = True) -> World:
    """Two VPCs; node P in the second one."""
    world = two_nodes()
    subnets = tuple(replace(s, routes=(*s.routes, Route("10.1.0.0/16", "pcx-1"))) for s in world.subnets)
    back = (Route("10.0.0.0/16", "pcx-1"),) if routes_there else ()
    return replace(
        world,
        vpc_cidrs=("10.0.0.0/16", "10.1.0.0/16"),
        vpcs=(Vpc("vpc-1", ("10.0.0.0/16",)), Vpc("vpc-2", ("10.1.0.0/16",), vpn=False)),
        subnets=(*subnets, Subnet("subnet-p", "10.1.5.0/24", "eu-west-1a", "vpc-2", back)),
        instances=(*world.instances, instance("i-p")),
        enis=(*world.enis, eni("eni-00000000000000e0", "subnet-p", "10.1.5.10", instance="i-p")),
        peerings=(Peering("pcx-1", ("vpc-1", "vpc-2")),) if peering else (),
    )


@pytest.mark.usefixtures("servers")
def test_a_peering_passes_packets_where_both_sides_route(fabric: Fabric) -> None:
    fabric.apply(peered())
    with server("i-p", "10.1.5.10"):
        assert tcp_echo(NODE_A, "10.1.5.10").told == A
        assert tcp_echo("i-p", B).told == "10.1.5.10"
        fabric.apply(peered(routes_there=False))
        with datagrams("i-p", "10.1.5.10") as receiver:
            send_as(NODE_A, A, "10.1.5.10", b"there")
            assert receiver.recv(100) == b"there"
        assert tcp_echo(NODE_A, "10.1.5.10", timeout=0.3).failure == Failure.TIMEOUT, "no way back"
        fabric.apply(peered(peering=False))
        assert tcp_echo(NODE_A, "10.1.5.10", timeout=0.3).failure == Failure.TIMEOUT


@pytest.mark.usefixtures("servers")
def test_a_peering_leads_to_the_peer_alone(fabric: Fabric) -> None:
    """Not through it to what lies beyond: neither its VPN nor another VPC."""
    world = peered()
    lost = Route("192.168.50.0/24", "pcx-1")
    subnets = tuple(replace(s, routes=(lost,)) if s.id == "subnet-p" else s for s in world.subnets)
    fabric.apply(replace(world, subnets=subnets))
    with server("onprem", "192.168.50.10"):
        assert tcp_echo("i-p", "192.168.50.10", timeout=0.3).failure == Failure.TIMEOUT
        assert tcp_echo(NODE_A, "192.168.50.10").told == A


def test_on_premises_does_not_reach_a_vpc_without_a_vpn_gateway(fabric: Fabric) -> None:
    fabric.apply(peered())
    with server("i-p", "10.1.5.10"), datagrams("i-p", "10.1.5.10") as receiver:
        receiver.settimeout(0.3)
        send_as("onprem", "192.168.50.10", "10.1.5.10", b"from outside")
        with pytest.raises(TimeoutError):
            receiver.recv(100)


def test_filters_and_peerings_come_back_after_a_failed_change(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric.apply(peered())
    right = netns.nft

    def failing(name: str, ruleset: str) -> None:
        if "filters" in ruleset:
            raise netns.CommandError("refused once")
        right(name, ruleset)

    world = replace(peered(), groups=grouped(*ALL).groups)
    with monkeypatch.context() as patch:
        patch.setattr(netns, "nft", failing)
        with pytest.raises(netns.CommandError):
            fabric.apply(world)
    fabric.apply(peered())
    with server("i-p", "10.1.5.10"):
        assert tcp_echo(NODE_A, "10.1.5.10").told == A
