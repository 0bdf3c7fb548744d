"""Which routes are nobody's, when plugins make pods while the kernel is read."""

from __future__ import annotations

from berth_node.dataplane.desired import Route
from berth_node.dataplane.pods import FIRST_INDEX, PODS_TABLE
from berth_node.dataplane.repair import HostSide, stale_routes
from berth_node.seams import FIRST_PAIR_INDEX, Attachment

PAIR = FIRST_PAIR_INDEX + 8


def side(*routes: Route, told: dict[int, Attachment] | None = None) -> HostSide:
    return HostSide({}, told or {}, frozenset(routes), frozenset())


def route(address: str, link: int) -> Route:
    return Route(PODS_TABLE, f"{address}/32", link=link)


def test_a_route_by_a_pair_that_has_not_said_whose_it_is_is_let_be() -> None:
    """Links are read before routes: its plugin gave it both in between."""
    assert stale_routes(side(route("10.0.1.16", PAIR)), ()) == ()


def test_a_route_of_another_address_by_a_pair_that_has_said_so_is_stale() -> None:
    told = {PAIR: Attachment("c", "eth0", "10.0.1.17", "eni1")}
    stray = route("10.0.1.16", PAIR)
    assert stale_routes(side(stray, route("10.0.1.17", PAIR), told=told), ()) == (stray,)


def test_a_route_by_a_link_of_the_agents_own_making_is_stale_without_its_pod() -> None:
    """It names its link in the batch that makes it."""
    stray = route("10.0.1.16", FIRST_INDEX + 2)
    assert stale_routes(side(stray), ()) == (stray,)
