"""One clock for everything: the functions, EC2's timers and buckets, the queues, botocore's pauses between attempts.

Nothing waits for real. The clock is the simulator's kernel, which also says when a function dies or is held up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Final

import botocore.endpoint
import moto.ec2.models.instances as moto_instances
import moto.sqs.models as moto_sqs
import pytest

from tests.sandbox.cloud import sqs
from tests.sandbox.cloud.lock import API_LOCK
from tests.sandbox.cloud.timers import TIMERS
from tests.simulator.kernel import Kernel

__all__ = ["ON_COMMAND", "Timer", "install"]

ON_COMMAND: Final = 1e9
"""The delay of what happens when the schedule says so: an instance's next state."""
Timer = Callable[[float, Callable[[], None]], None]


def install(patch: pytest.MonkeyPatch, kernel: Kernel, timer: Timer) -> None:
    """Have this process run by ``kernel``; ``timer`` is called with what EC2 does after a delay."""

    def later(seconds: float, callback: Callable[[], None]) -> None:
        def due() -> None:
            with API_LOCK:
                callback()

        timer(seconds, due)

    def now() -> float:
        return kernel.now

    patch.setattr(TIMERS, "call_later", later)
    patch.setattr(moto_sqs, "unix_time", now)
    patch.setattr(moto_sqs, "unix_time_millis", lambda: kernel.now * 1000)
    patch.setattr(sqs, "time", SimpleNamespace(time=now, monotonic=time.monotonic))
    patch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=kernel.advance, time=now))
    patch.setattr(moto_instances, "utcnow", lambda: datetime.fromtimestamp(kernel.now, UTC).replace(tzinfo=None))
