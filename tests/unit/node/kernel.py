"""A data plane without a kernel: what is attached is a value, optionally kept in a file like the kernel keeps links."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from berth_node.dataplane import alias
from berth_node.dataplane.messages import packed
from berth_node.seams import Attachment, Change, DataplaneError, NodeLayout, Problem, Rest, Wired


class Silence:
    """A kernel that tells nothing."""

    descriptors: tuple[int, ...] = ()

    def read(self) -> Change | None:
        return None


@dataclass
class FakeKernel:
    """Implements :class:`berth_node.seams.Dataplane`. ``store``: links survive the agent's process there.

    ``refuse`` and ``block`` are files (or None): while there, attach is refused, or waits before it wires.
    """

    macs: frozenset[str] = frozenset()
    store: Path | None = None
    refuse: Path | None = None
    block: Path | None = None
    links: dict[tuple[str, str], Attachment] = field(default_factory=dict)
    layouts: list[NodeLayout] = field(default_factory=list)
    flushed: list[str] = field(default_factory=list)
    repaired: list[tuple[Attachment, ...]] = field(default_factory=list)
    adopted: tuple[Attachment, ...] = ()
    no_ipv6: str = ""
    discarded: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.store and self.store.exists():
            for link in json.loads(self.store.read_text()):
                a = Attachment(**link)
                self.links[alias.key(a)] = a

    def configure(self, layout: NodeLayout) -> tuple[Problem, ...]:
        self.layouts.append(layout)
        return ()

    def repair(self, attachments: Iterable[Attachment]) -> tuple[Problem, ...]:
        self.repaired.append(tuple(attachments))
        return ()

    def attach(self, attachment: Attachment) -> Wired:
        waited = threading.Event()
        while self.block and self.block.exists():
            waited.wait(0.01)
        if self.refuse and self.refuse.exists():
            raise DataplaneError("RTM_NEWLINK: File exists", temporary=False)
        self.links[alias.key(attachment)] = attachment
        self._save()
        last = packed(attachment.address)[-1]
        return Wired(f"02:00:00:00:00:{last:02x}", f"02:01:00:00:00:{last:02x}", 100 + last)

    def pair_form(self, mtu: int) -> bytes:
        return b"form %d" % mtu

    def rest(self, attachment: Attachment, index: int) -> Rest:
        last = packed(attachment.address)[-1]
        return Rest(
            Wired(f"02:00:00:00:00:{last:02x}", f"02:01:00:00:00:{last:02x}", index), (b"host", b"pod", b"look")
        )

    def wired_by_hand(self, attachment: Attachment, index: int) -> None:
        self.links[alias.key(attachment)] = attachment
        self._save()

    def discard(self, index: int) -> None:
        self.discarded.append(index)

    def detach(self, attachment: Attachment) -> None:
        self.links.pop(alias.key(attachment), None)
        self._save()

    def unwiring(self, attachment: Attachment) -> bytes:
        return b"word for " + attachment.container_id.encode() if not attachment.ports else b""

    def check(self, attachment: Attachment) -> tuple[Problem, ...]:
        return () if alias.key(attachment) in self.links else (Problem(attachment.host_ifname, "the link is gone"),)

    def whole(self, attachment: Attachment) -> bool:
        return alias.key(attachment) in self.links

    def survey(self) -> tuple[Attachment, ...]:
        told = (alias.decode(alias.encode(a), a.host_ifname, a.mtu) for a in self.links.values())
        return tuple(a for a in told if a is not None)

    def flush_connections(self, addresses: Collection[str]) -> None:
        self.flushed += addresses

    def usable_macs(self) -> frozenset[str]:
        return self.macs

    def ipv6_refusal(self) -> str:
        return self.no_ipv6

    def notices(self) -> Silence:
        return Silence()

    def adopt(self, attachments: Iterable[Attachment]) -> None:
        self.adopted = tuple(attachments)

    def primary_mtu(self) -> int:
        return 8901

    def prompt(self) -> bool:
        return self.block is None  # what may be held up must not hold up the event loop

    def close(self) -> None:
        pass

    def _save(self) -> None:
        if self.store:
            names = {f.name for f in fields(Attachment)} - {"netns_fd"}
            links = [{k: v for k, v in asdict(a).items() if k in names} for a in self.links.values()]
            draft = self.store.with_suffix(".new")
            draft.write_text(json.dumps(links))
            draft.replace(self.store)
