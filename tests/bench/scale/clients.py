"""The AWS clients that Berth's edges are made on, in virtual time: as far as those edges use them.

Each call takes the time of its way there, EC2's answer and nothing else; retries are botocore's, as configured.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from botocore.config import Config
from botocore.exceptions import ClientError

from tests.bench.scale.assumed import NETWORK_LEG
from tests.bench.scale.ec2 import THROTTLE, VirtualEc2
from tests.bench.scale.timeline import Timeline

__all__ = ["Delayed", "Ec2Client"]

_LONGEST_BACKOFF: Final = 20.0


class Ec2Client:
    """Methods are boto3's. For tasks alone: a call sleeps. ``config`` says how often it is tried."""

    def __init__(self, ec2: VirtualEc2, timeline: Timeline, rng: random.Random, config: Config) -> None:
        self._ec2, self._timeline, self._rng = ec2, timeline, rng
        retries: Mapping[str, Any] = getattr(config, "retries", None) or {}
        self._attempts = int(retries.get("total_max_attempts", 3))

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        action = "".join(part.capitalize() for part in method.split("_"))

        def call(**params: Any) -> Any:
            return self._call(action, params)

        setattr(self, method, call)
        return call

    def _call(self, action: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        for attempt in range(self._attempts):
            self._timeline.sleep(NETWORK_LEG.draw(self._rng))
            answer = self._ec2.answer(action, params)
            self._timeline.sleep(answer.seconds)
            if not answer.code:
                return answer.body
            if answer.code != THROTTLE:
                break
            if attempt + 1 < self._attempts:
                # botocore, retry mode "standard": a random part of 1, 2, 4 ... seconds
                self._timeline.sleep(min(self._rng.random() * 2**attempt, _LONGEST_BACKOFF))
        raise ClientError({"Error": {"Code": answer.code, "Message": answer.code}}, action)


class Delayed:
    """An edge whose every method takes ``seconds()``, the work being done half-way."""

    def __init__(self, target: object, timeline: Timeline, seconds: Callable[[], float]) -> None:
        self._target, self._timeline, self._seconds = target, timeline, seconds

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self._target, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            seconds = self._seconds()
            self._timeline.sleep(seconds / 2)
            result = method(*args, **kwargs)
            self._timeline.sleep(seconds / 2)
            return result

        setattr(self, name, call)
        return call
