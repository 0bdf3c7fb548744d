"""The cold start bench: what it says of the times it has measured."""

from __future__ import annotations

from tests.bench.cold.__main__ import summary


def test_a_function_is_judged_by_its_median_beside_the_plain_median() -> None:
    found = summary([250.0, 240.0, 900.0], {"quick": [130.0, 140.0, 800.0], "slow": [200.0, 210.0, 150.0]})
    assert found["plain"] == {"median_ms": 250.0, "least_ms": 240.0}
    assert found["functions"]["quick"] == {"median_ms": 140.0, "least_ms": 130.0, "ratio": 0.56, "met": True}
    assert found["functions"]["slow"]["met"] is False
