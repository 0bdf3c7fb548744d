"""Rules, routes and addresses are read as they were packed, whatever their address family."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import pytest
from berth_node.dataplane import route_messages
from berth_node.dataplane.desired import ANYWHERE, Route, Rule
from berth_node.dataplane.messages import ROUTE_PROTOCOL
from berth_node.dataplane.route_messages import Address
from berth_node.dataplane.rtnl import Reply, Request, attribute
from hypothesis import given
from hypothesis import strategies as st

FAMILIES = (socket.AF_INET, socket.AF_INET6)
numbers = st.integers(0, 0xFFFFFFFF)
tables = st.integers(1, 0xFFFFFFFF)


def _networks(family: int) -> st.SearchStrategy[str]:
    version, bits = (4, 32) if family == socket.AF_INET else (6, 128)
    addresses = st.ip_addresses(v=version)  # type: ignore[arg-type]
    networks = st.builds(lambda a, n: ipaddress.ip_network((a, n), strict=False), addresses, st.integers(1, bits))
    return networks.map(lambda n: f"{socket.inet_ntop(family, n.network_address.packed)}/{n.prefixlen}")


def _gateways(family: int) -> st.SearchStrategy[str]:
    # as inet_ntop writes them, which differs from ipaddress for embedded IPv4 addresses
    version = 4 if family == socket.AF_INET else 6
    return st.ip_addresses(v=version).map(lambda a: socket.inet_ntop(family, a.packed))  # type: ignore[arg-type]


def _rules(family: int) -> st.SearchStrategy[Rule]:
    ends = st.just("") | _networks(family)
    marks = st.just((0, 0)) | st.tuples(numbers, st.integers(1, 0xFFFFFFFF))
    return st.builds(
        lambda priority, table, source, destination, mark: Rule(
            priority, table, source, destination, mark[0], mark[1], family
        ),
        numbers,
        tables,
        ends,
        ends,
        marks,
    )


def _routes(family: int) -> st.SearchStrategy[Route]:
    ways = st.just((0, "")) | st.tuples(st.integers(1, 1 << 30), st.just("") | _gateways(family))
    return st.builds(
        lambda table, destination, metric, way: Route(table, destination, metric, way[0], way[1], family),
        tables,
        st.just(ANYWHERE[socket.AddressFamily(family)]) | _networks(family),
        numbers,
        ways,
    )


def _told(request: Request) -> Reply:
    return Reply(request.type, request.body)


@given(st.sampled_from(FAMILIES).flatmap(_rules))
def test_a_rule_is_read_as_it_was_packed(rule: Rule) -> None:
    body = route_messages.add_rule(rule)
    assert route_messages.parse_rule(_told(body)) == rule
    assert route_messages.owner_of_rule(body.body) == (ROUTE_PROTOCOL, rule.table)


@given(st.sampled_from(FAMILIES).flatmap(_routes))
def test_a_route_is_read_as_it_was_packed(route: Route) -> None:
    body = route_messages.replace_route(route)
    assert route_messages.parse_route(_told(body)) == route
    assert route_messages.owner_of_route(body.body)[:2] == (ROUTE_PROTOCOL, route.table)


@given(
    st.sampled_from(FAMILIES).flatmap(
        lambda family: st.builds(
            Address, st.integers(1, 1 << 30), _gateways(family), st.integers(0, 32), st.just(int(family))
        )
    )
)
def test_an_address_is_read_as_it_was_packed(address: Address) -> None:
    assert route_messages.parse_address(_told(route_messages.add_address(address))) == address


RULE = route_messages.add_rule(Rule(1020, 300_000_001, "10.0.1.32/28")).body
ROUTE = route_messages.replace_route(Route(300_000_001, "10.0.1.1/32", link=2)).body
FRA_IIFNAME, FRA_SUPPRESS_PREFIXLEN, FRA_PROTOCOL = 3, 14, 21


@pytest.mark.parametrize(
    "body",
    [
        RULE + attribute(FRA_IIFNAME, b"eth0\0"),
        RULE + attribute(FRA_SUPPRESS_PREFIXLEN, b"\0\0\0\0"),
        RULE + attribute(FRA_PROTOCOL, b"\4"),
        RULE[:7] + b"\7" + RULE[8:],  # unreachable
        RULE[:8] + b"\2\0\0\0" + RULE[12:],  # not from
        RULE[:3] + b"\4" + RULE[4:],  # tos
    ],
)
def test_a_rule_that_says_more_than_ours_do_is_not_ours(body: bytes) -> None:
    assert route_messages.parse_rule(Reply(32, RULE + attribute(FRA_SUPPRESS_PREFIXLEN, b"\xff\xff\xff\xff")))
    assert route_messages.parse_rule(Reply(32, body)) is None


def test_a_route_of_another_protocol_is_not_ours_and_one_of_another_kind_is_never_wanted() -> None:
    assert route_messages.parse_route(Reply(24, ROUTE[:5] + b"\4" + ROUTE[6:])) is None
    blackhole = route_messages.parse_route(Reply(24, ROUTE[:7] + b"\6" + ROUTE[8:]))
    assert blackhole is not None
    assert blackhole.link == route_messages.OTHER_KIND


PARSERS: tuple[Callable[[Reply], object], ...] = (
    route_messages.parse_rule,
    route_messages.parse_route,
    route_messages.parse_address,
    route_messages.neighbour_link,
)


@pytest.mark.parametrize("parse", PARSERS)
@given(st.binary(max_size=64))
def test_any_header_with_nothing_after_it_can_be_read(parse: Callable[[Reply], object], noise: bytes) -> None:
    parse(Reply(0, bytes((socket.AF_INET,)) + noise[:11].ljust(11, b"\0")))
