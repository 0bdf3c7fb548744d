"""Which attachments have lost their pod: the decision alone, from what the runtime lists.

No containerd calls CNI's GC, and a DEL can get lost (a node's runtime was reinstalled, its state was wiped), so the
agent compares by itself. A wrong removal cuts a living pod off, a late one costs one address for a while; so much must
come together:

* only pods of a kubelet (they have a uid): podman beside containerd has containers that CRI does not list;
* two listings at least ``apart`` seconds apart without it, and none with it in between, both when the attachment was
  older than ``age`` seconds: containerd lists a sandbox only once its ADD is done. A listing that failed is none;
* the runtime must have listed one of ours before, unless the operator named its socket: another runtime that happens
  to be on the node lists nothing of ours and is not to be believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from berth_node.journal import Entry
from berth_node.seams import Attachment

__all__ = ["Absences"]


@dataclass(frozen=True, slots=True)
class Absences:
    """What earlier listings have shown. ``since`` maps attachments to when they were first missing, Unix seconds.

    ``age`` and ``apart`` are in seconds. ``trusted``: the runtime is known to be the one that runs our pods.
    """

    age: float = 300.0
    apart: float = 120.0
    trusted: bool = False
    since: Mapping[Attachment, float] = field(default_factory=dict)

    def after(
        self, now: float, listed: Iterable[str], entries: Iterable[Entry]
    ) -> tuple[Absences, tuple[Attachment, ...]]:
        """Take a listing in (container ids) that was asked for at ``now``; also what is to be removed by now."""
        ids, held = frozenset(listed), tuple(entries)
        trusted = self.trusted or any(e.attachment.container_id in ids for e in held)
        missing = [
            e.attachment
            for e in held
            if e.wired and e.attachment.uid and e.attachment.container_id not in ids and self._old(e.attachment, now)
        ]
        since = {a: self.since.get(a, now) for a in missing} if trusted else {}
        gone = tuple(a for a, first in since.items() if now - first >= self.apart)
        return replace(self, trusted=trusted, since=since), gone

    def _old(self, attachment: Attachment, now: float) -> bool:
        return now - attachment.attached_at >= self.age
