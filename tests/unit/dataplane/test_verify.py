"""CHECK's comparison of the node's routing: what a pod depends upon is named, what it does not is passed over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth_node.dataplane import desired, verify
from berth_node.dataplane.desired import Route, Rule
from berth_node.dataplane.messages import Link
from berth_node.dataplane.routing import State
from berth_node.seams import InterfaceLayout, NodeLayout

FIRST = InterfaceLayout(
    "02:AA:00:00:00:01", 0, "10.0.1.0/24", "10.0.1.1", "10.0.1.5", 0, ("10.0.1.16/28", "10.0.1.7/32")
)
SECOND = InterfaceLayout("02:aa:00:00:00:02", 1, "10.0.2.0/24", "10.0.2.1", "10.0.2.5", 0, ("10.0.2.16/28",))
THIRD = InterfaceLayout("02:aa:00:00:00:03", 2, "10.0.3.0/24", "10.0.3.1", "10.0.3.5", 0, ("10.0.3.16/28",))
LAYOUT = NodeLayout((FIRST, SECOND, THIRD))
LINKS = {
    i.mac.lower(): Link(n, f"eth{n}", i.mac.lower(), 9001, True, 6, 0, b"", "")
    for n, i in enumerate(LAYOUT.interfaces, start=2)
}
MARKS = desired.assign_marks(LAYOUT, {})
WHOLE = State(
    desired.rules(LAYOUT, MARKS),
    desired.routes(LAYOUT, {mac: link.index for mac, link in LINKS.items()}),
    frozenset(),
)
POD = "10.0.2.17"


def _told(state: State, address: str = POD, links: dict[str, Link] = LINKS) -> list[str]:
    return [f"{p.where}: {p.message}" for p in verify.missing(LAYOUT, MARKS, links, state, address)]


@pytest.mark.parametrize("address", [POD, "10.0.1.7", "10.0.1.17", "10.0.3.31", "10.99.0.1"])
def test_nothing_is_told_of_a_node_that_is_whole(address: str) -> None:
    assert _told(WHOLE, address) == []


@pytest.mark.parametrize("rule", sorted(WHOLE.rules), ids=str)
def test_a_missing_rule_is_told_if_the_pods_packets_meet_it(rule: Rule) -> None:
    told = _told(replace(WHOLE, rules=WHOLE.rules - {rule}))
    others = {"10.0.1.16/28", "10.0.3.16/28", "10.0.2.5/32", "10.0.3.5/32"}
    if rule.source in others or rule.table == desired.table_of(THIRD):
        assert told == []
    else:
        assert len(told) == 1
        assert told[0].startswith(f"rule {rule.priority}: ")
        assert told[0].endswith(f"lookup {rule.table} is missing")


@pytest.mark.parametrize("route", sorted(WHOLE.routes), ids=str)
def test_a_missing_route_is_told_if_it_is_in_the_pods_tables_or_of_its_block(route: Route) -> None:
    told = _told(replace(WHOLE, routes=WHOLE.routes - {route}))
    elsewhere = route.table == desired.table_of(THIRD) or route.destination in {
        "10.0.1.16/28",
        "10.0.1.7/32",
        "10.0.3.16/28",
    }
    assert len(told) == (0 if elsewhere else 1)
    assert all(line.startswith(f"table {route.table}: ") and route.destination in line for line in told)


def test_the_words_are_those_of_ip_rule_and_ip_route() -> None:
    nothing = State(frozenset(), frozenset(), frozenset())
    assert _told(nothing, "10.0.1.7") == [
        "rule 1000: lookup 300000000 is missing",
        "rule 1010: to 10.0.1.0/24 fwmark 0x80/0x80 lookup 300000001 is missing",
        "rule 1011: fwmark 0x80/0x80 lookup 254 is missing",
        "rule 1021: fwmark 0x1/0x7f lookup 300000001 is missing",
        "rule 1030: to 10.0.1.0/24 lookup 300000001 is missing",
        "table 300000000: unreachable 10.0.1.7/32 is missing",
        "table 300000001: 0.0.0.0/0 via 10.0.1.1 is missing",
        "table 300000001: 10.0.1.1/32 on the link is missing",
    ]


def test_an_interface_without_its_link_is_told() -> None:
    links = {mac: link for mac, link in LINKS.items() if mac != SECOND.mac}
    assert _told(WHOLE, POD, links) == [f"{SECOND.mac}: the interface of {POD} has no link with this MAC"]
    assert _told(WHOLE, "10.0.1.7", links) == []
