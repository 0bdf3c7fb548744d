"""What goes through the network in one trace, and what stops it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from berth.flat.numbers import Ports, text
from berth.flat.snapshot import Interface

__all__ = ["ECHO_REPLY", "ECHO_REQUEST", "Finding", "Packet", "Protocol"]

Protocol = Literal["tcp", "udp", "icmp"]
ECHO_REQUEST: Final = (8, 0)
ECHO_REPLY: Final = (0, 0)


@dataclass(frozen=True, slots=True)
class Packet:
    """All packets of one flow and direction at once: they differ in the port that they are sent to.

    ``sender`` and ``receiver`` are the interfaces that hold the two addresses now, if any does: group references are
    about those. ``icmp`` is (type, code).
    """

    source: int
    target: int
    protocol: Protocol
    ports: Ports
    icmp: tuple[int, int] = ECHO_REQUEST
    sender: Interface | None = None
    receiver: Interface | None = None

    def but(self, ports: Ports) -> Packet:
        return replace(self, ports=ports)

    @property
    def told(self) -> str:
        return f"{text(self.source)} → {text(self.target)}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Why packets do not pass. ``what`` names the rule that stops them, ``remedy`` the change that lets them through.

    ``resource`` is the id of what holds the rule; ``ports`` are those stopped; ``answer`` tells that it stops what
    comes back, not what is sent. ``code`` is one word for programs. ``said`` are the words in ``what`` and ``remedy``
    that name the traffic, ``about`` the other end's group or address, where the rule is about that.
    """

    code: str
    resource: str
    what: str
    remedy: str
    ports: Ports = ()
    answer: bool = False
    said: str = ""
    about: str = ""
