"""The cold start bench: what it says of the times it has measured."""

from __future__ import annotations

from tests.bench.cold.__main__ import summary


def test_a_function_is_judged_by_its_median_beside_the_plain_median() -> None:
    plain = [(250.0, 200.0), (240.0, 210.0), (900.0, 190.0)]
    quick = [(130.0, 100.0), (140.0, 110.0), (800.0, 90.0)]
    found = summary(plain, {"quick": quick, "slow": plain})
    assert found["plain"] == {"median_ms": 250.0, "least_ms": 240.0, "cpu_ms": 200.0}
    assert found["functions"]["quick"] == {
        "median_ms": 140.0,
        "least_ms": 130.0,
        "cpu_ms": 100.0,
        "ratio": 0.56,
        "cpu_ratio": 0.5,
        "met": True,
    }
    assert found["functions"]["slow"]["met"] is False
