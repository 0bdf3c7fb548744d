"""The soak in a short size. ``make soak`` is the long one."""

from __future__ import annotations

import random
from pathlib import Path

from tests.soak.__main__ import soak


def test_three_hundred_adds_and_dels_with_kills_leave_nothing(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    found = soak(300, seed, tmp_path)
    assert found["kills"] >= 1
    assert found["blocks_given"] > 3
