"""The seam between the agent's core (pool, journal, CNI server, reports) and the kernel (``berth_node.dataplane``).

The core decides; the dataplane wires. The core hands over frozen values and never touches netlink or nftables; the
dataplane keeps no state of its own beyond the kernel's. Every method blocks and is called from the one rtnl thread,
so implementations need no lock; each is idempotent, so that a process killed in the middle of one is repaired by
calling it again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

__all__ = [
    "FIRST_PAIR_INDEX",
    "Attachment",
    "Change",
    "Dataplane",
    "DataplaneError",
    "InterfaceLayout",
    "NodeLayout",
    "Notices",
    "Problem",
    "Wired",
    "table_of",
]

PODS_TABLE: Final = 300_000_000
"""The table of pod routes, which a rule consults before any other of ours. 32-bit, so in nobody's way."""
FIRST_PAIR_INDEX: Final = 1 << 30
"""Host links that plugins make have indexes from here to twice as much, chosen at random; the agent's own lie below."""
POD_GATEWAY: Final = "169.254.1.1"
POD_GATEWAY6: Final = "fe80::1"


def table_of(network_card: int, device_index: int) -> int:
    """An interface's routing table: stable for its place on the instance, and readable in ``ip rule``."""
    return PODS_TABLE + 1 + network_card * 1000 + device_index


class DataplaneError(Exception):
    """The kernel refused. The message says which object and which errno; ``temporary`` says if a retry can help."""

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


@dataclass(frozen=True, slots=True)
class InterfaceLayout:
    """One interface to route. ``blocks`` are all blocks assigned to it that the record lists, releasing ones too;
    ``ipv6_blocks`` are its IPv6 prefixes, none where the node's pods have no IPv6. ``pod``: it is one pod's own, whose
    address is the primary one."""

    mac: str
    device_index: int
    subnet_cidr: str
    gateway: str
    primary_address: str
    network_card: int = 0
    blocks: tuple[str, ...] = ()
    ipv6_blocks: tuple[str, ...] = ()
    pod: bool = False


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """Everything the node's routing depends upon. Marks are masks: writes never touch another bit.

    ``snat``: rewrite pod traffic that leaves for destinations outside ``no_snat_cidrs`` to the node's primary address;
    off where a NAT gateway does it all. ``ipv6``: pods have IPv6 addresses, or will; else nothing of IPv6 is there.
    ``public``: pods' addresses that have a public one of their own, which EC2 puts in their place: not rewritten.
    """

    interfaces: tuple[InterfaceLayout, ...]
    no_snat_cidrs: tuple[str, ...] = ()
    snat: bool = True
    interface_mask: int = 0x7F
    connection_mark: int = 0x80
    ipv6: bool = False
    public: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attachment:
    """One pod interface: what CNI's ADD asked for and the address that was lent.

    ``address`` is IPv4, or IPv6 for a pod that has IPv6 alone; ``address6`` is the IPv6 address of a pod that
    has both, which follows from the other (:func:`berth_node.ipv6.beside`).

    ``netns_fd`` is an open descriptor of the pod's network namespace (owned by the caller); None when unknown, as in a
    DEL. ``attached_at`` is Unix time in seconds. ``ports`` are host ports, as :func:`berth_node.portmap.encode` writes
    them: text, so that journal and alias keep it as it is. ``annotations`` are text likewise
    (:func:`berth_node.pod_annotations.read`), but for the journal alone: an alias has no room for them. ``table`` is
    the routing table of the interface that the pod has for itself; 0 for all other pods.
    """

    container_id: str
    ifname: str
    address: str
    host_ifname: str
    namespace: str = ""
    name: str = ""
    uid: str = ""
    attached_at: float = 0.0
    mtu: int = 9001
    ports: str = ""
    annotations: str = ""
    address6: str = ""
    table: int = 0
    netns_fd: int | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[str, str]:
        """What CNI tells attachments apart by."""
        return self.container_id, self.ifname

    @property
    def addresses(self) -> tuple[str, ...]:
        """One address of each family that the pod has, IPv4 first."""
        return (self.address, self.address6) if self.address6 else (self.address,)


@dataclass(frozen=True, slots=True)
class Wired:
    """What ADD's result needs: both ends' MAC addresses and the host end's index."""

    host_mac: str
    pod_mac: str
    host_ifindex: int


@dataclass(frozen=True, slots=True)
class Rest:
    """What makes a pod of the pair of links that a plugin has made: batches for the host, for the pod, and a look at
    the host link, which the plugin carries out; ``ignored`` is an error number that does not matter on the host."""

    wired: Wired
    batches: tuple[bytes, bytes, bytes]
    ignored: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """One difference between what should be and what is, in words that say where to look."""

    where: str
    message: str
    fatal: bool = False
    """Pods cannot work here as long as it lasts."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something in the kernel that others changed, in words. ``lost``: it was ours. ``maybe_ours``: it may be what
    :meth:`Dataplane.configure` did itself, if that was under way. ``links``: it concerns nothing but these pods' host
    links, by index: a runtime that removes a pod's namespace after its DEL takes the link with it."""

    what: str
    lost: bool = False
    maybe_ours: bool = False
    links: frozenset[int] = frozenset()


def only_links(told: frozenset[int] | None, change: Change) -> frozenset[int]:
    """The pods' host links that were told of, and this change too; empty if anything else was. ``told`` is None before
    the first change."""
    return change.links if told is None else told | change.links if told and change.links else frozenset()


class Notices(Protocol):
    """What the kernel tells by itself. Unlike the data plane it is read from the event loop, and never blocks."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Readable when there is something to read."""

    def read(self) -> Change | None:
        """Take in what was told; the change that matters most, or None if nothing of it matters."""


class Dataplane(Protocol):
    """The kernel side. See the module docstring for threading and idempotence."""

    def configure(self, layout: NodeLayout) -> tuple[Problem, ...]:
        """Make links, addresses, routes, rules and nftables match. Returns what could not be made so."""

    def repair(self, attachments: Iterable[Attachment]) -> tuple[Problem, ...]:
        """Make again what something else took from these pods on the host, and sweep routes and links of no pod.

        The list may be a moment old: what the kernel itself says of a link counts as much. Returns what could not be
        mended; raises :class:`DataplaneError` if the kernel's state cannot be read.
        """

    def attach(self, attachment: Attachment) -> Wired:
        """Wire a pod and lend it its host ports. Undoes everything it did before it raises :class:`DataplaneError`."""

    def pair_form(self, mtu: int) -> bytes:
        """What a plugin needs to make pods' pairs of links by itself (``cni/pair.c``). Pure."""

    def rest(self, attachment: Attachment, index: int) -> Rest:
        """What is left to do for a pod whose pair a plugin has made, or is making, with that index. Pure."""

    def wired_by_hand(self, attachment: Attachment, index: int) -> None:
        """A plugin has carried out the :meth:`rest`: the pod is as if :meth:`attach` had made it."""

    def discard(self, index: int) -> None:
        """Delete the pair that a plugin has made, whatever has become of it. Gone already is fine. Waits 20-30 ms."""

    def detach(self, attachment: Attachment) -> None:
        """Take back its host ports, unroute the pod, and queue its host link for reaping. Gone already is fine."""

    def unwiring(self, attachment: Attachment) -> bytes:
        """What a plugin needs to unroute the pod and bury its link by itself (``cni/unwire.c``); empty if there is more
        to be done for it, or nothing is known of it. It only reads what is in memory: any thread may ask."""

    def check(self, attachment: Attachment) -> tuple[Problem, ...]:
        """Compare pod side, host side, routes, neighbour and host ports with what :meth:`attach` made, and what the
        pod needs of rules, tables and nftables with what :meth:`configure` made last."""

    def whole(self, attachment: Attachment) -> bool:
        """Whether :meth:`attach` came to its end once, as far as the links tell: the alias is the last thing on the
        host, and the carrier comes of what is done in the pod. Routes, neighbours and host ports come back by
        :meth:`repair` and :meth:`configure`."""

    def survey(self) -> tuple[Attachment, ...]:
        """Every attachment the kernel knows, read from the host links' aliases (the second witness)."""

    def adopt(self, attachments: Iterable[Attachment]) -> None:
        """Take over pods that an earlier process wired, with their host ports; before the first :meth:`configure`.
        Raises :class:`DataplaneError`."""

    def flush_connections(self, addresses: Collection[str]) -> None:
        """Have the kernel forget every connection of addresses that no pod has any more. Any thread may call it: it
        walks the connection table, which the pods' wiring must not wait for. Raises :class:`DataplaneError`."""

    def prompt(self) -> bool:
        """Whether :meth:`attach` and :meth:`detach` only wait for the kernel's own work, well under a millisecond."""

    def usable_macs(self) -> frozenset[str]:
        """MACs (lower case) of the links present in the node's namespace."""

    def ipv6_refusal(self) -> str:
        """Why pods of this node cannot have IPv6, in words for an operator; "" if they can."""

    def notices(self) -> Notices:
        """What the kernel tells from the moment on at which the data plane was made; valid until :meth:`close`."""

    def primary_mtu(self) -> int:
        """The primary link's MTU as :meth:`configure` last saw it, bytes. Reads one number: any thread may ask."""

    def close(self) -> None:
        """Stop background work (the reaper). Leaves the kernel as it is: pods keep running."""
