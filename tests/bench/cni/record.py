"""Records the netlink messages by which the data plane wires and unwires a pod, for ``floor.c`` to send again.

Each pod is really wired and unwired once, so what is recorded is what Berth sends, whatever that is by now. The
indexes that the messages choose are free again when the reaper has deleted the link.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from berth_node.dataplane import pods
from berth_node.dataplane.messages import group_delete
from berth_node.dataplane.rtnl import NLM_F_ACK, Filled, Reply, Request, Rtnl, pack
from berth_node.seams import Attachment

from tests.netns.dataplane.site import Node
from tests.sandbox import netns

__all__ = ["FOLDER", "record"]

FOLDER: Final = Path("/run/floor")
_PART: Final = struct.Struct("=iIiI")
_IFLA_NET_NS_FD: Final = 28


class _Log:
    """The parts of one operation. A socket made while the thread is in the pod's namespace is the pod's."""

    parts: list[tuple[bool, Filled]]
    home: Any = None


_log = _Log()


class _RecordedRtnl(Rtnl):
    def send(self, batch: Filled, ignore: frozenset[int] = frozenset()) -> bool:
        _log.parts.append((self is not _log.home, batch))
        return super().send(batch, ignore)

    def get(self, request: Request) -> Reply:
        _log.parts.append((self is not _log.home, Filled(pack(request, 1, 0), 1, (request.what,))))
        return super().get(request)


def _packed(in_pod: bool, batch: Filled, descriptor: int) -> bytes:
    attribute = struct.pack("=HHi", 8, _IFLA_NET_NS_FD, descriptor)
    at = batch.data.find(attribute)
    last = batch.first + len(batch.what) - 1
    return _PART.pack(in_pod, last, at + 4 if at >= 0 else -1, len(batch.data)) + batch.data


@contextmanager
def _recording() -> Iterator[None]:
    module: Any = pods
    plain, module.Rtnl = module.Rtnl, _RecordedRtnl
    try:
        yield
    finally:
        module.Rtnl = plain


def _write(pod: str, command: str, descriptor: int) -> None:
    content = b"".join(_packed(*part, descriptor) for part in _log.parts)
    (FOLDER / f"{pod}.{command}").write_bytes(content)
    _log.parts = []


def record(node: str, attachments: dict[str, Attachment]) -> None:
    """Write the files of these pods (namespace name to attachment, its ``netns_fd`` open), wired on ``node``.

    Each also gets a ``REAP``, which deletes what ``DEL`` buried as the agent's reaper does a moment later.
    """
    FOLDER.mkdir(exist_ok=True)
    _log.parts = []
    with _recording():
        place = Node(node)
        wiring: Any = place.dataplane
        _log.home = wiring._pods._rtnl
        for pod, attachment in attachments.items():
            assert attachment.netns_fd is not None
            _log.parts = []
            place.call(place.dataplane.attach, attachment)
            _write(pod, "ADD", attachment.netns_fd)
            place.call(place.dataplane.detach, attachment)
            _write(pod, "DEL", attachment.netns_fd)
            _log.parts = [(False, Filled(pack(group_delete(), 1, NLM_F_ACK), 1, ("REAP",)))]
            _write(pod, "REAP", attachment.netns_fd)
        place.close()
    # the reaper stops after the deletion under way: what it had not got to is in the way of the indexes
    with netns.inside(node), Rtnl() as rtnl:
        rtnl.batch([group_delete()], ignore=frozenset({errno.ENODEV}))
