"""IPv6 addresses of pods that are gone: which were had lately, and which the kernel may still know connections of."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from berth_node.ipv6 import Prefixes
from berth_node.seams import Attachment

__all__ = ["Returned"]


@dataclass(slots=True)
class Returned:
    """In memory alone: an address beside an IPv4 one follows from it, and one of IPv6 alone never comes again.

    ``unflushed`` maps an IPv6 address to the IPv4 one that it went with, or to itself.
    """

    recent: deque[str] = field(default_factory=lambda: deque(maxlen=1024))
    unflushed: dict[str, str] = field(default_factory=dict)

    def add(self, attachment: Attachment, *, used: bool) -> None:
        """The pod is gone; ``used``: it may have talked."""
        for address in attachment.addresses:
            if ":" in address:
                self.recent.append(address)
                if used:
                    self.unflushed[address] = attachment.address

    def with_ipv6(self, addresses: Iterable[str], prefixes: Prefixes) -> list[str]:
        """These, and what IPv6 addresses went with them. After a restart nobody knows which: all that may have."""
        beside: dict[str, list[str]] = {}
        for address6, address in self.unflushed.items():
            beside.setdefault(address, []).append(address6)
        found: dict[str, None] = {}
        for address in addresses:
            others = beside.get(address) or (() if ":" in address else prefixes.counterparts(address))
            found.update(dict.fromkeys((address, *others)))
        return list(found)

    def flushed(self, addresses: Collection[str]) -> None:
        """The kernel knows no connection any more of what went with these."""
        if self.unflushed:
            self.unflushed = {six: a for six, a in self.unflushed.items() if a not in addresses}
