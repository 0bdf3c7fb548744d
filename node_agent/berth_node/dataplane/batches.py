"""The batches of a pod's life, from templates: wiring its host side and its own side, and unwiring it.

Pure. What is sent is described in :mod:`.messages`; here it is put together once for each shape (interface name, length
of the host link's name, MTU) and filled in for each pod.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final, NamedTuple

from . import messages
from .messages import VethEnd
from .rtnl import NLM_F_ACK, Filled, Request, pack
from .templates import Template, make

__all__ = [
    "Wiring",
    "finish_host",
    "host_requests",
    "pair",
    "pod_requests",
    "unpair",
    "unwire",
    "unwire_apart",
    "unwire_requests",
    "wire_host",
    "wire_pod",
]

_SHAPES: Final = 64
"""Kept templates: a node has one or two interface names, MTUs and lengths of names."""
_U32: Final = struct.Struct("=I")

# marks: what no field of these messages holds by itself
_HOST_INDEX, _POD_INDEX, _DESCRIPTOR = 0x5A3C7E01, 0x5A3C7E02, 0x5A3C7E03
_HOST_MAC, _POD_MAC = b"\x02\xa7\xd1\x3b\x94\x01", b"\x02\xa7\xd1\x3b\x94\x02"
_ADDRESSES: Final = {4: b"\xf1\xd3\xb5\x97", 16: b"\xf1\xd3\xb5\x98\x79\x5b\x3d\x1f" * 2}
"""By length, which tells the family. The name of an address's mark is its length too."""
_LINK_LOCAL: Final = b"\xf1\xd3\xb5\x99\x97\x5b\x3d\x1f" * 2
_NAME: Final = "~"
"""Repeated to the length of the host link's name, which has more than one letter."""


class Wiring(NamedTuple):
    """What differs from pod to pod. ``ips`` are packed, one of each family at most, and have their ``gateways``;
    ``table`` is that of pod routes; ``alias`` the host link's."""

    host: VethEnd
    pod: VethEnd
    netns_fd: int
    mtu: int
    ips: tuple[bytes, ...]
    gateways: tuple[bytes, ...]
    table: int
    alias: bytes


def host_requests(ips: tuple[bytes, ...]) -> int:
    """The sequence numbers that :func:`wire_host` takes."""
    return 3 + 2 * len(ips)


def pod_requests(ips: tuple[bytes, ...]) -> int:
    """The sequence numbers that :func:`wire_pod` takes."""
    return 1 + sum([4 if len(ip) == 4 else 6 for ip in ips])


def unwire_requests(ips: tuple[bytes, ...]) -> int:
    """The sequence numbers that :func:`unwire` takes."""
    return 1 + len(ips)


def _lengths(ips: tuple[bytes, ...]) -> tuple[int, ...]:
    return tuple([len(ip) for ip in ips])


def _marks(lengths: tuple[int, ...]) -> dict[str, bytes]:
    return {str(length): _ADDRESSES[length] for length in lengths}


def _values(ips: tuple[bytes, ...]) -> dict[str, bytes]:
    return {str(len(ip)): ip for ip in ips}


def wire_host(first: int, w: Wiring) -> Filled:
    """The veth pair, route and neighbour of each of the pod's addresses, and the alias that is the witness of it."""
    values = {
        "host": _U32.pack(w.host.index),
        "pod": _U32.pack(w.pod.index),
        "netns": _U32.pack(w.netns_fd),
        "host mac": w.host.mac,
        "pod mac": w.pod.mac,
        "name": w.host.name.encode(),
    }
    template = _host(w.pod.name, len(w.host.name), w.mtu, w.table, _lengths(w.ips))
    return _witnessed(template.fill(first, values | _values(w.ips)), w)


def finish_host(first: int, w: Wiring) -> Filled:
    """The same for a pair that is there: all but the making of it, which is one request less."""
    values = {"host": _U32.pack(w.host.index), "pod mac": w.pod.mac} | _values(w.ips)
    return _witnessed(_rest(w.table, _lengths(w.ips)).fill(first, values), w)


def _witnessed(filled: Filled, w: Wiring) -> Filled:
    witness = messages.alias(w.host.index, w.alias)
    data = filled.data + pack(witness, filled.first + len(filled.what), NLM_F_ACK)
    return Filled(data, filled.first, (*filled.what, witness.what))


@lru_cache(_SHAPES)
def _host(ifname: str, name_length: int, mtu: int, table: int, lengths: tuple[int, ...]) -> Template:
    making, marks = _pair(ifname, name_length, mtu)
    return make([making, *_rest_requests(table, lengths, over=True)], marks | _marks(lengths), acknowledged=False)


@lru_cache(_SHAPES)
def _rest(table: int, lengths: tuple[int, ...]) -> Template:
    marks = {"host": _U32.pack(_HOST_INDEX), "pod mac": _POD_MAC} | _marks(lengths)
    # a plugin may have slept, and the address be another pod's by now
    return make(_rest_requests(table, lengths, over=False), marks, acknowledged=False)


def _rest_requests(table: int, lengths: tuple[int, ...], *, over: bool) -> list[Request]:
    requests = []
    for length in lengths:
        requests.append(messages.host_route(_HOST_INDEX, _ADDRESSES[length], table, over=over))
        requests.append(messages.neighbour(_HOST_INDEX, _ADDRESSES[length], _POD_MAC))
    return [*requests, messages.quiet(_HOST_INDEX)]


def _pair(ifname: str, name_length: int, mtu: int) -> tuple[Request, dict[str, bytes]]:
    host = VethEnd(_NAME * name_length, _HOST_MAC, _HOST_INDEX)
    pod = VethEnd(ifname, _POD_MAC, _POD_INDEX)
    marks = {
        "host": _U32.pack(_HOST_INDEX),
        "pod": _U32.pack(_POD_INDEX),
        "netns": _U32.pack(_DESCRIPTOR),
        "host mac": _HOST_MAC,
        "pod mac": _POD_MAC,
        "name": host.name.encode(),
    }
    return messages.veth(host, pod, _DESCRIPTOR, mtu), marks


def pair(ifname: str, name_length: int, mtu: int) -> Template:
    """The making of a pair alone, for somebody else to fill in: ``host``, ``pod``, ``netns``, ``host mac``, ``pod mac``
    and ``name``. It is acknowledged."""
    making, marks = _pair(ifname, name_length, mtu)
    return make([making], marks)


def unpair() -> Template:
    """The taking away of a pair, likewise: ``host``."""
    return make([messages.link_delete(_HOST_INDEX)], {"host": _U32.pack(_HOST_INDEX)})


def wire_pod(first: int, w: Wiring) -> Filled:
    """Inside the pod: the link up, and of each family its address, the routes by its gateway, and the gateway's
    neighbour entry."""
    values = {"pod": _U32.pack(w.pod.index), "host mac": w.host.mac} | _values(w.ips)
    lengths = _lengths(w.ips)
    if lengths[-1] == 16:
        values["link local"] = messages.link_local_of(w.pod.mac)
    return _pod(w.gateways, lengths).fill(first, values)


@lru_cache(_SHAPES)
def _pod(gateways: tuple[bytes, ...], lengths: tuple[int, ...]) -> Template:
    marks = {"pod": _U32.pack(_POD_INDEX), "host mac": _HOST_MAC} | _marks(lengths)
    requests = [messages.link_up(_POD_INDEX)]
    for length, gateway in zip(lengths, gateways, strict=True):
        ip = _ADDRESSES[length]
        if length == 4:
            requests += (messages.address(_POD_INDEX, ip), messages.pod_gateway_route(_POD_INDEX, gateway))
        else:
            marks["link local"] = _LINK_LOCAL
            requests.insert(0, messages.quiet(_POD_INDEX))
            requests.append(messages.link_local(_POD_INDEX, _LINK_LOCAL))
            requests += (messages.address(_POD_INDEX, ip), messages.pod_local_route(_POD_INDEX, ip))
        requests.append(messages.pod_default_route(_POD_INDEX, gateway))
        requests.append(messages.neighbour(_POD_INDEX, gateway, _HOST_MAC))
    return make(requests, marks)


def unwire(first: int, index: int, ips: tuple[bytes, ...], table: int) -> Filled:
    """Take the routes away, and put the host link where the reaper finds it."""
    return _unwire(table, _lengths(ips)).fill(first, {"host": _U32.pack(index)} | _values(ips))


@lru_cache(_SHAPES)
def _unwire(table: int, lengths: tuple[int, ...]) -> Template:
    requests: list[Request] = [messages.host_unroute(_HOST_INDEX, _ADDRESSES[n], table) for n in lengths]
    requests.append(messages.link_bury(_HOST_INDEX))
    return make(requests, {"host": _U32.pack(_HOST_INDEX)} | _marks(lengths))


def unwire_apart(first: int, index: int, ips: tuple[bytes, ...], table: int) -> tuple[bytes, bytes]:
    """The same in two batches, of which the second is to be sent only if the kernel takes all of the first: then the
    addresses are reached by this link. Each ends with an acknowledgement."""
    routes = make([messages.host_unroute(index, ip, table) for ip in ips], {})
    link = make([messages.link_bury(index)], {})
    return bytes(routes.fill(first, {}).data), bytes(link.fill(first + len(ips), {}).data)
