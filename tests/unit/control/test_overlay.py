"""The overlay: what EC2 will show once our own recent calls have become visible."""

from __future__ import annotations

from dataclasses import replace

from berth.calls import AssignPrefixes, CreateInterface, Unassign
from berth.model import Intent, InterfaceView, Outcome
from berth.overlay import overlay

BLOCK = "10.0.1.16/28"
BARE = InterfaceView("eni-1", "06:00:00:00:00:01", "subnet-a", "vpc-1", "az-a", "10.0.1.4")


def test_a_block_released_and_assigned_again_is_there_even_if_the_clocks_say_otherwise() -> None:
    """Two functions made the calls, the second of them on a host whose clock is a second behind."""
    released = Intent("t1", Unassign("eni-1", (BLOCK,)), 99.0, Outcome(), done_at=100.5)
    assigned = Intent("t2", AssignPrefixes("eni-1", 1), 99.5, Outcome(blocks=(BLOCK,)), done_at=100.0)
    (shown,) = overlay([BARE], [released, assigned], "i-1", 101.0)
    assert shown.blocks == (BLOCK,)


def test_an_interface_that_is_described_without_the_blocks_it_was_made_with_has_them() -> None:
    made = Intent(
        "t1", CreateInterface("subnet-a", ("sg-1",), 1), 99.0, Outcome(replace(BARE, prefixes=(BLOCK,))), 100.0
    )
    (shown,) = overlay([BARE], [made], "i-1", 101.0)
    assert shown.blocks == (BLOCK,)
