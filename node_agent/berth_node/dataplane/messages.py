"""The rtnetlink requests of a pod's life, packed by hand (``linux/rtnetlink.h``, ``if_link.h``, ``veth.h``).

Pure: addresses and MACs are bytes as on the wire, names are str, indexes and table ids are int.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

from .rtnl import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Attributes, Reply, Request, attribute, attributes, nested

__all__ = ["REAP_GROUP", "ROUTE_PROTOCOL", "Link", "packed"]

ROUTE_PROTOCOL: Final = 0xBE
"""Marks each route and rule of ours (``proto 190``): free in the kernel's and in iproute2's lists."""
REAP_GROUP: Final = 0x62657274
"""Links in this group are dead and wait to be deleted together ("bert")."""

AF_INET, AF_INET6 = 2, 10
IFF_UP: Final = 0x1
OPERSTATE_UP: Final = 6

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 17, 18, 19
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_OPERSTATE, _IFLA_LINKINFO = 1, 3, 4, 16, 18
_IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 20, 26, 27, 28, 29
_IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 31, 32
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, b"\1"
_RTEXT_FILTER_SKIP_STATS: Final = 1 << 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_NUD_PERMANENT: Final = 0x80
MAIN_TABLE, _LOCAL_TABLE = 254, 255
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_IFA_F_NODAD: Final = 0x2
METRIC6: Final = 1024
"""The metric of an IPv6 route that is given none (``IP6_RT_PRIO_USER``, net/ip6_route.h); that of an IPv4 one is 0."""

_LINK: Final = struct.Struct("=BxHiII")
_ADDR: Final = struct.Struct("=BBBBi")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_NEIGH: Final = struct.Struct("=BxxxiHBB")


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def packed(address: str) -> bytes:
    """An address of either family as on the wire. Every function here tells the family by the length."""
    return socket.inet_pton(AF_INET6, address) if ":" in address else socket.inet_aton(address)


def _family(ip: bytes) -> int:
    return AF_INET if len(ip) == 4 else AF_INET6


_NO_GENERATED: Final = nested(_IFLA_AF_SPEC, nested(AF_INET6, attribute(_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE)))

# ----------------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True)
class VethEnd:
    """One end of a pair. MACs are always given: a random one (``NET_ADDR_RANDOM``) invites systemd's
    ``MACAddressPolicy`` to change it under our permanent neighbour entries."""

    name: str
    mac: bytes
    index: int


def veth(host: VethEnd, pod: VethEnd, netns_fd: int, mtu: int) -> Request:
    """A veth pair whose peer is made inside the pod's namespace; moving it there later costs 30 ms of RCU.

    The ends' indexes differ (with equal ones the carrier event waits up to a second) and each end has one queue
    (the default is one for each possible CPU). A peer cannot be up yet here; the host end can.
    """
    peer = _LINK.pack(0, 0, pod.index, 0, 0) + _end(pod, mtu) + attribute(_IFLA_NET_NS_FD, _u32(netns_fd))
    info = nested(
        _IFLA_LINKINFO,
        attribute(_IFLA_INFO_KIND, b"veth"),
        nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, peer)),
    )
    body = _LINK.pack(0, 0, host.index, IFF_UP, IFF_UP) + _end(host, mtu) + info
    return Request(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"making the veth pair {host.name}, {pod.name}")


def _end(end: VethEnd, mtu: int) -> bytes:
    one = _u32(1)
    return b"".join(
        (
            attribute(_IFLA_IFNAME, _text(end.name)),
            attribute(_IFLA_ADDRESS, end.mac),
            attribute(_IFLA_MTU, _u32(mtu)),
            attribute(_IFLA_NUM_TX_QUEUES, one),
            attribute(_IFLA_NUM_RX_QUEUES, one),
        )
    )


def alias(index: int, text: bytes) -> Request:
    """Write a link's alias."""
    body = _LINK.pack(0, 0, index, 0, 0) + attribute(_IFLA_IFALIAS, text)
    return Request(_RTM_SETLINK, 0, body, "writing the host link's alias")


def quiet(index: int) -> Request:
    """Keep the kernel from making a link-local address: the host end needs none, and in the pod it would be tentative
    for a second. Before the link can send. EAFNOSUPPORT where a link has no IPv6: by ``ipv6.disable=1``, or with an MTU
    below 1280 (RFC 8200, section 5)."""
    body = _LINK.pack(0, 0, index, 0, 0) + _NO_GENERATED
    return Request(_RTM_SETLINK, 0, body, "keeping generated addresses off a pod's link")


def link_up(index: int) -> Request:
    """Take a link up."""
    return Request(_RTM_SETLINK, 0, _LINK.pack(0, 0, index, IFF_UP, IFF_UP), "taking the pod's link up")


def link_bury(index: int) -> Request:
    """Put a link where the reaper finds it. It stays up and keeps its name until then: both would have the kernel do
    half a millisecond of other work first (docs/decisions/0028), and nearly always nobody asks for the name so soon."""
    body = _LINK.pack(0, 0, index, 0, 0) + attribute(_IFLA_GROUP, _u32(REAP_GROUP))
    return Request(_RTM_SETLINK, 0, body, "queueing the host link")


def link_down(index: int) -> Request:
    """Take a link down."""
    return Request(_RTM_SETLINK, 0, _LINK.pack(0, 0, index, 0, IFF_UP), "taking a dead link down")


def link_rename(index: int, name: str) -> Request:
    """Rename a link that is down."""
    body = _LINK.pack(0, 0, index, 0, 0) + attribute(_IFLA_IFNAME, _text(name))
    return Request(_RTM_SETLINK, 0, body, "taking a dead link's name")


def link_delete(index: int) -> Request:
    """Delete a link and its peer. Waits for RCU: 20-30 ms."""
    return Request(_RTM_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0), "deleting a link")


def group_delete() -> Request:
    """Delete every link that waits. The wait for RCU is paid once for all of them. ENODEV when there is none."""
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_GROUP, _u32(REAP_GROUP))
    return Request(_RTM_DELLINK, 0, body, "deleting dead links")


def address(index: int, ip: bytes) -> Request:
    """The pod's own address, as a /32 or /128: nothing is on-link. An IPv6 one is valid at once: nobody else can have
    it, so nobody is asked (duplicate address detection, RFC 4862 5.4, would take a second)."""
    family = _family(ip)
    head = _ADDR.pack(family, 8 * len(ip), 0 if family == AF_INET else _IFA_F_NODAD, _SCOPE_UNIVERSE, index)
    body = head + attribute(_IFA_LOCAL, ip) + attribute(_IFA_ADDRESS, ip)
    return Request(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, "adding the pod's address")


def link_local_of(mac: bytes) -> bytes:
    """The link-local address that goes with a MAC (RFC 4291, appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def link_local(index: int, ip: bytes) -> Request:
    """The link-local address that each IPv6 link has (RFC 4291, 2.1), valid at once too."""
    head = _ADDR.pack(AF_INET6, 64, _IFA_F_NODAD, _SCOPE_LINK, index)
    body = head + attribute(_IFA_LOCAL, ip) + attribute(_IFA_ADDRESS, ip)
    return Request(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, "adding the pod's link-local address")


def host_route(index: int, ip: bytes, table: int, *, over: bool = True) -> Request:
    """The way to one pod. It names no preferred source: the kernel drops a route whose source address goes, and
    a DHCP client that flushes the primary interface would cut off every pod.

    ``over``: in place of one that is there, else that is refused (EEXIST).
    """
    flags = NLM_F_CREATE | (NLM_F_REPLACE if over else NLM_F_EXCL)
    return Request(_RTM_NEWROUTE, flags, _host_route(index, ip, table), "routing the pod")


def host_unroute(index: int, ip: bytes, table: int) -> Request:
    """Take that route away, if it still leads to this link: the address may have been lent again."""
    return Request(_RTM_DELROUTE, 0, _host_route(index, ip, table), "unrouting the pod")


def _host_route(index: int, ip: bytes, table: int) -> bytes:
    head = _ROUTE.pack(_family(ip), 8 * len(ip), 0, 0, 0, ROUTE_PROTOCOL, _SCOPE_LINK, _RTN_UNICAST, 0)
    return head + attribute(_RTA_DST, ip) + attribute(_RTA_OIF, _u32(index)) + attribute(_RTA_TABLE, _u32(table))


def pod_local_route(index: int, ip: bytes) -> Request:
    """What is sent to the pod's IPv6 address is for the pod.

    The kernel makes such a route too, but by a work that is queued when the address is added (addrconf_dad_start), even
    where nobody is asked: what arrives before has no address to arrive at, and is lost (3 % of first answers).
    """
    head = _ROUTE.pack(AF_INET6, 128, 0, 0, _LOCAL_TABLE, ROUTE_PROTOCOL, _SCOPE_UNIVERSE, _RTN_LOCAL, 0)
    body = head + attribute(_RTA_DST, ip) + attribute(_RTA_OIF, _u32(index))
    return Request(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body, "making the pod's IPv6 address its own")


def pod_gateway_route(index: int, gateway: bytes) -> Request:
    """The pod's IPv4 gateway is on the link. An IPv6 one is link-local, so that goes without saying."""
    head = _ROUTE.pack(AF_INET, 32, 0, 0, MAIN_TABLE, ROUTE_PROTOCOL, _SCOPE_LINK, _RTN_UNICAST, 0)
    body = head + attribute(_RTA_DST, gateway) + attribute(_RTA_OIF, _u32(index))
    return Request(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body, "routing the pod's gateway")


def pod_default_route(index: int, gateway: bytes) -> Request:
    """Everything a pod sends goes to its gateway."""
    head = _ROUTE.pack(_family(gateway), 0, 0, 0, MAIN_TABLE, ROUTE_PROTOCOL, _SCOPE_UNIVERSE, _RTN_UNICAST, 0)
    body = head + attribute(_RTA_GATEWAY, gateway) + attribute(_RTA_OIF, _u32(index))
    return Request(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body, "adding the pod's default route")


def neighbour(index: int, ip: bytes, mac: bytes) -> Request:
    """A permanent neighbour, so that neither end ever asks by ARP or neighbour discovery."""
    head = _NEIGH.pack(_family(ip), index, _NUD_PERMANENT, 0, 0)
    body = head + attribute(_NDA_DST, ip) + attribute(_NDA_LLADDR, mac)
    return Request(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, "adding the permanent neighbour")


def get_link(name: str = "", index: int = 0) -> Request:
    """One link, by name or index, without its statistics."""
    body = _LINK.pack(0, 0, index, 0, 0) + attribute(_IFLA_EXT_MASK, _u32(_RTEXT_FILTER_SKIP_STATS))
    if name:
        body += attribute(_IFLA_IFNAME, _text(name))
    return Request(_RTM_GETLINK, 0, body, f"reading the link {name or index}")


def dump_links() -> Request:
    """Every link, without statistics."""
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_EXT_MASK, _u32(_RTEXT_FILTER_SKIP_STATS))
    return Request(_RTM_GETLINK, 0, body, "listing the links")


def dump_addresses(index: int, family: int = AF_INET) -> Request:
    """A family's addresses of one link."""
    return Request(_RTM_GETADDR, 0, _ADDR.pack(family, 0, 0, 0, index), "listing the pod's addresses")


def dump_routes(index: int, table: int, family: int = AF_INET) -> Request:
    """A family's routes of one table that lead to one link."""
    head = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    body = head + attribute(_RTA_OIF, _u32(index)) + attribute(_RTA_TABLE, _u32(table))
    return Request(_RTM_GETROUTE, 0, body, "listing routes")


def dump_neighbours(index: int, family: int = AF_INET) -> Request:
    """A family's neighbours of one link."""
    body = _NEIGH.pack(family, 0, 0, 0, 0) + attribute(_NDA_IFINDEX, _u32(index))
    return Request(_RTM_GETNEIGH, 0, body, "listing neighbours")


# ------------------------------------------------------------------------------------------------------ answers


@dataclass(frozen=True, slots=True)
class Link:
    """What Berth needs to know of a link. ``mac`` is lower-case text; ``alias`` is as written, without the NUL."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    operstate: int
    group: int
    alias: bytes
    kind: str

    @staticmethod
    def parse(reply: Reply) -> Link:
        """Read an ``RTM_NEWLINK``."""
        _family, _type, index, flags, _change = _LINK.unpack_from(reply.body)
        found = attributes(reply.body, _LINK.size)
        info = attributes(found.get(_IFLA_LINKINFO, b""))
        return Link(
            index=index,
            name=_string(found, _IFLA_IFNAME),
            mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
            mtu=_number(found, _IFLA_MTU),
            up=bool(flags & IFF_UP),
            operstate=found.get(_IFLA_OPERSTATE, b"\0")[0],
            group=_number(found, _IFLA_GROUP),
            alias=found.get(_IFLA_IFALIAS, b"").rstrip(b"\0"),
            kind=_string(info, _IFLA_INFO_KIND),
        )


def operstate(reply: Reply) -> int:
    """The operational state alone of an ``RTM_NEWLINK`` (``linux/if.h``); it is among the first attributes."""
    return attributes(reply.body, _LINK.size, _IFLA_OPERSTATE).get(_IFLA_OPERSTATE, b"\0")[0]


def parse_address(reply: Reply) -> tuple[bytes, int]:
    """An ``RTM_NEWADDR``: the address and its prefix length. IPv6 has ``IFA_LOCAL`` only on point-to-point links."""
    found = attributes(reply.body, _ADDR.size)
    return found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b""), reply.body[1]


def parse_route(reply: Reply) -> tuple[bytes, int, bytes]:
    """An ``RTM_NEWROUTE``: destination (empty for the default), its prefix length, and the gateway (or empty)."""
    found = attributes(reply.body, _ROUTE.size)
    return found.get(_RTA_DST, b""), reply.body[1], found.get(_RTA_GATEWAY, b"")


def parse_neighbour(reply: Reply) -> tuple[bytes, bytes, bool]:
    """An ``RTM_NEWNEIGH``: address, MAC, and whether it is permanent."""
    _family, _index, state, _flags, _type = _NEIGH.unpack_from(reply.body)
    found = attributes(reply.body, _NEIGH.size)
    return found.get(_NDA_DST, b""), found.get(_NDA_LLADDR, b""), bool(state & _NUD_PERMANENT)


def _string(found: Attributes, kind: int) -> str:
    return found.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def _number(found: Attributes, kind: int) -> int:
    data = found.get(kind, b"")
    return int(struct.unpack("=I", data)[0]) if len(data) == 4 else 0
