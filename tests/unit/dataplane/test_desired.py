"""Rules and routes as values."""

from __future__ import annotations

import socket
from dataclasses import replace

from berth_node.dataplane import desired
from berth_node.dataplane.desired import Route, Rule
from berth_node.dataplane.pods import PODS_TABLE
from berth_node.seams import InterfaceLayout, NodeLayout
from hypothesis import given
from hypothesis import strategies as st


def _interface(index: int, card: int = 0, blocks: tuple[str, ...] = ()) -> InterfaceLayout:
    return InterfaceLayout(
        mac=f"02:00:00:00:{card:02x}:{index:02x}",
        device_index=index,
        network_card=card,
        subnet_cidr="10.0.1.0/24",
        gateway="10.0.1.1",
        primary_address=f"10.0.{card}.{10 + index}",
        blocks=blocks,
    )


LAYOUT = NodeLayout(
    (
        _interface(0, blocks=("10.0.1.32/28", "10.0.1.80/32")),
        _interface(1, blocks=("10.0.1.48/28", "10.0.1.70/32")),
    )
)


def test_rules_grow_with_prefixes_and_never_with_addresses() -> None:
    marks = desired.assign_marks(LAYOUT, {})
    before = desired.rules(LAYOUT, marks)
    first, second = LAYOUT.interfaces
    more = tuple(f"10.0.2.{n}/32" for n in range(100))
    grown = replace(LAYOUT, interfaces=(first, replace(second, blocks=(*second.blocks, *more))))
    assert desired.rules(grown, marks) == before
    prefix = replace(LAYOUT, interfaces=(first, replace(second, blocks=(*second.blocks, "10.0.2.16/28"))))
    assert desired.rules(prefix, marks) - before == {Rule(1020, 300_000_002, source="10.0.2.16/28")}


def test_the_primary_interface_is_card_0_device_0_wherever_it_is_listed() -> None:
    layout = NodeLayout((_interface(1), _interface(0, card=1), _interface(0)))
    assert desired.primary(layout) == _interface(0)
    assert desired.primary(NodeLayout(())) is None


def test_every_interface_has_a_table_of_its_own() -> None:
    tables = [desired.table_of(_interface(index, card)) for card in range(32) for index in range(100)]
    assert len(set(tables)) == len(tables)
    assert PODS_TABLE not in tables
    assert all(255 < table < 2**32 for table in tables)


def test_without_its_link_an_interface_has_a_table_that_leads_nowhere() -> None:
    found = desired.routes(LAYOUT, {LAYOUT.interfaces[0].mac: 2})
    assert {route for route in found if route.table == 300_000_002} == {Route(300_000_002, "0.0.0.0/0", 0xFFFFFFFF)}
    assert Route(300_000_001, "0.0.0.0/0", link=2, gateway="10.0.1.1") in found


SIX = replace(
    LAYOUT,
    ipv6=True,
    interfaces=tuple(
        replace(i, ipv6_blocks=(cidr,))
        for i, cidr in zip(LAYOUT.interfaces, ("2001:db8:1:1:a::/80", "2001:db8:1:1:b::/80"), strict=True)
    ),
)


def test_ipv6_has_a_rule_for_each_prefix_beside_those_of_ipv4() -> None:
    marks = desired.assign_marks(SIX, {})
    more = desired.rules(SIX, marks) - desired.rules(LAYOUT, marks)
    assert {rule.family for rule in more} == {socket.AF_INET6}
    assert {(r.priority, r.table, r.source, r.destination, r.mark) for r in more} == {
        (1000, 300_000_000, "", "", 0),
        (1010, 300_000_001, "", "2001:db8:1:1::/64", 0x80),
        (1011, 254, "", "", 0x80),
        (1020, 300_000_001, "2001:db8:1:1:a::/80", "", 0),
        (1020, 300_000_002, "2001:db8:1:1:b::/80", "", 0),
        (1030, 300_000_001, "", "2001:db8:1:1::/64", 0),
    }
    assert desired.rules(LAYOUT, marks) <= desired.rules(SIX, marks)


def test_a_secondary_without_its_link_leads_its_ipv6_pods_nowhere() -> None:
    found = desired.routes(SIX, {SIX.interfaces[0].mac: 2})
    six = {route for route in found if route.family == socket.AF_INET6}
    assert {(r.table, r.destination, r.link, r.gateway) for r in six} == {
        (300_000_000, "2001:db8:1:1:a::/80", 0, ""),
        (300_000_000, "2001:db8:1:1:b::/80", 0, ""),
        (300_000_001, "::/0", 2, "fe80:ec2::1"),
        (300_000_002, "::/0", 0, ""),
    }


@given(
    indexes=st.sets(st.integers(0, 60), max_size=40),
    present=st.dictionaries(st.integers(300_000_000, 300_000_070), st.integers(0, 0x90)),
    mask=st.sampled_from([0x7F, 0x3, 0x7F0000, 0xFF00]),
)
def test_marks_are_distinct_inside_the_mask_and_kept(indexes: set[int], present: dict[int, int], mask: int) -> None:
    layout = NodeLayout(tuple(_interface(index) for index in sorted(indexes)), interface_mask=mask)
    marks = desired.assign_marks(layout, present)
    assert len(set(marks.values())) == len(marks)
    assert all(mark and mark & ~mask == 0 for mark in marks.values())
    room = mask // (mask & -mask)
    assert len(marks) == min(len(indexes), room)
    assert desired.assign_marks(layout, marks) == marks
