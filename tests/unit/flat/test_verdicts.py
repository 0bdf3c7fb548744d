"""One rule broken at a time: the verdict, the rule that it names, and the remedy. tests/flat has packets judge it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth.flat.numbers import ALL_PORTS, NO_PORTS
from berth.flat.snapshot import (
    AclEntry,
    Group,
    GroupRule,
    InternetGateway,
    PrefixList,
    Route,
    Snapshot,
    TransitAttachment,
    VpnGateway,
)

from tests.unit.flat.networks import (
    INTERNET,
    NODE_A,
    NODE_B,
    OFFICE,
    OPEN,
    PARTNER,
    PEER,
    POD_A,
    POD_A1,
    POD_B,
    acl,
    codes,
    go,
    network,
    with_peer,
    with_routes,
)


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
@pytest.mark.parametrize(
    ("source", "target"),
    [(POD_A, POD_B), (POD_B, POD_A), (NODE_A, POD_B), (POD_A, NODE_B), (POD_A, INTERNET), (POD_A, OFFICE),
     (OFFICE, POD_A), (POD_A1, POD_B)],
)  # fmt: skip
def test_an_open_network_passes_everything(source: tuple[str, str], target: tuple[str, str], protocol: str) -> None:
    found = go(network(), source, target, protocol)  # type: ignore[arg-type]
    assert (found.passes, found.fails, found.findings) == (True, False, ())


def with_acl(snapshot: Snapshot, subnet: str, *entries: AclEntry) -> Snapshot:
    others = tuple(a for a in snapshot.acls if subnet not in a.subnets)
    return replace(snapshot, acls=(*others, acl(f"acl-{subnet[-1]}", subnet, entries=entries)))


def deny(number: int, *, egress: bool, protocol: str = "tcp", ports: tuple[int, int] | None = None) -> AclEntry:
    return AclEntry(number, egress, False, protocol, "0.0.0.0/0", ports)


def test_an_acl_that_stops_a_port_on_the_way_in_is_named_with_its_rule_and_remedy() -> None:
    found = go(with_acl(network(), "subnet-b", deny(50, egress=False, ports=(443, 443))), POD_A, POD_B)
    assert (found.passes, found.fails) == (False, False)
    assert found.arrives == ((1, 442), (444, 65535))
    (finding,) = found.findings
    assert (finding.code, finding.resource, finding.ports) == ("acl-ingress", "acl-b", ((443, 443),))
    assert "rule 50 denies 0.0.0.0/0" in finding.what
    assert "number below 50" in finding.remedy


def test_an_acl_that_forgets_ephemeral_ports_stops_the_answers() -> None:
    found = go(with_acl(network(), "subnet-a", deny(50, egress=False, ports=(32768, 65535))), POD_A, POD_B)
    assert (found.arrives, found.answered) == (ALL_PORTS, NO_PORTS)
    assert codes(found) == [("acl-ingress", True)]


def test_answers_to_some_client_ports_alone_is_neither_passing_nor_failing() -> None:
    found = go(with_acl(network(), "subnet-a", deny(50, egress=False, ports=(50000, 65535))), POD_A, POD_B)
    assert (found.passes, found.fails) == (False, False)
    assert found.answered == ((32768, 49999),)


def test_an_acl_is_not_asked_within_its_subnet() -> None:
    closed = with_acl(network(), "subnet-b", *(deny(50, egress=way, protocol="any") for way in (True, False)))
    assert go(closed, POD_A1, POD_B).passes
    assert go(closed, POD_A, POD_B).fails


def test_the_lower_number_of_an_acl_decides() -> None:
    allowed = AclEntry(40, False, True, "tcp", "10.0.0.0/16")
    assert go(with_acl(network(), "subnet-b", deny(50, egress=False), allowed), POD_A, POD_B).passes


def test_an_acl_may_let_echo_requests_in_and_keep_the_replies() -> None:
    replies = AclEntry(50, True, False, "icmp", "0.0.0.0/0", icmp=(0, -1))
    found = go(with_acl(network(), "subnet-b", replies), POD_A, POD_B, "icmp")
    assert codes(found) == [("acl-egress", True)]
    assert "ICMP echo replies" in found.findings[0].what
    assert go(with_acl(network(), "subnet-b", replies), POD_B, POD_A, "icmp").passes


def with_group(snapshot: Snapshot, name: str, **rules: tuple[GroupRule, ...]) -> Snapshot:
    groups = tuple(replace(g, **rules) if g.id == name else g for g in snapshot.groups)  # type: ignore[arg-type]
    return replace(snapshot, groups=groups)


def test_a_group_without_a_rule_for_the_source_is_named_with_a_remedy_that_names_its_group() -> None:
    found = go(with_group(network(), "sg-b", ingress=()), POD_A, POD_B)
    (finding,) = found.findings
    assert (finding.code, finding.resource) == ("group-ingress", "sg-b")
    assert "from sg-a (the group of 10.0.1.33)" in finding.remedy


def test_a_group_that_names_itself_lets_its_own_pods_in_and_no_others() -> None:
    own = with_group(network(), "sg-b", ingress=(GroupRule("any", groups=("sg-b",)),))
    assert go(own, POD_A1, POD_B).passes, "an address in a prefix is one of its interface's"
    assert go(own, POD_A, POD_B).fails


def test_a_group_may_name_a_prefix_list() -> None:
    listed = replace(network(), prefix_lists=(PrefixList("pl-1", "", ("192.168.50.0/25",)),))
    listed = with_group(listed, "sg-a", ingress=(GroupRule("tcp", (80, 80), prefix_lists=("pl-1",)),))
    assert go(listed, OFFICE, POD_A).arrives == ((80, 80),)
    assert go(listed, POD_B, POD_A).fails


def test_groups_are_stateful_whatever_the_other_direction_says() -> None:
    one_way = with_group(with_group(network(), "sg-b", egress=()), "sg-a", ingress=())
    assert go(one_way, POD_A, POD_B).passes
    assert codes(go(one_way, POD_B, POD_A)) == [("group-egress", False)]


def test_pods_of_one_node_meet_within_it() -> None:
    closed = with_group(with_group(network(), "sg-a", ingress=(), egress=()), "sg-b", ingress=(), egress=())
    assert go(closed, POD_A, POD_A1).passes
    assert go(closed, POD_A, POD_A1, apart=True).fails, "pods like these on two nodes"


def test_a_black_hole_is_told_with_its_table() -> None:
    found = go(with_routes(network(), "rtb-a", Route("192.168.50.0/24", "vgw-1", black_hole=True)), POD_A, OFFICE)
    assert codes(found) == [("black-hole", False)]
    assert found.findings[0].resource == "rtb-a"


def test_a_narrower_black_hole_beats_a_wider_route() -> None:
    narrow = Route("192.168.50.0/28", "nat-1", black_hole=True)
    assert codes(go(with_routes(network(), "rtb-a", narrow), POD_A, OFFICE)) == [("black-hole", False)]


def test_a_static_route_beats_a_propagated_one_of_the_same_length() -> None:
    both = with_routes(
        network(), "rtb-a", Route("192.168.50.0/24", "nat-1"), Route("192.168.50.0/24", "vgw-1", propagated=True)
    )
    assert not go(both, OFFICE, POD_A).passes
    turned = with_routes(
        network(), "rtb-a", Route("192.168.50.0/24", "vgw-1"), Route("192.168.50.0/24", "nat-1", propagated=True)
    )
    assert go(turned, OFFICE, POD_A).passes


def test_a_secondary_interface_whose_subnet_has_no_route_back_answers_nobody() -> None:
    """The primary's subnet has the route, so the node is reached and its pods on the other interface are not."""
    missing = with_routes(network(), "rtb-b", Route("192.168.50.0/24", ""), Route("0.0.0.0/0", ""))
    assert go(missing, OFFICE, NODE_A).passes
    found = go(missing, OFFICE, POD_A1)
    assert (found.arrives, codes(found)) == (ALL_PORTS, [("no-route", True)])
    assert "rtb-b" in found.findings[0].remedy


def test_an_answer_that_a_nat_gateway_would_rewrite_is_lost() -> None:
    by_nat = with_routes(network(), "rtb-a", Route("192.168.50.0/24", ""))
    assert codes(go(by_nat, OFFICE, POD_A)) == [("answer-translated", True)]


def test_without_a_nat_gateways_public_address_there_is_no_internet() -> None:
    private = replace(network(), nat_gateways=(replace(network().nat_gateways[0], public=False),))
    found = go(private, POD_A, INTERNET)
    assert codes(found) == [("no-public-address", False)]
    assert found.findings[0].resource == "nat-1"


def test_a_pod_on_a_public_subnet_without_a_public_address_is_sent_to_a_nat_gateway_as_the_remedy() -> None:
    direct = with_routes(network(), "rtb-a", Route("0.0.0.0/0", "igw-1"))
    found = go(direct, POD_A, INTERNET)
    assert codes(found) == [("no-public-address", False)]
    assert "NAT gateway" in found.findings[0].remedy
    interfaces = tuple(
        replace(i, public=(("10.0.1.10", "203.0.113.1"),)) if i.id == "eni-a0" else i for i in direct.interfaces
    )
    found = go(replace(direct, interfaces=interfaces), POD_A, INTERNET)
    assert found.passes
    assert found.seen_as == "10.0.1.10", "the node's own address, which has the public one"


@pytest.mark.parametrize("state", ["gone", "not available"])
def test_a_nat_gateway_that_is_gone_or_not_available_is_told(state: str) -> None:
    kept = () if state == "gone" else (replace(network().nat_gateways[0], available=False),)
    assert codes(go(replace(network(), nat_gateways=kept), POD_A, INTERNET)) == [("nat-gone", False)]


def test_a_nat_gateway_whose_subnet_routes_back_to_it_is_a_circle() -> None:
    circle = with_routes(network(), "rtb-p", Route("0.0.0.0/0", "nat-1"))
    assert codes(go(circle, POD_A, INTERNET)) == [("nat-circle", False)]


def test_an_acl_that_stops_some_of_a_nat_gateways_ports_leaves_the_flow_in_doubt() -> None:
    some = with_acl(network(), "subnet-p", deny(50, egress=False, ports=(1024, 30000)))
    found = go(some, POD_A, INTERNET)
    assert (found.doubtful, found.passes, found.fails) == (True, False, False)


@pytest.mark.parametrize("kind", ["internet", "vpn"])
def test_a_gateway_of_another_vpc_is_no_way_out(kind: str) -> None:
    if kind == "internet":
        found = go(replace(network(), internet_gateways=(InternetGateway("igw-1", ()),)), POD_A, INTERNET)
    else:
        found = go(replace(network(), vpn_gateways=(VpnGateway("vgw-1", ("vpc-9",)),)), POD_A, OFFICE)
    assert codes(found) == [("wrong-gateway", False)]


def test_a_network_to_which_no_gateway_leads_cannot_reach_pods() -> None:
    found = go(replace(network(), vpn_gateways=()), OFFICE, POD_A)
    assert codes(found) == [("no-gateway", False)]


def test_a_network_that_overlaps_the_vpc_never_gets_an_answer() -> None:
    found = go(network(), ("", "10.0.200.10"), POD_A)
    assert codes(found) == [("overlap", True)]
    assert "does not overlap 10.0.0.0/16" in found.findings[0].remedy


def test_a_pods_address_is_rewritten_for_destinations_that_are_not_in_the_no_snat_list() -> None:
    """By its node, in the name of the primary interface: whose routes and groups then count."""
    routed = with_routes(network(), "rtb-a", Route("172.30.9.0/24", "vgw-1"))
    found = go(routed, POD_A1, PARTNER)
    assert (found.passes, found.seen_as) == (True, "10.0.1.10")
    closed = with_group(routed, "sg-a", egress=())
    assert codes(go(closed, POD_A1, PARTNER)) == [("group-egress", False)]
    kept = replace(closed, no_snat=("172.30.9.0/24",))
    assert codes(go(kept, POD_A1, PARTNER)) == [("wrong-gateway", False)], "rtb-b has no such route"


def test_a_pods_address_is_kept_where_the_route_tables_of_its_nodes_pods_lead_privately() -> None:
    """As its node's record has it; nobody had to list it. Excluded, it is rewritten all the same."""
    routed = network()
    for table in ("rtb-a", "rtb-b"):
        routed = with_routes(routed, table, Route("172.30.9.0/24", "vgw-1"))
    assert go(routed, POD_A1, PARTNER).seen_as == POD_A1[1]
    assert go(replace(routed, snat=("172.30.0.0/16",)), POD_A1, PARTNER).seen_as == NODE_A[1]
    gone = with_routes(routed, "rtb-b", Route("172.30.9.0/24", "vgw-1", black_hole=True))
    assert go(gone, POD_A1, PARTNER).seen_as == NODE_A[1], "by the primary's table, which still leads there"


def test_a_peered_network_sees_the_pods_own_address_without_being_listed() -> None:
    peered = replace(with_peer(network()), no_snat=())
    assert go(peered, POD_A, ("eni-p", "10.1.5.10")).seen_as == POD_A[1]


@pytest.mark.parametrize("check", [True, False])
def test_an_instance_that_forwards_needs_its_check_off_and_is_then_not_judged(check: bool) -> None:
    routed = with_routes(network(), "rtb-a", Route("192.168.50.0/24", "eni-b0"))
    interfaces = tuple(replace(i, source_check=check) if i.id == "eni-b0" else i for i in routed.interfaces)
    found = go(replace(routed, interfaces=interfaces), POD_A, OFFICE)
    assert codes(found) == ([("source-check", False)] if check else [])
    assert bool(found.unknown) is not check
    assert (found.passes, found.fails) == (False, check)


def test_a_peer_is_reached_and_answers_where_both_sides_route() -> None:
    assert go(with_peer(network()), POD_A, PEER).passes
    assert go(with_peer(network()), PEER, POD_A).passes
    assert codes(go(with_peer(network(), back=False), POD_A, PEER)) == [("no-route", True)]
    assert codes(go(with_peer(network(), active=False), POD_A, PEER)) == [("peering-inactive", False)]


def test_a_peer_of_another_account_is_judged_on_this_side_alone() -> None:
    peered = with_peer(network(), described=False)
    there = ("", "10.1.5.10")
    assert go(peered, POD_A, there).passes
    assert go(peered, there, POD_A).passes


@pytest.mark.parametrize("described", [True, False])
def test_a_peering_leads_no_further_than_the_peer(described: bool) -> None:
    beyond = with_routes(with_peer(network(), described=described), "rtb-a", Route("192.168.50.0/24", "pcx-1"))
    found = go(beyond, POD_A, OFFICE)
    assert codes(found) == [("peering-beyond", False)]
    assert "10.1.0.0/16 of vpc-2 alone" in found.findings[0].what


def test_a_transit_gateway_serves_only_zones_that_its_attachment_has_a_subnet_in() -> None:
    attached = replace(network(), transit_attachments=(TransitAttachment("tgw-1", "vpc-1", ("subnet-b",)),))
    for table in ("rtb-a", "rtb-b"):
        attached = with_routes(attached, table, Route("192.168.50.0/24", "tgw-1"))
    assert go(attached, POD_B, OFFICE).passes
    assert codes(go(attached, POD_A, OFFICE)) == [("transit-zone", False)]


def test_a_route_to_what_is_not_described_is_not_judged() -> None:
    found = go(with_routes(network(), "rtb-a", Route("192.168.50.0/24", "vpce-1")), POD_A, OFFICE)
    assert found.unknown
    assert not found.passes
    assert not found.fails


def test_no_route_at_all_is_told() -> None:
    bare = with_routes(network(), "rtb-a", Route("0.0.0.0/0", ""))
    assert codes(go(bare, POD_A, INTERNET)) == [("no-route", False)]


def test_an_interface_in_a_group_that_is_not_described_is_closed() -> None:
    unknown = replace(network(), groups=(Group("sg-a", "vpc-1", ingress=OPEN, egress=OPEN),))
    assert codes(go(unknown, POD_A, POD_B)) == [("group-ingress", False)]
