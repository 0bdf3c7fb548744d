"""The token budget: how soon each EC2 action may be called, shared by every stack of one account and region.

EC2 gives each API action of an account and region a bucket of its own (EC2 API throttling: "each API is evaluated
individually"). Berth keeps its own count of each in DynamoDB, so that concurrent functions and several stacks stay
under it together: one item for each action, with the time of :mod:`berth.buckets`. Taking tokens is one write whose
condition the table checks; whoever loses a race learns from the refusal what is there, and writes again.

boto3 repeats a write whose answer was lost. That may take the same tokens twice, which is harmless: they are only
missing for a moment. A token that is taken and never used is harmless for the same reason.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from berth.buckets import AHEAD_SECONDS, MOST_TOKENS, Bucket, Buckets, Draw, Level
from berth.contract import KIND
from berth.table import item_key, refused, told

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = [
    "BUDGET_CONFIG",
    "MOST_TOKENS",
    "SLOW_SECONDS",
    "Budget",
    "DynamoBudget",
    "OutOfTokensError",
    "Priority",
    "Slot",
    "paying",
    "terms",
]

logger = logging.getLogger(__name__)

BUDGET_CONFIG: Final = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 2})
"""Short: nodes wait for what the tokens are for."""
SLOW_SECONDS: Final = 60.0
"""For so long after a RequestLimitExceeded an action's tokens cost double: somebody else uses it too."""
_WAITS_AGE: Final = 1.0
"""What is known of a bucket is good for this long, where only a choice depends on it."""
_TRIES: Final = 6
_DIGITS: Final = 6
"""Of a second, that the table keeps."""
_READ_AT_ONCE: Final = 100
"""Keys in one BatchGetItem (DynamoDB API reference)."""

# ------------------------------------------------------------------------------------------------ conditions
SOME_ARE_TAKEN: Final = "tat > :now AND tat <= :most"
NONE_IS_TAKEN: Final = "attribute_not_exists(tat) OR tat <= :now"
MORE_IS_LEFT: Final = "attribute_not_exists(tat) OR tat < :empty"


class Priority(IntEnum):
    """Who goes first among the users of one action. Lower is more urgent.

    The first two reserve a slot when tokens are out; the others only take what is left over, and come again.
    """

    NEW_NODE = 0
    SHORTAGE = 1
    WARM = 2
    STANDBY = 3


_SHARES: Final = {Priority.NEW_NODE: 1.0, Priority.SHORTAGE: 1.0, Priority.WARM: 0.5, Priority.STANDBY: 0.25}
"""How much of a bucket each may use up: the rest is left to its betters."""


def terms(action: str, priority: Priority) -> tuple[float, float]:
    """The share of the bucket that may be used, and how many seconds ahead a slot may be reserved.

    Describing is never reserved: a batch of nodes is described together, and will not come back as the same batch.
    """
    reserves = priority <= Priority.SHORTAGE and not action.startswith("Describe")
    return _SHARES[priority], AHEAD_SECONDS if reserves else 0.0


@dataclass(frozen=True, slots=True)
class Slot:
    """``at`` is when the calls may be made (Unix seconds; not after now: at once). ``reserved``: they are ours then.

    Not reserved and not due means: nothing was taken, ask again about then. ``until`` is how long reserved ones are
    good. ``left`` is how many tokens there are still, below zero where they are taken in advance; None if nobody could
    be asked.
    """

    at: float
    reserved: bool = True
    until: float = math.inf
    left: float | None = None


class Budget(Protocol):
    """Actions are EC2's names, such as ``AssignPrivateIpAddresses``. Times are Unix seconds. Nothing raises for AWS."""

    def reserve(self, action: str, count: int, priority: Priority, now: float) -> Slot:
        """Take ``count`` (1 to 10) tokens of ``action``, now or at the slot that is given."""

    def waits(self, actions: frozenset[str], now: float) -> Mapping[str, float]:
        """Seconds until one more token of each action would be had, as far as is known. Takes nothing."""

    def throttled(self, action: str, now: float) -> None:
        """EC2 said RequestLimitExceeded: halve this action's budget for a while, for everybody."""


class OutOfTokensError(Exception):
    """The budget has nothing left for a describe now: ask again ``at`` (Unix seconds)."""

    def __init__(self, action: str, at: float) -> None:
        super().__init__(f"no token for {action}")
        self.action, self.at = action, at


def paying(budget: Budget, clock: Callable[[], float]) -> Callable[[str], None]:
    """Takes the token of one describe from what others leave, or raises :class:`OutOfTokensError`."""

    def pay(action: str) -> None:
        now = clock()
        slot = budget.reserve(action, 1, Priority.WARM, now)
        if slot.at > now:
            raise OutOfTokensError(action, slot.at)

    return pay


class DynamoBudget:
    """The budget in a table with the keys ``node`` and ``kind``, both text: ``scope`` and the action's name.

    ``scope`` names the account and region. A table that cannot be reached stops nobody: EC2's own throttling is still
    there, and nodes that wait for addresses must not wait for the count of their calls.
    """

    def __init__(self, client: DynamoDBClient, table: str, scope: str, buckets: Buckets) -> None:
        self._client, self._table, self._scope, self._buckets = client, table, scope, buckets
        self._known: dict[str, tuple[Level, float]] = {}

    def reserve(self, action: str, count: int, priority: Priority, now: float) -> Slot:
        bucket = self._buckets.of(action)
        share, ahead = terms(action, priority)
        try:
            taken = self._take(action, bucket, count, now, share, ahead)
            return taken if taken is not None else self._turn(action, bucket, count, now, share)
        except (ClientError, BotoCoreError):
            logger.exception("the token budget cannot be asked; going on without", extra={"action": action})
            return Slot(now)

    def waits(self, actions: frozenset[str], now: float) -> Mapping[str, float]:
        unsure = [a for a in sorted(actions) if now - self._known.get(a, (None, 0.0))[1] > _WAITS_AGE]
        try:
            self._read(unsure, now)
        except (ClientError, BotoCoreError):
            logger.exception("the token budget cannot be read; going on without")
        return {a: self._wait(self._buckets.of(a), self._level(a), now) for a in actions}

    def throttled(self, action: str, now: float) -> None:
        empty, until = self._buckets.of(action).emptied(now), now + SLOW_SECONDS
        values = {":until": _number(until), ":empty": _number(empty)}
        try:
            if not self._update(action, now, "SET slow_until = :until, tat = :empty", MORE_IS_LEFT, values):
                self._update(action, now, "SET slow_until = :until", None, {":until": values[":until"]})
        except (ClientError, BotoCoreError):
            logger.exception("the token budget cannot be halved", extra={"action": action})

    # ------------------------------------------------------------------------------------------- taking

    def _take(self, kind: str, bucket: Bucket, count: int, now: float, share: float, ahead: float) -> Slot | None:
        """None: there are none to be had on these terms, or others were quicker each time.

        A refusal by what is known is final, since ``tat`` never goes back.
        """
        for _ in range(_TRIES):
            draw = bucket.draw(self._level(kind), count, now, share=share, ahead=ahead)
            if not draw.allowed:
                return None
            if self._write(kind, draw, now):
                level = self._level(kind)
                at = bucket.slot(level.tat, now)
                return Slot(at, until=bucket.until(level.tat, count, now), left=bucket.left(level, now))
        return None

    def _turn(self, action: str, bucket: Bucket, count: int, now: float, share: float) -> Slot:
        """When to ask again: those who found nothing come back one after another, not all at once."""
        level = self._level(action)
        free = max(now, bucket.draw(level, count, now).tat - bucket.tolerance * share)
        last = now + AHEAD_SECONDS
        turns, kind = Bucket(0, bucket.refill), f"{action} turns"
        turn = self._take(kind, turns, count, free, 1.0, last - free) if free < last else None
        # without one (others were quicker): when the next would be, as far as is known
        at = turn.at if turn else max(free, turns.draw(self._level(kind), count, free).at)
        return Slot(min(at, last), reserved=False, left=bucket.left(level, now))

    def _write(self, kind: str, draw: Draw, now: float) -> bool:
        if self._level(kind).tat > round(now, _DIGITS):  # as the table will compare them
            values = {":cost": draw.cost, ":now": now, ":most": draw.latest - draw.cost}
            expression, condition = "SET tat = tat + :cost", SOME_ARE_TAKEN
        else:
            values = {":tat": draw.tat, ":now": now}
            expression, condition = "SET tat = :tat", NONE_IS_TAKEN
        return self._update(kind, now, expression, condition, {k: _number(v) for k, v in values.items()})

    # ------------------------------------------------------------------------------------------- the table

    def _level(self, kind: str) -> Level:
        return self._known[kind][0] if kind in self._known else Level()

    def _update(self, kind: str, now: float, expression: str, condition: str | None, values: dict[str, Any]) -> bool:
        """Write if the condition holds. Either way the item is known afterwards."""
        checked: Any = {"ConditionExpression": condition} if condition else {}
        try:
            answer = self._client.update_item(
                TableName=self._table,
                Key=self._key(kind),
                UpdateExpression=expression,
                ExpressionAttributeValues=values,
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **checked,
            )
        except ClientError as error:
            if not refused(error):
                raise
            answered: Mapping[str, Any] = error.response
            self._learn(kind, answered.get("Item", {}), now)
            return False
        self._learn(kind, answer["Attributes"], now)
        return True

    def _read(self, actions: Iterable[str], now: float) -> None:
        keys = [self._key(a) for a in actions][:_READ_AT_ONCE]
        if not keys:
            return
        answer = self._client.batch_get_item(RequestItems={self._table: {"Keys": keys}})
        found = {item[KIND]["S"]: item for item in answer["Responses"].get(self._table, ())}
        for kind in (key[KIND]["S"] for key in keys):
            known, read = self._level(kind), _level(found.get(kind, {}))
            # this read may be older than what our own last write has shown
            self._known[kind] = (Level(max(known.tat, read.tat), max(known.slow_until, read.slow_until)), now)

    def _learn(self, kind: str, item: Mapping[str, Any], now: float) -> None:
        self._known[kind] = (_level(item), now)

    def _key(self, kind: str) -> dict[str, Any]:
        return item_key(self._scope, kind)

    @staticmethod
    def _wait(bucket: Bucket, level: Level, now: float) -> float:
        return bucket.draw(level, 1, now).at - now


def _level(item: Mapping[str, Any]) -> Level:
    return Level(told(item, "tat"), told(item, "slow_until"))


def _number(value: float) -> dict[str, str]:
    return {"N": f"{value:.{_DIGITS}f}"}
