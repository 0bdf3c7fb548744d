"""What the kernel has and the runtime was told, and what the journal could not be told: that is tried again.

Answers do not wait for the journal (:mod:`berth_node.verbs`), so one that cannot be written must fail nobody. A kill
loses nothing: the next start goes by what the kernel has (:func:`resume`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from berth_node.desk import UNKNOWN, Desk
from berth_node.journal import Entry, JournalError
from berth_node.pool import Key
from berth_node.seams import Attachment, Dataplane, Wired

__all__ = ["Unwritten", "resume"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Unwritten:
    """``_wired`` are pods that are there, ``_gone`` those whose addresses are still to be taken back."""

    desk: Desk
    _wired: dict[Key, Wired] = field(default_factory=dict)
    _gone: set[Key] = field(default_factory=set)

    def wired(self, key: Key, wired: Wired) -> None:
        """The kernel has all of a pod."""
        try:
            self.desk.wired(key, wired)
        except JournalError:
            self._wired[key] = wired
            _log.exception("a pod could not be written down; it is tried again", extra={"container": key[0]})

    def free(self, key: Key) -> None:
        """The kernel has nothing of a pod any more."""
        self._wired.pop(key, None)
        try:
            self.desk.free(key)
        except JournalError:
            self._gone.add(key)
            about = {"container": key[0]}
            _log.exception("a returned address could not be written down; it is tried again", extra=about)
            return
        self._gone.discard(key)

    def forget(self, key: Key) -> None:
        """A pod is not there after all."""
        self._wired.pop(key, None)

    def __contains__(self, key: object) -> bool:
        """Whether a pod is there that the journal does not know as wired."""
        return key in self._wired

    def still(self, entry: Entry | None) -> Entry | None:
        """The entry of a pod that is asked for, unless it is of one that is gone: then its address is taken back first.

        Raises :class:`berth_node.journal.JournalError`.
        """
        if not self._gone or entry is None or entry.attachment.key not in self._gone:
            return entry
        self.desk.free(entry.attachment.key)
        self._gone.discard(entry.attachment.key)
        return None

    def again(self) -> None:
        """Now and then: write what could not be written. Raises :class:`berth_node.journal.JournalError`."""
        for key in tuple(self._gone):
            self.desk.free(key)
            self._gone.discard(key)
        for key, wired in tuple(self._wired.items()):
            if key in self.desk.entries:
                self.desk.wired(key, wired)
            del self._wired[key]


async def resume(
    desk: Desk, unsure: Iterable[Attachment], kernel: Dataplane, run: Callable[[Any, Attachment], Awaitable[Any]]
) -> None:
    """At a start: pods that an earlier agent was about to wire. ``run`` calls the data plane in its thread.

    One that is whole may have been answered, and stays, whatever others have taken from it since: that is made again. A
    kill here leaves the next start the same work.
    """
    for attachment in unsure:
        key = attachment.key
        if await run(kernel.whole, attachment):
            desk.wired(key, UNKNOWN)
            continue
        await run(kernel.detach, attachment)
        desk.free(key)
