"""One schedule over the wire: the simulator's happenings, and a script of faults in front of the sandbox's account."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import pytest

from tests.sandbox.cloud.faults import Fault
from tests.simulator.happenings import draw_profile, happen, prepare
from tests.simulator.settling import check, settle

from .account import Account
from .world import WireWorld

__all__ = ["Result", "draw_script", "run"]

When = Literal["before", "after", "cut"]
_MUTATING: Final = (
    "AssignPrivateIpAddresses",
    "AssignPrivateIpAddresses",
    "CreateNetworkInterface",
    "UnassignPrivateIpAddresses",
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "CreateTags",
)
_READING: Final = ("DescribeInstances", "DescribeNetworkInterfaces", "DescribeSubnets", "DescribeInstanceTypes")
_EC2: Final[tuple[tuple[str, int, When], ...]] = (
    ("RequestLimitExceeded", 503, "before"),
    ("InternalError", 500, "before"),
    ("Unavailable", 503, "before"),
    ("InternalError", 500, "after"),
    ("Unavailable", 503, "cut"),
    ("Unavailable", 503, "cut"),
)
_WRITES: Final = ("PutItem", "UpdateItem", "DeleteItem")
_TABLE: Final[tuple[tuple[str, int, When], ...]] = (
    ("ProvisionedThroughputExceededException", 400, "before"),
    ("TransactionConflictException", 400, "before"),
    ("InternalServerError", 500, "before"),
    ("InternalServerError", 500, "after"),
    ("InternalServerError", 500, "cut"),
)
_QUEUE: Final[tuple[tuple[str, int, When], ...]] = (
    ("ServiceUnavailable", 503, "before"),
    ("InternalFailure", 500, "after"),
    ("InternalFailure", 500, "cut"),
)


def draw_script(rng: random.Random, brake: bool) -> list[Fault]:
    """Between 10 and 25 lines, each for a few calls of one action. ``brake``: its parameter can be read."""

    def line(service: str, action: str, kinds: tuple[tuple[str, int, When], ...], skip: int, times: int) -> Fault:
        code, status, when = rng.choice(kinds)
        return Fault(action, when, code, status=status, skip=rng.randint(0, skip), times=times, service=service)

    script = []
    for _ in range(rng.randint(10, 25)):
        kind = rng.choice(["mutating"] * 4 + ["reading", "write", "write", "read", "queue", "queue", "brake"])
        if kind == "mutating":
            script.append(line("ec2", rng.choice(_MUTATING), _EC2, 2, rng.choice([1, 1, 2, 3])))
        elif kind == "reading":
            script.append(line("ec2", rng.choice(_READING), _EC2, 8, rng.choice([1, 2, 3])))
        elif kind == "write":
            # the client tries three times
            script.append(line("dynamodb", rng.choice(_WRITES), _TABLE, 30, rng.choice([1, 2, 3, 4])))
        elif kind == "read":
            script.append(line("dynamodb", "BatchGetItem", _TABLE, 10, rng.choice([1, 3])))
        elif kind == "queue":
            action = rng.choice(["SendMessage", "SendMessageBatch"])
            script.append(line("sqs", action, _QUEUE, 4, rng.choice([1, 3, 4])))
        elif not brake:
            script.append(Fault("GetParameter", status=500, skip=rng.randint(0, 4), service="ssm"))
    return script


@dataclass
class Result:
    """What one schedule has seen: EC2 calls by (action, outcome), faults that hit, virtual seconds."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    hits: int = 0
    seconds: float = 0.0


def run(seed: int, account: Account, trace: Callable[[str], None] | None = None, most: int = 40) -> Result:
    """Run it. Raises :class:`~tests.simulator.promises.BrokenPromise`, or whatever the product raises."""
    logging.getLogger("berth").setLevel(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as patch:
        world = WireWorld(seed, account, patch, trace)
        started = world.kernel.now
        try:
            profile = replace(draw_profile(world), hooks=False)
            # few schedules: more bad luck in each
            profile = replace(
                profile,
                happenings=min(max(profile.happenings, 25), most),
                nodes=min(max(profile.nodes, 2), 3),
                crash=max(profile.crash, 0.15),
                by_hand=max(profile.by_hand, 0.05),
            )
            script = draw_script(world.rng, brake=profile.brake > 0)
            world.kernel.say(f"{profile} {world.faults}")
            for fault in script:
                world.kernel.say(f"    {fault}")
            world.misfortune(script)
            prepare(world, profile)
            for _ in range(profile.happenings):
                happen(world, profile)
            hits = account.faults.hits()
            world.end_background()
            world.end_misfortune()
            settle(world)
            check(world)
        finally:
            # a thread that waits for ever must not outlive its schedule
            world.end_background(kill=True)
            world.end_misfortune()
        return Result(world.ec2.outcomes, hits, world.kernel.now - started)
