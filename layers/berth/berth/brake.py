"""The kill switch: one SSM parameter that operators set, read on each batch.

What cannot be read is as it was last read by this execution environment. One that has never read it takes nothing
away and still lets nodes grow: wrongly keeping costs addresses, wrongly releasing or not growing costs pods.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Protocol

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from berth.calls import Call, DeleteInterface, Detach, DisassociatePublic, Unassign

__all__ = ["BRAKE_CONFIG", "FRESH_SECONDS", "Brake", "Level", "SsmBrake"]

logger = logging.getLogger(__name__)

BRAKE_CONFIG: Final = Config(connect_timeout=1, read_timeout=1, retries={"total_max_attempts": 1})
"""A batch must not wait for its brake."""
FRESH_SECONDS: Final = 1.0
"""Batches that follow one another more closely share a reading. Parameter Store answers 40 requests a second for all of
an account and region together (AWS General Reference, "Systems Manager endpoints and quotas"), and others need them."""
_TAKING_AWAY: Final = (Unassign, Detach, DeleteInterface, DisassociatePublic)


class Level(Enum):
    """How much may be changed."""

    NORMAL = "normal"
    NO_RELEASE = "no-release"  # nothing is unassigned, detached or deleted; nodes still grow
    READ_ONLY = "read-only"  # no mutating EC2 call at all

    def allows(self, call: Call) -> bool:
        if self is Level.NO_RELEASE:
            return not isinstance(call, _TAKING_AWAY)
        return self is Level.NORMAL


class Brake(Protocol):
    def level(self) -> Level:
        """The level now. Never raises: what cannot be read is as it was last read."""


class ParameterStore(Protocol):
    """What of SSM's client is used."""

    def get_parameter(self, *, Name: str) -> Any:  # noqa: N803 - boto3's own spelling
        """``{"Parameter": {"Value": ...}}``"""


class SsmBrake:
    """The parameter ``name``, through ``connect`` (which is called once, at the first reading)."""

    def __init__(
        self, connect: Callable[[], ParameterStore], name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connect, self._name, self._clock = connect, name, clock
        self._client: ParameterStore | None = None
        self._last, self._read_at = Level.NO_RELEASE, float("-inf")

    def level(self) -> Level:
        now = self._clock()
        if now - self._read_at >= FRESH_SECONDS:
            self._read()
            self._read_at = now
        return self._last

    def _read(self) -> None:
        self._client = self._client or self._connect()
        try:
            text = self._client.get_parameter(Name=self._name)["Parameter"]["Value"]
            level = Level(text)
        except (BotoCoreError, ClientError, KeyError, ValueError):
            logger.exception("the brake cannot be read; it stays as it was", extra={"level": self._last.value})
            return
        if level is not self._last:
            logger.warning("the brake is at another level", extra={"level": level.value, "was": self._last.value})
        self._last = level
