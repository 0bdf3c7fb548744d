"""The kernel is the second witness of who holds which address. Pure, but for the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from berth_node.journal import Entry
from berth_node.names import alias_key
from berth_node.pool import Key
from berth_node.seams import Attachment

__all__ = ["Findings", "compare"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Findings:
    """``gone``: the kernel knows them no more. ``unknown``: it alone knows them. ``unsure``: an earlier agent was about
    to wire them, and only looking at each tells how far it came."""

    gone: tuple[Attachment, ...]
    unknown: tuple[Attachment, ...]
    unsure: tuple[Attachment, ...]


def compare(entries: Mapping[Key, Entry], survey: Iterable[Attachment]) -> Findings:
    """``entries`` are the journal's, ``survey`` what the kernel's aliases tell, where long ids are shortened."""
    seen = {alias_key(a.key): a for a in survey}
    known = {alias_key(key) for key in entries}
    wired = [(key, e.attachment) for key, e in entries.items() if e.wired]
    gone = tuple(attachment for key, attachment in wired if alias_key(key) not in seen)
    unknown = tuple(attachment for alias, attachment in seen.items() if alias not in known)
    for message, attachments in (("pod is gone from the kernel", gone), ("pod found in the kernel alone", unknown)):
        for a in attachments:
            _log.warning(message, extra={"container": a.container_id, "address": a.address})
    return Findings(gone, unknown, tuple(e.attachment for e in entries.values() if not e.wired))
