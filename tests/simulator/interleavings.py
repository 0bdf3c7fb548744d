"""Every crash, every lost call and every hold-up of a small scene, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tests.simulator.settling import check, settle
from tests.simulator.small import go_on, knock, lend_by_old_metadata, node, served
from tests.simulator.world import World

__all__ = ["behind", "crashes", "held_up", "in_step", "left_out", "pairs", "unanswered"]

Scene = Callable[..., World]
MOST_STEPS: Final = 200
LATE: Final = 45.0
"""Seconds that describes may lag, which is less than what is overlaid."""
AFTER_THE_LEASE: Final = 130.0
"""Seconds: a lease is 80 s at the most, and a message comes again after 120 s."""


def _finish(world: World) -> None:
    try:
        settle(world)
        check(world)
    finally:
        world.end_background(kill=True)


def in_step(scene: Scene, stride: int = 1) -> Iterator[str]:
    """Past its lease it goes on in the midst of the one that has come after it: one call of each in turn.

    ``stride`` leaves places out at which it is held up.
    """
    for step in range(0, MOST_STEPS, stride):
        for lead in range(MOST_STEPS):
            yield f"held up at pause {step}, for {lead} pauses of the next"
            world = scene()
            if _holds(world, step):
                return
            knock(world)
            world.invoke(steps=lead)
            ended = world.background[-1].done
            while world.background:
                for work in list(world.background):
                    world.advance_background(work, 1)
            go_on(world)
            _finish(world)
            if ended:
                break


def _steps(scene: Scene) -> int:
    """How many steps the function makes if nothing happens to it."""
    return scene().invoke().steps


def crashes(scene: Scene) -> Iterator[str]:
    """The function is killed before each of its calls."""
    for step in range(_steps(scene)):
        yield f"killed before step {step}"
        world = scene()
        world.invoke(dies_at=step)
        _finish(world)


def unanswered(scene: Scene) -> Iterator[str]:
    """Each of its calls in turn is not made, or is made and not answered."""
    for step in range(_steps(scene)):
        for fate in ("drops_at", "loses_at"):
            yield f"{fate} {step}"
            world = scene()
            world.invoke(**{fate: step})
            go_on(world)
            _finish(world)


def behind(scene: Scene) -> Iterator[str]:
    """Each of its calls in turn is made and not answered, and for a while neither describes nor the node's copy of
    instance metadata show what it has done."""
    for step in range(_steps(scene)):
        yield f"not answered at step {step}, and described late"
        world = scene()
        world.invoke(loses_at=step)
        world.faults.lag = LATE
        for _ in range(5):
            world.kernel.advance(LATE / 9)
            knock(world)
            served(world)
            lend_by_old_metadata(world)
        world.faults.lag = 0.0
        go_on(world)
        _finish(world)


def left_out(scene: Scene) -> Iterator[str]:
    """For less than a minute EC2 does not show the instance, just when it is looked at, and its pods go on."""
    for looks in range(1, 12):
        yield f"left out of {looks} looks"
        world = scene()
        served(world)
        go_on(world)
        world.ec2.left_out[node(world).id] = world.kernel.now + 4 * looks
        for _ in range(looks):
            knock(world)
            served(world)
            world.kernel.advance(4)
        go_on(world)
        _finish(world)


def pairs(scene: Scene) -> Iterator[str]:
    """It is killed before each of its calls, and so is the one that comes after it."""
    for first in range(_steps(scene)):
        for second in range(MOST_STEPS):
            yield f"killed before step {first}, the next before step {second}"
            world = scene()
            world.invoke(dies_at=first)
            world.kernel.advance(AFTER_THE_LEASE)
            ended = not world.invoke(dies_at=second).dead
            world.kernel.advance(AFTER_THE_LEASE)
            _finish(world)
            if ended:
                break


def held_up(scene: Scene, *, past_lease: bool) -> Iterator[str]:
    """It is held up before each of its calls, others go on meanwhile, and then it goes on itself.

    ``past_lease``: for so long that its lease has run out, and its host does not kill it.
    """
    for step in range(MOST_STEPS):
        for forgets in (False, True):
            yield f"held up at pause {step}, the agent {'loses' if forgets else 'keeps'} its files"
            world = scene()
            if _holds(world, step, past_lease=past_lease):
                return
            if not forgets:
                knock(world)
                served(world)
            go_on(world, forgets=forgets)
            world.end_background()
            go_on(world)
            _finish(world)


def _holds(world: World, step: int, *, past_lease: bool = True) -> bool:
    """Hold a function up at its pause number ``step``. True: it has come to its end before."""
    world.invoke(steps=step, runaway=True)
    if past_lease:
        world.kernel.advance(AFTER_THE_LEASE)
    return world.background[-1].done
