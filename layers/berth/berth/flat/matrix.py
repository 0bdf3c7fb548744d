"""All pairs: pods with pods, pods with nodes, pods to the internet, pods with every network; TCP, UDP and ICMP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from berth.flat.index import Index
from berth.flat.numbers import ALL_PORTS, NO_PORTS, ONE, Ports, both, number
from berth.flat.packets import Finding, Protocol
from berth.flat.places import Endpoint, endpoints
from berth.flat.snapshot import Snapshot
from berth.flat.trace import Trace, trace

__all__ = ["PROTOCOLS", "Cell", "Matrix", "State", "check"]

PROTOCOLS: Final[tuple[Protocol, ...]] = ("tcp", "udp", "icmp")
State = Literal["yes", "partly", "no", "unknown"]
_PAIRS: Final = {("pods", "pods"), ("pods", "nodes"), ("nodes", "pods"), ("pods", "internet"), ("pods", "network"),
                 ("network", "pods")}  # fmt: skip
_EXAMPLES: Final = 6
"""Findings kept for each cell; more of the same kind say no more."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One direction of one pair and protocol. ``ports`` are those that pass from every address to every address.

    ``partly``: some addresses, ports or answers pass. ``seen_as``: the sources that the target sees, where the network
    or the node rewrites them.
    """

    source: str
    target: str
    protocol: Protocol
    state: State
    ports: Ports = NO_PORTS
    findings: tuple[Finding, ...] = ()
    rewritten: bool = False
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Matrix:
    """``flat``: everything passes. What could not be judged does not count as flat."""

    endpoints: tuple[Endpoint, ...]
    cells: tuple[Cell, ...]

    @property
    def failures(self) -> tuple[Cell, ...]:
        return tuple(c for c in self.cells if c.state != "yes")

    @property
    def flat(self) -> bool:
        return bool(self.cells) and not self.failures


def check(snapshot: Snapshot, networks: Sequence[str] = ()) -> Matrix:
    """Judge a snapshot; ``networks`` are CIDRs to check beside those that its routes and peerings name. Pure."""
    index = Index(snapshot)
    found = endpoints(index, networks)
    cells = [_cell(index, *pair, protocol) for pair in _pairs(found) for protocol in PROTOCOLS]
    return Matrix(found, tuple(cells))


def _pairs(found: Sequence[Endpoint]) -> Iterator[tuple[Endpoint, Endpoint]]:
    for source in found:
        for target in found:
            if (source.kind, target.kind) in _PAIRS:
                yield source, target


def _cell(index: Index, source: Endpoint, target: Endpoint, protocol: Protocol) -> Cell:
    traces = [
        (one.address, trace(index, one, other, protocol, apart=True))
        for one in source.places
        for other in target.places
    ]
    found = [t for _, t in traces]
    ports: Ports = ONE if protocol == "icmp" else ALL_PORTS
    for each in found:
        ports = both(ports, each.arrives if each.answered == each.client_ports and not each.doubtful else NO_PORTS)
    unknown = next((t.unknown for t in found if t.unknown), "")
    return Cell(
        source=source.name,
        target=target.name,
        protocol=protocol,
        state=_state(found),
        ports=NO_PORTS if unknown else ports,
        findings=_merged(found),
        rewritten=any(t.seen_as and number(t.seen_as) != address for address, t in traces),
        unknown=unknown,
    )


def _state(found: Sequence[Trace]) -> State:
    if any(t.unknown for t in found):
        return "unknown"
    if all(t.passes for t in found):
        return "yes"
    return "no" if all(t.fails for t in found) else "partly"


def _merged(found: Sequence[Trace]) -> tuple[Finding, ...]:
    """Each rule once, by what it is about: addresses apart, the first example stands for the rest."""
    kept: dict[tuple[object, ...], Finding] = {}
    for each in found:
        for finding in each.findings:
            key = (finding.code, finding.resource, finding.answer, finding.ports, finding.about)
            kept.setdefault(key, finding)
    return tuple(list(kept.values())[:_EXAMPLES])
