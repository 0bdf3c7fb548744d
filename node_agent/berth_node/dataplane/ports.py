"""Host ports: nftables tables ``ip berth-ports`` and ``ip6 berth-ports``, each there only while a pod has some.

* ``arriving`` (prerouting) and ``leaving`` (output), both -105, before kube-proxy's and portmap's -100: what goes to an
  address of the node is looked up by address, protocol and port, then by protocol and port, and sent to the pod. The
  client's address stays.
* ``back`` (postrouting, 105): a pod that calls its own host port must not see itself as the client, or it would answer
  past the translation; it sees the address that it called. A process of the node that calls 127.0.0.1 is seen as the
  node, since no packet from 127.0.0.0/8 may leave a host (RFC 1122, 3.2.1.3). For its answer the pod's link gets
  ``route_localnet``, which alone would open the node's loopback to the pod: ``guard`` (-300, before conntrack turns
  real answers back) drops whatever comes from a link with such an address (compare CVE-2020-8558).

IPv6 is the same but for the loopback: a packet from ::1 cannot leave a host at all, so ``leaving`` passes it over.

The rules never change; a pod's ports are elements of maps. They are added once the pod is wired and removed before its
link is, each in one transaction. A kill in between leaves an element to a pod that the journal still has: the next
start takes it over (:meth:`HostPorts.adopt`), and the DEL that follows removes it. Without the table, or when an
element is not as expected, everything is loaded anew in one transaction: no other program's change can last.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from .. import portmap
from ..portmap import PROTOCOLS, PortMapping
from ..seams import Attachment, Problem
from . import sysctl
from .nfnetlink import Element, Nfnetlink
from .nft import NftError, run_nft

__all__ = ["IPV4", "IPV6", "TABLE", "Family", "HostPorts", "parse", "ruleset"]

_log = logging.getLogger(__name__)

TABLE: Final = "berth-ports"
_BY_ADDRESS, _BY_PORT, _PODS = "by_address", "by_port", "pods"

Wanted = Mapping[PortMapping, str]
"""Mapping to the pod's address."""

_SETS: Final = {
    _BY_ADDRESS: ("map", "ADDRESS . inet_proto . inet_service : ADDRESS . inet_service"),
    _BY_PORT: ("map", "inet_proto . inet_service : ADDRESS . inet_service"),
    _PODS: ("set", "ADDRESS . ADDRESS"),
}
_CHAINS: Final = """\
  chain guard {
    type filter hook prerouting priority -300; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
    iifname != "lo" ip saddr 127.0.0.0/8 drop
  }
  chain lent {
    dnat to ip daddr . meta l4proto . th dport map @by_address
    dnat to meta l4proto . th dport map @by_port
  }
  chain arriving {
    type nat hook prerouting priority -105; policy accept;
    fib daddr type local goto lent
  }
  chain leaving {
    type nat hook output priority -105; policy accept;
    fib daddr type local goto lent
  }
  chain back {
    type nat hook postrouting priority 105; policy accept;
    ip saddr 127.0.0.0/8 ip daddr . ip daddr @pods masquerade
    ip saddr . ip daddr @pods snat to ct original ip daddr
  }
"""
_CHAINS6: Final = """\
  chain lent {
    dnat to ip6 daddr . meta l4proto . th dport map @by_address
    dnat to meta l4proto . th dport map @by_port
  }
  chain arriving {
    type nat hook prerouting priority -105; policy accept;
    fib daddr type local goto lent
  }
  chain leaving {
    type nat hook output priority -105; policy accept;
    ip6 daddr != ::1 fib daddr type local goto lent
  }
  chain back {
    type nat hook postrouting priority 105; policy accept;
    ip6 saddr . ip6 daddr @pods snat to ct original ip6 daddr
  }
"""


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between the families. ``number`` is the socket module's; ``table`` nft's name of the family."""

    number: socket.AddressFamily
    table: str
    address: str
    chains: str

    def of(self, attachment: Attachment) -> str:
        """The pod's address of this family, "" if it has none."""
        ipv6 = self.number == socket.AF_INET6
        return next((address for address in attachment.addresses if (":" in address) == ipv6), "")

    def mappings(self, attachment: Attachment) -> tuple[PortMapping, ...]:
        """The ports to lend to that address. Raises ValueError."""
        if not attachment.ports or not self.of(attachment):
            return ()
        return portmap.of_family(portmap.decode(attachment.ports), ipv6=self.number == socket.AF_INET6)

    def packed(self, address: str) -> bytes:
        """An address as on the wire."""
        return socket.inet_pton(self.number, address)


IPV4: Final = Family(socket.AF_INET, "ip", "ipv4_addr", _CHAINS)
IPV6: Final = Family(socket.AF_INET6, "ip6", "ipv6_addr", _CHAINS6)


def ruleset(wanted: Wanted, family: Family = IPV4) -> str:
    """The whole table's text."""
    texts = _texts(wanted)
    parts = []
    for name, (kind, types) in _SETS.items():
        elements = sorted(text for of, text in texts if of == name)
        held = f" elements = {{ {', '.join(elements)} }}" if elements else ""
        parts.append(f"  {kind} {name} {{ type {types.replace('ADDRESS', family.address)};{held}\n  }}\n")
    return f"table {family.table} {TABLE} {{\n{''.join(parts)}{family.chains}}}\n"


def _texts(wanted: Wanted) -> frozenset[tuple[str, str]]:
    """(set, element as nft writes it, numbers for names)."""
    return frozenset(pair for mapping, address in wanted.items() for pair in _text(mapping, address))


def _text(mapping: PortMapping, address: str) -> Iterator[tuple[str, str]]:
    key = f"{PROTOCOLS[mapping.protocol]} . {mapping.host_port}"
    target = f"{address} . {mapping.container_port}"
    if mapping.host_ip:
        yield _BY_ADDRESS, f"{mapping.host_ip} . {key} : {target}"
    else:
        yield _BY_PORT, f"{key} : {target}"
    yield _PODS, f"{address} . {address}"


def parse(listing: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """A listing of the table as (everything but the elements, the elements as :func:`ruleset` writes them)."""
    found = set()
    name = ""
    for part in re.finditer(r"^\t(?:map|set) (\S+) \{|elements = \{([^}]*)\}", listing, re.MULTILINE):
        name = part[1] or name
        for element in (part[2] or "").split(","):
            words = [str(PROTOCOLS.get(word, word)) for word in element.split()]
            if words:
                found.add((name, " ".join(words)))
    return re.sub(r"\s*elements = \{[^}]*\}", "", listing), frozenset(found)


def _element(family: Family, mapping: PortMapping, address: str, *, add: bool) -> Element:
    ip = family.packed(address)
    key = struct.pack(">B3xH2x", PROTOCOLS[mapping.protocol], mapping.host_port)
    value = ip + struct.pack(">H2x", mapping.container_port)
    if mapping.host_ip:
        return Element(_BY_ADDRESS, family.packed(mapping.host_ip) + key, value, add)
    return Element(_BY_PORT, key, value, add)


def _slot(mapping: PortMapping) -> tuple[str, str, int]:
    return mapping.host_ip, mapping.protocol, mapping.host_port


class HostPorts:
    """One family's table in the kernel, of the network namespace of the thread that makes this."""

    def __init__(self, family: Family = IPV4) -> None:
        self._family = family
        self._name = f"{family.table} {TABLE}"
        self._wanted: dict[PortMapping, str] = {}
        self._structure: str | None = None
        """What the loaded table looks like without its elements; "" if it is not there, None if that is not known."""
        self._socket, self._flows = Nfnetlink(family.number), Nfnetlink(family.number)
        self._walker = ThreadPoolExecutor(1, "flows")  # starts no thread before the first UDP port

    @property
    def port(self) -> int:
        """The port of the socket that changes elements."""
        return self._socket.port

    def close(self) -> None:
        """Close the socket; the table stays."""
        self._walker.shutdown(cancel_futures=True)
        self._socket.close()
        self._flows.close()

    def adopt(self, attachments: Iterable[Attachment]) -> None:
        """Take over the ports of pods that an earlier agent wired; :meth:`restore` then makes the kernel match.

        A pod of which no port is known (an alias has no room for everything) loses its way to the node's loopback
        too: without the table nothing would guard it.
        """
        for attachment in attachments:
            if not attachment.ports and self._family is IPV4:
                with contextlib.suppress(OSError):  # its link is gone
                    sysctl.ensure(f"conf/{attachment.host_ifname}/route_localnet", "0")
                continue
            try:
                self._wanted = _lent(self._wanted, self._family.mappings(attachment), self._family.of(attachment))
            except ValueError as error:  # kept by another version
                _log.warning("host ports are lost", extra={"address": attachment.address, "why": str(error)})

    def add(self, attachment: Attachment) -> None:
        """Lend the attachment's ports to it. A port that another pod's leftover still has moves. Raises OSError."""
        mappings = self._family.mappings(attachment)
        if not mappings:
            return
        if self._family is IPV4:
            sysctl.ensure(f"conf/{attachment.host_ifname}/route_localnet", "1")
        self._become(_lent(self._wanted, mappings, self._family.of(attachment)))
        self._forget_flows(mappings)

    def _forget_flows(self, mappings: Iterable[PortMapping]) -> None:
        """A UDP flow has no end: as long as its client sends, it would go where it went before the port was lent.

        Each port is a walk over all flows of the node (45 ms for 40,000), so another thread does it: until it has,
        such a client stays where it was, and so it does after a kill, until it pauses for conntrack's 30 s.
        """
        for mapping in mappings:
            if mapping.protocol == "udp":
                self._walker.submit(self._walk, mapping)

    def _walk(self, mapping: PortMapping) -> None:
        try:
            self._flows.forget_flows(PROTOCOLS[mapping.protocol], mapping.host_port)
        except OSError as error:  # a kernel before 5.8
            _log.warning("older flows stay", extra={"port": mapping.asked, "why": str(error)})

    def remove(self, attachment: Attachment) -> None:
        """Take back every port that leads to the attachment's address. Raises OSError."""
        address = self._family.of(attachment) if self._wanted else ""
        if address in self._wanted.values():
            self._become({m: a for m, a in self._wanted.items() if a != address})

    def _become(self, after: dict[PortMapping, str]) -> None:
        before, self._wanted = self._wanted, after
        try:
            if not self._structure:
                self._load()
                return
            try:
                self._socket.change(TABLE, list(_difference(self._family, before, after)))
            except OSError:  # somebody changed the table: what it should hold is known
                self._load()
        except OSError:
            self._wanted = before
            raise

    def restore(self) -> tuple[Problem, ...]:
        """Make the table be as it should. Without any port to lend there is none."""
        try:
            if self._wanted:
                if self._read() != (self._structure, _texts(self._wanted)):
                    self._load()
            elif self._structure != "":
                if self._read()[0]:
                    run_nft(["delete", "table", self._family.table, TABLE])
                self._structure = ""
        except NftError as error:
            return (Problem("host ports", str(error)),)
        return ()

    def check(self, attachment: Attachment) -> tuple[Problem, ...]:
        """What of the attachment's ports is not in the kernel."""
        mappings, address = self._family.mappings(attachment), self._family.of(attachment)
        if not mappings:
            return ()
        structure, elements = self._read()
        if (
            structure != self._structure and self._structure is not None
        ):  # of an earlier process's only the ports are known
            return (Problem(f"nftables table {self._name}", "it is not as Berth made it; it comes back by itself"),)
        return tuple(
            Problem(f"host port {mapping.asked}", f"nftables does not lead it to {address}")
            for mapping in mappings
            if not elements.issuperset(_text(mapping, address))
        )

    def _load(self) -> None:
        # making it first lets `delete` succeed where there is none; all three are one transaction
        text = f"table {self._name} {{\n}}\ndelete table {self._name}\n{ruleset(self._wanted, self._family)}"
        self._structure = None
        run_nft(["-f", "-"], text)
        self._structure, _ = self._read()

    def _read(self) -> tuple[str, frozenset[tuple[str, str]]]:
        try:
            return parse(run_nft(["-s", "-n", "list", "table", self._family.table, TABLE]))
        except NftError:
            return "", frozenset()


def _lent(wanted: Wanted, mappings: Iterable[PortMapping], address: str) -> dict[PortMapping, str]:
    """With these lent to the address, whoever had them: a map has one value for a key."""
    lent = dict.fromkeys(mappings, address)
    slots = {_slot(mapping) for mapping in lent}
    return {m: a for m, a in wanted.items() if _slot(m) not in slots} | lent


def _difference(family: Family, before: Wanted, after: Wanted) -> Iterator[Element]:
    """The element changes from one to the other, removals first: a key can only have one value."""
    for mapping, address in before.items():
        if after.get(mapping) != address:
            yield _element(family, mapping, address, add=False)
    for mapping, address in after.items():
        if before.get(mapping) != address:
            yield _element(family, mapping, address, add=True)
    had, has = set(before.values()), set(after.values())
    for address in sorted(had ^ has):
        yield Element(_PODS, family.packed(address) * 2, None, address in has)
