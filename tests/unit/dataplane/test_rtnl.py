"""Packing and reading netlink attributes."""

from __future__ import annotations

from berth_node.dataplane.messages import Link
from berth_node.dataplane.rtnl import Reply, attribute, attributes, nested
from hypothesis import given
from hypothesis import strategies as st

bodies = st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=300), max_size=8)


@given(bodies)
def test_what_is_packed_is_read(found: dict[int, bytes]) -> None:
    packed = b"".join(attribute(kind, data) for kind, data in found.items())
    assert len(packed) % 4 == 0
    assert attributes(packed) == found
    assert attributes(nested(5, packed))[5] == packed


@given(st.binary(max_size=200), st.integers(0, 16))
def test_nonsense_ends_the_parse_and_nothing_more(data: bytes, start: int) -> None:
    for value in attributes(data, start).values():
        assert value in data


@given(st.binary(min_size=16, max_size=200))
def test_any_answer_can_be_read_as_a_link(data: bytes) -> None:
    assert Link.parse(Reply(16, data)).index is not None
