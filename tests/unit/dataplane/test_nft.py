"""The text of the table."""

from __future__ import annotations

import re
from dataclasses import replace

from berth_node.dataplane import desired, nft
from berth_node.seams import NodeLayout

from tests.unit.dataplane.test_desired import LAYOUT, SIX

MARKS = {300_000_001: 1, 300_000_002: 2}


def _text(layout: NodeLayout = LAYOUT, link: str = "eth0") -> str:
    return nft.ruleset(layout, desired.assign_marks(layout, {}), link)


def test_every_write_to_a_mark_keeps_the_bits_of_others() -> None:
    writes = re.findall(r"(?:ct|meta) mark set (.*)", _text())
    assert len(writes) >= 6
    for write in writes:
        kept = re.fullmatch(r"(?:ct|meta) mark (?:& 0xffffff80 \| 0x[0-9a-f]+|\| 0x80)(?: return)?", write)
        assert kept, write


def test_ipv6_keeps_the_bits_of_others_and_rewrites_nothing() -> None:
    text = nft.ruleset6(SIX, "eth0")
    writes = re.findall(r"(?:ct|meta) mark set (.*)", text)
    assert writes == ["ct mark | 0x80", "meta mark | 0x80", "meta mark | 0x80"]
    assert "nat" not in text
    assert "iifname" not in nft.ruleset6(SIX, "")
    assert nft.ruleset6(LAYOUT, "eth0") == ""


def test_source_ports_are_drawn_at_random() -> None:
    # sequential ports collide between CPUs, and the loser's packet is dropped
    assert "snat to 10.0.0.10 fully-random" in _text()


def test_overlapping_and_repeated_blocks_are_merged() -> None:
    layout = replace(LAYOUT, no_snat_cidrs=("10.0.0.0/16", "10.0.1.0/24", "10.0.1.9/24", "192.168.0.0/16"))
    assert "elements = { 10.0.0.0/16, 192.168.0.0/16 }" in _text(layout)


def test_a_block_that_two_interfaces_claim_belongs_to_the_first() -> None:
    first, second = LAYOUT.interfaces
    doubled = replace(LAYOUT, interfaces=(first, replace(second, blocks=first.blocks)))
    assert "10.0.1.80/32 : jump to_300000001" in _text(doubled)
    assert "jump to_300000002" not in _text(doubled)


def test_with_its_primary_link_missing_nothing_counts_as_having_come_in_by_it() -> None:
    assert "iifname" not in _text(link="")
    assert 'iifname "eth0"' in _text()


def test_equal_layouts_give_equal_text() -> None:
    first, second = LAYOUT.interfaces
    turned = replace(LAYOUT, interfaces=(first, replace(second, blocks=second.blocks[::-1])))
    assert _text(turned) == _text()
