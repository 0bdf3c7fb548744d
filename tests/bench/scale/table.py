"""The table of node records in memory. What is read is what was written as JSON, but each text is decoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from berth.contract import Record, Report, decode_record, decode_report
from berth.intents import decode_intents
from berth.model import Intent, Notes
from berth.store import NodeState

from tests.bench.scale.agent import Agent
from tests.unit.control.fakes import FakeStore, Machine

__all__ = ["Table"]

_TEXTS: Final = 20_000
"""Decoded values that are kept, of each kind: they are frozen, and a large run would mostly decode otherwise."""


@lru_cache(_TEXTS)
def _record(text: str) -> Record:
    return decode_record(text)


@lru_cache(_TEXTS)
def _report(text: str) -> Report:
    return decode_report(text)


@lru_cache(_TEXTS)
def _intents(text: str) -> tuple[Intent, ...]:
    return decode_intents(text)


class Table(FakeStore):
    """Tells the agent who watches a record, by the node's ARN, when it has changed."""

    def __init__(self, watchers: dict[str, Agent]) -> None:
        super().__init__(Machine())
        self._watchers = watchers

    def record(self, arn: str = "") -> Record | None:
        item = self.items.get(arn)
        return _record(item.body) if item and item.body else None

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]:
        return {arn: self._node(arn) for arn in arns}

    def _node(self, arn: str) -> NodeState:
        item = self.items.get(arn)
        if item is None:
            return NodeState()
        return replace(
            self._state(replace(item, body="", report="", intents="")),
            record=_record(item.body) if item.body else None,
            report=_report(item.report) if item.report else None,
            intents=_intents(item.intents) if item.intents else (),
        )

    def save(self, arn: str, record: Record, marked: tuple[tuple[str, int], ...], notes: Notes) -> None:
        super().save(arn, record, marked, notes)
        self.history.clear()
        agent = self._watchers.get(arn)
        if agent is not None:
            agent.changed(agent.timeline.now)
