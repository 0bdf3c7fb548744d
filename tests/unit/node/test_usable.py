"""What the node may lend."""

from __future__ import annotations

from dataclasses import replace

from berth_node.usable import MetadataInterface, blocks_of, layouts_of, unusable_of

from tests.unit.node.make import MACS, interface, metadata, record

LINKS = frozenset(MACS)


def test_a_block_is_usable_when_record_metadata_and_link_agree() -> None:
    r = record(interface(0, "10.0.0.16/28", "10.0.0.9/32"))
    assert [(b.cidr, b.usable) for b in blocks_of(r, metadata(r), LINKS)] == [
        ("10.0.0.9/32", True),
        ("10.0.0.16/28", True),
    ]


def test_what_metadata_alone_shows_is_not_lent() -> None:
    shown = (MetadataInterface(MACS[0], 0, ("10.0.0.5", "10.0.0.77"), ("10.0.0.64/28",)),)
    assert blocks_of(record(interface(0)), shown, LINKS) == ()


def test_what_the_record_alone_lists_is_reported_unusable() -> None:
    r = record(interface(0, "10.0.0.16/28"), interface(1, "10.0.1.16/28"))
    stale = metadata(record(interface(0, "10.0.0.16/28")))
    blocks = blocks_of(r, stale, LINKS)
    assert [b.usable for b in blocks] == [True, False]
    assert unusable_of(blocks) == ("10.0.1.16/28",)


def test_a_prefix_is_not_shown_by_an_address_nor_an_address_by_a_prefix() -> None:
    r = record(interface(0, "10.0.0.16/28", "10.0.0.32/32"))
    odd = (MetadataInterface(MACS[0], 0, ("10.0.0.5", "10.0.0.16"), ("10.0.0.32/28",)),)
    assert [b.usable for b in blocks_of(r, odd, LINKS)] == [False, False]


def test_a_releasing_block_is_not_lent_yet_stays_routed_and_is_not_called_unusable() -> None:
    r = record(interface(0, "10.0.0.16/28", releasing=["10.0.0.16/28"]))
    blocks = blocks_of(r, metadata(r), LINKS)
    assert [b.usable for b in blocks] == [False]
    assert unusable_of(blocks) == ()
    assert layouts_of(r, LINKS)[0].blocks == ("10.0.0.16/28",)


def test_an_interface_without_its_link_is_neither_lent_from_nor_routed() -> None:
    r = record(interface(0, "10.0.0.16/28"), interface(1, "10.0.1.16/28"))
    assert [b.usable for b in blocks_of(r, metadata(r), {MACS[0]})] == [True, False]
    assert [i.mac for i in layouts_of(r, {MACS[0]})] == [MACS[0]]


def test_blocks_come_in_lending_order_card_then_device_then_number() -> None:
    second_card = replace(interface(1, "10.0.1.16/28"), network_card=1)
    r = record(second_card, interface(2, "10.0.2.128/28", "10.0.2.16/28"), interface(0, "10.0.0.16/28"))
    order = [b.cidr for b in blocks_of(r, metadata(r), LINKS)]
    assert order == ["10.0.0.16/28", "10.0.2.16/28", "10.0.2.128/28", "10.0.1.16/28"]
