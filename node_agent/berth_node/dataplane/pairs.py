"""What the plugin is given so that it can make a pod's pair of links by itself (``cni/pair.c``): the form that the pair
is made from, and the batches that finish a pod; and what takes a pod from the kernel when its DEL comes
(``cni/unwire.c``).

Pure. The requests are those of :mod:`.batches` and :mod:`.messages`: the plugin fills in and sends, and knows none.
"""

from __future__ import annotations

import struct
from typing import Final

from . import batches, messages
from .batches import Wiring
from .rtnl import pack
from .templates import Template

__all__ = ["FORM_IFNAME", "PORTS", "finish", "form", "unwiring"]

PORTS: Final = 0x4245
"""The upper half of the ports of plugins' sockets: what they ask for is no news to the agent (``nlmsg_pid``)."""
FORM_IFNAME: Final = "eth0"
"""What Kubernetes' runtimes call a pod's interface. For other names the agent makes the pair."""

_NAME_LENGTH: Final = 14
"""Of every name that :func:`berth_node.names.host_ifname` makes."""
_MAGIC: Final = b"berthP1\n"
_HEAD: Final = struct.Struct("=8sQHHHHH6x")
_PLACE: Final = struct.Struct("=HH")
_KINDS: Final = {"host": b"h", "pod": b"p", "host mac": b"H", "pod mac": b"P", "netns": b"n", "name": b"N"}
_WORD_MAGIC: Final = b"berthU1\n"
_WORD_HEAD: Final = struct.Struct("=8sQIHHH6x")
_LONGEST_ID: Final = 1024
"""The plugin reads 2,048 bytes of the file."""
_LOOK: Final = 1
"""The sequence number of the last question: the batches' numbers are higher."""


def form(namespace: int, mtu: int) -> bytes:
    """The file that a plugin reads; its parts are described in ``cni/pair.c``. ``namespace`` is the inode of the
    network namespace that host ends are to be in, ``mtu`` in bytes."""
    pair, unpair = batches.pair(FORM_IFNAME, _NAME_LENGTH, mtu), batches.unpair()
    places = [_places(pair), _places(unpair)]
    requests = [bytes(t.fill(1, {}).data) for t in (pair, unpair)]
    counts = [len(p) // _PLACE.size for p in places]
    return _HEAD.pack(_MAGIC, namespace, *map(len, requests), *counts, mtu) + b"".join((*places, *requests))


def _places(template: Template) -> bytes:
    return b"".join(
        _PLACE.pack(place.start, ord(_KINDS[name])) for name, found in template.places.items() for place in found
    )


def finish(w: Wiring) -> tuple[bytes, bytes, bytes]:
    """What makes a pod of a pair: on the host, in the pod, and a look at whether the host link can send."""
    look = pack(messages.get_link(index=w.host.index), _LOOK, 0)
    return bytes(batches.finish_host(2, w).data), bytes(batches.wire_pod(2, w).data), look


def unwiring(namespace: int, container_id: str, index: int, ips: tuple[bytes, ...], table: int) -> bytes:
    """The file that a DEL of this container reads; its parts are described in ``cni/unwire.c``. ``index`` is that of
    the host link, ``ips`` are packed, ``table`` that of their routes. Empty for an id that is none of a runtime's."""
    if len(container_id) > _LONGEST_ID or not container_id.isascii():
        return b""
    parts = (container_id.encode(), *batches.unwire_apart(1, index, ips, table))
    return _WORD_HEAD.pack(_WORD_MAGIC, namespace, index, *map(len, parts)) + b"".join(parts)
