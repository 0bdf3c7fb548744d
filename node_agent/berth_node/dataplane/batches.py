"""The batches of a pod's life, from templates: wiring its host side and its own side, and unwiring it.

Pure. What is sent is described in :mod:`.messages`; here it is put together once for each shape (interface name, length
of the host link's name, MTU) and filled in for each pod.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from . import messages
from .messages import VethEnd
from .rtnl import NLM_F_ACK, Filled, Request, pack
from .templates import Template, make

__all__ = ["HOST_REQUESTS", "POD_REQUESTS", "UNWIRE_REQUESTS", "Wiring", "unwire", "wire_host", "wire_pod"]

HOST_REQUESTS, POD_REQUESTS, UNWIRE_REQUESTS = 4, 5, 2
"""Sequence numbers that each batch takes."""

_SHAPES: Final = 64
"""Kept templates: a node has one or two interface names, MTUs and lengths of names."""
_U32: Final = struct.Struct("=I")

# marks: what no field of these messages holds by itself
_HOST_INDEX, _POD_INDEX, _DESCRIPTOR = 0x5A3C7E01, 0x5A3C7E02, 0x5A3C7E03
_HOST_MAC, _POD_MAC = b"\x02\xa7\xd1\x3b\x94\x01", b"\x02\xa7\xd1\x3b\x94\x02"
_ADDRESS: Final = b"\xf1\xd3\xb5\x97"
_NAME: Final = "~"
"""Repeated to the length of the host link's name, which has more than one letter."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What differs from pod to pod. ``ip`` is packed; ``table`` is that of pod routes; ``alias`` the host link's."""

    host: VethEnd
    pod: VethEnd
    netns_fd: int
    mtu: int
    ip: bytes
    gateway: bytes
    table: int
    alias: bytes


def wire_host(first: int, w: Wiring) -> Filled:
    """The veth pair, the route and neighbour of the pod, and the alias that is the witness of it."""
    template = _host(w.pod.name, len(w.host.name), w.mtu, w.table)
    number = first + len(template.what)
    witness = messages.alias(w.host.index, w.alias)
    filled = template.fill(
        first,
        {
            "host": _U32.pack(w.host.index),
            "pod": _U32.pack(w.pod.index),
            "netns": _U32.pack(w.netns_fd),
            "host mac": w.host.mac,
            "pod mac": w.pod.mac,
            "ip": w.ip,
            "name": w.host.name.encode(),
        },
    )
    data = filled.data + pack(witness, number, NLM_F_ACK)
    return Filled(data, first, (*template.what, witness.what))


@lru_cache(_SHAPES)
def _host(ifname: str, name_length: int, mtu: int, table: int) -> Template:
    host = VethEnd(_NAME * name_length, _HOST_MAC, _HOST_INDEX)
    pod = VethEnd(ifname, _POD_MAC, _POD_INDEX)
    requests = [
        messages.veth(host, pod, _DESCRIPTOR, mtu),
        messages.host_route(_HOST_INDEX, _ADDRESS, table),
        messages.neighbour(_HOST_INDEX, _ADDRESS, _POD_MAC),
    ]
    marks = {
        "host": _U32.pack(_HOST_INDEX),
        "pod": _U32.pack(_POD_INDEX),
        "netns": _U32.pack(_DESCRIPTOR),
        "host mac": _HOST_MAC,
        "pod mac": _POD_MAC,
        "ip": _ADDRESS,
        "name": host.name.encode(),
    }
    return make(requests, marks, acknowledged=False)


def wire_pod(first: int, w: Wiring) -> Filled:
    """Inside the pod: the link up, its address, the routes by its gateway, and the gateway's neighbour entry."""
    values = {"pod": _U32.pack(w.pod.index), "ip": w.ip, "host mac": w.host.mac}
    return _pod(w.gateway).fill(first, values)


@lru_cache(_SHAPES)
def _pod(gateway: bytes) -> Template:
    requests = [
        messages.link_up(_POD_INDEX),
        messages.address(_POD_INDEX, _ADDRESS),
        messages.pod_gateway_route(_POD_INDEX, gateway),
        messages.pod_default_route(_POD_INDEX, gateway),
        messages.neighbour(_POD_INDEX, gateway, _HOST_MAC),
    ]
    return make(requests, {"pod": _U32.pack(_POD_INDEX), "ip": _ADDRESS, "host mac": _HOST_MAC})


def unwire(first: int, index: int, ip: bytes, table: int) -> Filled:
    """Take the route away and the host link down, and put it where the reaper finds it."""
    return _unwire(table).fill(first, {"host": _U32.pack(index), "ip": ip})


@lru_cache(_SHAPES)
def _unwire(table: int) -> Template:
    requests: list[Request] = [
        messages.host_unroute(_HOST_INDEX, _ADDRESS, table),
        messages.link_bury(_HOST_INDEX),
    ]
    return make(requests, {"host": _U32.pack(_HOST_INDEX), "ip": _ADDRESS})
