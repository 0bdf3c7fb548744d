"""Edges for a dry run: they read what the functions read, and write nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from berth.contract import Record, Report
from berth.ec2 import CLIENT_CONFIG, Boto3Ec2
from berth.edges import Edges
from berth.events import Signal
from berth.model import Intent, Notes, Outcome
from berth.node_items import Heard
from berth.settings import Settings
from berth.store import DynamoStore, NodeState

if TYPE_CHECKING:
    import boto3

    from berth.buckets import Reservation
    from berth.bus import Event
    from berth.events.node_look_requested import HookWait

__all__ = ["dry_edges"]


def dry_edges(account: boto3.Session, settings: Settings) -> Edges:
    """With the operator's credentials. Standby pools, hooks and the token budget are left out."""
    ec2, dynamo = account.client("ec2", config=CLIENT_CONFIG), account.client("dynamodb", config=CLIENT_CONFIG)
    store = _Reading(DynamoStore(dynamo, settings.table))
    return Edges(_Describing(ec2, ec2, settings.arn_prefix), store, _Silent(), _Silent(), settings)


class _Describing(Boto3Ec2):
    def mutate(self, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        raise PermissionError(f"a dry run makes no call, and {intent.call} is one")


class _Silent:
    """A bus and a queue that nobody hears."""

    def send(self, events: Iterable[Event]) -> int:
        return 0

    def ask(
        self,
        instance_ids: Iterable[str],
        reason: str,
        delay: int = 0,
        hook: HookWait | None = None,
        due: float = 0.0,
    ) -> None:
        """Nobody looks again."""


class _Reading:
    """The table, read only: what would be written is forgotten."""

    def __init__(self, store: DynamoStore) -> None:
        self._store = store

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]:
        return self._store.load(arns)

    def save(self, arn: str, record: Record, marked: tuple[tuple[str, int], ...], notes: Notes) -> None:
        """Not written."""

    def bury(self, arn: str, record: Record, expires_at: float) -> None:
        """Not written."""

    def save_intents(self, arn: str, intents: Sequence[Intent], slots: Sequence[Reservation] = ()) -> None:
        """Not written."""

    def accept_report(self, arn: str, report: Report, heard: Heard | None = None) -> bool:
        return False

    def hint(self, arn: str, signal: Signal) -> bool:
        return False

    def unhook(self, arn: str, hook_at: float) -> None:
        """Not written."""

    def take(self, arn: str, holder: str, now: float, until: float) -> bool:
        return False

    def release(self, arn: str, holder: str, seen: int | None) -> int | None:
        return None
