"""One random schedule, from its seed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulator.happenings import draw_profile, happen, prepare
from tests.simulator.settling import check, settle
from tests.simulator.world import World

__all__ = ["Result", "run"]


@dataclass
class Result:
    """What one schedule has seen: EC2 calls by (action, outcome), steps of functions, virtual seconds."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: float = 0.0


def run(seed: int, trace: Callable[[str], None] | None = None) -> Result:
    """Run it. Raises :class:`~tests.simulator.promises.BrokenPromise`, or whatever the product raises."""
    logging.getLogger("berth").setLevel(logging.CRITICAL)
    world = World(seed, trace)
    try:
        profile = draw_profile(world)
        world.kernel.say(f"{profile} {world.faults}")
        prepare(world, profile)
        for _ in range(profile.happenings):
            happen(world, profile)
        settle(world)
        check(world)
    finally:
        # a thread that waits for ever must not outlive its schedule
        world.end_background(kill=True)
    return Result(world.ec2.outcomes, world.kernel.now - 1_000_000.0)
