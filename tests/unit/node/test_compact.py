"""The quick way to JSON gives what the documented one does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from berth_node import compact
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(VALUES)
def test_it_is_json_without_white_space(value: Any) -> None:
    assert compact.encode(value) == json.dumps(value, separators=(",", ":"))


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        compact.encode({"a": {1}})
