"""Which destinations see a pod's own address: the pure derivation from route tables."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from berth.routes import Route, RouteTable, Routing
from hypothesis import example, given
from hypothesis import strategies as st

VPC = "10.0.0.0/16"
LOCAL = Route((VPC,), "local")


def table(*routes: Route, name: str = "rtb-1", main: bool = True, subnets: Sequence[str] = ()) -> RouteTable:
    return RouteTable(name, main, tuple(subnets), (LOCAL, *routes))


def listed(*routes: Route, add: Sequence[str] = (), never: Sequence[str] = ()) -> tuple[str, ...]:
    return Routing((VPC,), (table(*routes),)).no_snat(["subnet-1"], add, never)


@pytest.mark.parametrize(
    "target",
    [
        "pcx-0123456789abcdef0",
        "tgw-0123456789abcdef0",
        "vgw-0123456789abcdef0",
        "arn:aws:networkmanager::123456789012:core-network/core-network-0123456789abcdef0",
    ],
)
def test_what_lies_behind_a_private_gateway_sees_the_pods_own_address(target: str) -> None:
    assert listed(Route(("192.168.0.0/16",), target)) == (VPC, "192.168.0.0/16")


@pytest.mark.parametrize(
    "target",
    ["igw-1", "nat-1", "eigw-1", "vpce-1", "eni-1", "i-1", "lgw-1", "cagw-1", "", "arn:aws:odb:eu-west-1:1:odb/x"],
)
def test_what_lies_behind_anything_else_sees_the_nodes(target: str) -> None:
    assert listed(Route(("192.168.0.0/16",), target)) == (VPC,)


def test_a_black_hole_leads_nowhere() -> None:
    assert listed(Route(("192.168.0.0/16",), "pcx-1", black_hole=True)) == (VPC,)


def test_a_propagated_route_counts_as_any_other() -> None:
    assert listed(Route(("192.168.0.0/16",), "vgw-1", rank=2)) == (VPC, "192.168.0.0/16")


@pytest.mark.parametrize("cidr", ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "8.0.0.0/7"])
def test_a_default_route_whole_or_in_parts_says_nothing_of_who_is_behind_it(cidr: str) -> None:
    assert listed(Route((cidr,), "tgw-1")) == (VPC,)
    assert listed(Route((cidr,), "tgw-1"), add=["10.0.0.0/8"]) == ("10.0.0.0/8",)


def test_a_slash_8_is_a_network() -> None:
    assert listed(Route(("10.0.0.0/8",), "tgw-1")) == ("10.0.0.0/8",)


def test_a_more_specific_route_to_the_internet_is_a_hole_in_the_network_around_it() -> None:
    found = listed(Route(("172.16.0.0/12",), "tgw-1"), Route(("172.24.0.0/13",), "nat-1"))
    assert found == (VPC, "172.16.0.0/13")


def test_a_more_specific_private_route_within_such_a_hole_is_kept() -> None:
    nested = [
        Route(("172.16.0.0/12",), "tgw-1"),
        Route(("172.24.0.0/13",), "nat-1"),
        Route(("172.24.7.0/24",), "vgw-1", rank=2),
    ]
    assert listed(*nested) == (VPC, "172.16.0.0/13", "172.24.7.0/24")


def test_of_two_routes_to_one_network_the_static_one_decides() -> None:
    static, propagated = Route(("192.168.0.0/16",), "nat-1"), Route(("192.168.0.0/16",), "vgw-1", rank=2)
    assert listed(static, propagated) == listed(propagated, static) == (VPC,)
    by_list = Route(("192.168.0.0/16",), "tgw-1", rank=1)
    assert listed(by_list, Route(("192.168.0.0/16",), "nat-1", rank=2)) == (VPC, "192.168.0.0/16")


def test_of_prefix_lists_that_overlap_all_must_lead_there_privately() -> None:
    one, other = Route(("192.168.0.0/16",), "tgw-1", rank=1), Route(("192.168.0.0/16",), "nat-1", rank=1)
    assert listed(one, other) == listed(other, one) == (VPC,)
    assert listed(one, Route(("192.168.0.0/16",), "pcx-1", rank=1)) == (VPC, "192.168.0.0/16")


def test_the_vpc_keeps_its_own_whatever_its_routes_say() -> None:
    assert listed(Route(("10.0.7.0/24",), "vpce-1"), Route(("10.0.8.0/24",), "nat-1")) == (VPC,)


def test_users_add_and_what_they_exclude_is_rewritten_whoever_names_it() -> None:
    found = listed(
        Route(("192.168.0.0/16",), "vgw-1"), add=["203.0.113.7/24"], never=["192.168.128.0/17", "10.0.9.0/24"]
    )
    assert "203.0.113.0/24" in found
    assert "192.168.0.0/17" in found
    assert not any(ipaddress.IPv4Network(c).overlaps(ipaddress.IPv4Network("10.0.9.0/24")) for c in found)
    assert listed(add=["198.18.0.0/15"], never=["198.18.0.0/15"]) == (VPC,)


def test_each_subnet_follows_its_own_table_and_others_the_main_one() -> None:
    named = table(Route(("192.168.0.0/16",), "vgw-1"), name="rtb-2", main=False, subnets=["subnet-2"])
    routing = Routing((VPC,), (table(), named))
    assert routing.no_snat(["subnet-2"]) == (VPC, "192.168.0.0/16")
    assert routing.no_snat(["subnet-1"]) == (VPC,)


def test_behind_several_tables_only_what_all_lead_to_is_kept() -> None:
    """A pod whose table does not lead there would be cut off, where the node's own may."""
    wide = table(Route(("192.168.0.0/16",), "vgw-1"), Route(("172.16.0.0/12",), "tgw-1"))
    narrow = table(Route(("192.168.50.0/24",), "pcx-1"), name="rtb-2", main=False, subnets=["subnet-2"])
    routing = Routing((VPC,), (wide, narrow))
    assert routing.no_snat(["subnet-1", "subnet-2"]) == (VPC, "192.168.50.0/24")


def test_without_any_table_there_are_the_vpcs_own_cidrs() -> None:
    assert Routing((VPC,)).no_snat(["subnet-1"]) == (VPC,)


# ------------------------------------------------------------------------------------ lists that cannot be read

UNREAD = Route((), "tgw-1", rank=1, unread="pl-1")
OFFICE = Route(("172.16.0.0/12",), "vgw-1")


def kept(*routes: Route, before: Sequence[str], never: Sequence[str] = ()) -> tuple[str, ...]:
    return Routing((VPC,), (table(*routes),)).no_snat(["subnet-1"], never=never, before=before)


def test_what_was_listed_stays_while_a_private_routes_prefix_list_cannot_be_read() -> None:
    before = (VPC, "192.168.50.0/24")
    assert kept(UNREAD, before=before) == before
    assert kept(UNREAD, OFFICE, before=before) == (VPC, "172.16.0.0/12", "192.168.50.0/24")
    assert kept(OFFICE, before=before) == (VPC, "172.16.0.0/12"), "with all lists read nothing is kept"
    assert kept(UNREAD, before=()) == (VPC,), "a new node knows nothing from before"


def test_nothing_is_added_while_the_prefix_list_of_another_route_cannot_be_read() -> None:
    """Its networks are holes: pods would be cut off from what is behind them."""
    hole = Route((), "nat-1", rank=1, unread="pl-1")
    wide = Route(("172.16.0.0/12",), "tgw-1")
    before = (VPC, "172.16.0.0/13")
    assert kept(wide, hole, before=before) == before
    assert kept(wide, hole, UNREAD, before=(*before, "192.168.0.0/24")) == (*before, "192.168.0.0/24")
    assert kept(hole, before=before) == (VPC,), "what no route leads to any more goes all the same"


def test_what_the_operator_excludes_goes_although_a_list_cannot_be_read() -> None:
    assert kept(UNREAD, before=(VPC, "192.168.50.0/24"), never=["192.168.50.0/25"]) == (VPC, "192.168.50.128/25")


def test_only_the_tables_that_decide_for_a_nodes_pods_count() -> None:
    other = table(UNREAD, name="rtb-2", main=False, subnets=["subnet-2"])
    routing = Routing((VPC,), (table(), other))
    assert routing.no_snat(["subnet-1"], before=(VPC, "192.168.0.0/24")) == (VPC,)
    assert routing.unread(["subnet-1"]) == ()
    assert routing.unread(["subnet-1", "subnet-2"]) == (("rtb-2", "pl-1"),)


# -------------------------------------------------------------------------------------------------- against a router

_CIDRS = st.builds(
    lambda number, length: str(ipaddress.IPv4Network((number << 20, length), strict=False)),
    st.integers(0, 4095),
    st.sampled_from([0, 1, 6, 8, 9, 10, 11, 12]),
)
_ROUTES = st.builds(
    Route,
    st.lists(_CIDRS, min_size=1, max_size=3).map(tuple),
    st.sampled_from(["tgw-1", "vgw-1", "pcx-1", "nat-1", "igw-1", "vpce-1"]),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
)


def keeps(routes: Sequence[Route], address: ipaddress.IPv4Address) -> bool:
    """As a router does, one address at a time: all the best routes must be private."""
    matching = [
        (-network.prefixlen, route.rank, route)
        for route in routes
        for network in map(ipaddress.IPv4Network, route.cidrs)
        if address in network
    ]
    if not matching:
        return False
    best = min(m[:2] for m in matching)
    return best[0] <= -8 and all(m[2].private for m in matching if m[:2] == best)


@given(st.lists(_ROUTES, max_size=8), st.lists(_CIDRS, max_size=2), st.lists(_CIDRS, max_size=2), st.data())
@example([Route(("0.0.0.0/0",), "tgw-1"), Route(("255.240.0.0/12",), "tgw-1")], [], [], None)
def test_the_list_holds_just_the_addresses_that_the_router_sends_privately(
    routes: list[Route], add: list[str], never: list[str], data: st.DataObject | None
) -> None:
    found = [ipaddress.IPv4Network(c) for c in Routing((VPC,), (table(*routes),)).no_snat(["subnet-1"], add, never)]
    edges = {
        n[end]
        for c in (VPC, *add, *never, *(c for r in routes for c in r.cidrs))
        for n in [ipaddress.IPv4Network(c)]
        for end in (0, -1)
    }
    near = {a + by for a in edges for by in (-1, 0, 1) if 0 <= int(a) + by < 1 << 32}
    drawn = (
        []
        if data is None
        else data.draw(st.lists(st.integers(0, (1 << 32) - 1).map(ipaddress.IPv4Address), max_size=4))
    )
    for address in [*near, *drawn]:
        within = [any(address in ipaddress.IPv4Network(c) for c in cidrs) for cidrs in ([VPC, *add], never)]
        expected = (keeps(routes, address) or within[0]) and not within[1]
        assert any(address in network for network in found) == expected, address
    assert found == sorted(found)
    assert list(ipaddress.collapse_addresses(found)) == found, "the fewest CIDRs"


@given(st.lists(_ROUTES, max_size=6), st.lists(_ROUTES, max_size=6))
def test_the_order_in_which_ec2_tells_routes_changes_nothing(one: list[Route], other: list[Route]) -> None:
    assert listed(*one, *other) == listed(*other, *one)
