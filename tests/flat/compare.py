"""The check's verdict on one design beside what packets do. Any difference is told with the seed and the reasons."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

from berth.flat.documents import dump, load
from berth.flat.index import Index
from berth.flat.matrix import Cell, Matrix, check
from berth.flat.numbers import number, within
from berth.flat.reading import read_snapshot
from berth.flat.snapshot import Snapshot
from berth.flat.trace import Place, Trace, trace

from tests.flat.answers import answers_of
from tests.flat.defects import Defect
from tests.flat.design import PORTS, Design
from tests.flat.place import Spot, built, spots_of
from tests.flat.probe import Heard, Probe, run

__all__ = ["Observed", "Result", "compare", "observe", "snapshot_of"]

_QUIET, _PATIENT = 0.25, 1.2
"""Seconds of silence that count as none to come; the second for what was expected and did not come."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A design and what its packets did; ``repeated`` counts probes that were sent twice."""

    design: Design
    heard: dict[Probe, Heard]
    repeated: int


@dataclass
class Result:
    """``undecided``: flows that the check leaves open (a NAT gateway's choice of port, an instance that forwards)."""

    seed: int
    probes: int = 0
    passed: int = 0
    undecided: int = 0
    cells: int = 0
    repeated: int = 0
    differences: list[str] = field(default_factory=list)


def snapshot_of(design: Design) -> Snapshot:
    """As the check gets it: read from Describe answers, and through its JSON."""
    return load(dump(read_snapshot(answers_of(design), no_snat=design.no_snat, snat=design.snat)))


def place_of(index: Index, spot: Spot) -> Place:
    if not spot.link:
        return Place(number(spot.address), None, "internet" if spot.kind == "internet" else "network")
    return Place(number(spot.address), index.interfaces[spot.link], pod=spot.kind == "pod")


def judge(index: Index, probe: Probe) -> Trace:
    source, target = place_of(index, probe.source), place_of(index, probe.target)
    port, client = ((probe.port, probe.port),), ((probe.client_port, probe.client_port),)
    return trace(index, source, target, probe.protocol, port, client)  # type: ignore[arg-type]


def probes_of(spots: tuple[Spot, ...], seed: int) -> Iterator[Probe]:
    """Every ordered pair that is not of one host; nothing starts on the internet, nothing outside meets itself.

    Clients' ports differ by seed, since ACLs tell answers apart by them.
    """
    numbers = itertools.count(33000 + 3400 * (seed % 3))
    asked = [(protocol, port) for protocol, ports in PORTS.items() for port in ports] + [("icmp", 0)]
    for source, target in itertools.permutations(spots, 2):
        if source.kind == "internet" or source.netns == target.netns:
            continue
        if source.kind == "network" and target.kind in ("network", "internet"):
            continue
        for protocol, port in asked:
            yield Probe(source, target, protocol, port, next(numbers))


def observe(design: Design) -> Observed:
    """Build the design and probe it. What the check expects to pass and did not is asked once more, with patience."""
    index, spots = Index(snapshot_of(design)), spots_of(design)
    with built(design):
        heard = run(spots, list(probes_of(spots, design.seed)), PORTS, _QUIET)
        again = [p for p, h in heard.items() if not h.answered and not h.odd and _expected(judge(index, p))[1]]
        if again:
            # the same flows, from other ports: what is lost twice was not lost by chance
            fresh = {Probe(p.source, p.target, p.protocol, p.port, 60000 + n): p for n, p in enumerate(again)}
            heard = {p: h for p, h in heard.items() if p not in again} | run(spots, list(fresh), PORTS, _PATIENT)
    return Observed(design, heard, len(again))


def compare(observed: Observed, defect: Defect | None = None) -> Result:
    """The check's verdict beside what was observed; ``defect`` breaks the check, to see that this is found out."""
    design = observed.design
    result = Result(design.seed, repeated=observed.repeated)
    with defect(snapshot_of(design)) if defect else nullcontext(snapshot_of(design)) as snapshot:
        index = Index(snapshot)
        for probe, what in observed.heard.items():
            _judge_one(result, probe, judge(index, probe), what)
        if defect is None:
            matrix = check(snapshot, design.onprem)
            for probe, what in observed.heard.items():
                _judge_cell(result, index, matrix, probe, what)
    return result


def _expected(verdict: Trace) -> tuple[bool, bool]:
    arrives = bool(verdict.arrives)
    return arrives, arrives and bool(verdict.answered)


def _judge_one(result: Result, probe: Probe, verdict: Trace, heard: Heard) -> None:
    result.probes += 1
    result.passed += heard.answered
    if verdict.unknown or verdict.doubtful:
        result.undecided += 1
        return
    arrives, answered = _expected(verdict)
    wrong = []
    if heard.arrived is not None and heard.arrived != arrives:
        wrong.append(f"arrives: verdict {arrives}, packets {heard.arrived}")
    if heard.answered != answered:
        wrong.append(f"answered: verdict {answered}, packets {heard.answered}")
    if heard.seen_as and arrives and probe.target.kind != "internet" and heard.seen_as != verdict.seen_as:
        wrong.append(f"seen as: verdict {verdict.seen_as}, packets {heard.seen_as}")
    if heard.odd in ("ECONNREFUSED", "ECONNRESET", "EADDRNOTAVAIL", "EADDRINUSE"):
        wrong.append(f"the probe failed by {heard.odd}")
    if wrong:
        reasons = "".join(f"\n      because {'answer: ' if f.answer else ''}{f.what}" for f in verdict.findings)
        result.differences.append(f"{_named(probe)}: {'; '.join(wrong)}{reasons}")


def _named(probe: Probe) -> str:
    ends = f"{probe.source.name} ({probe.source.address}) → {probe.target.name} ({probe.target.address})"
    return f"{ends} {probe.protocol} {probe.port or ''} from {probe.client_port}"


def _judge_cell(result: Result, index: Index, matrix: Matrix, probe: Probe, heard: Heard) -> None:
    """A cell speaks for every address of its endpoints: yes means that this flow passes, no that it does not."""
    for cell in _cells(index, matrix, probe):
        result.cells += 1
        said = f"{_named(probe)}: the cell {cell.source} → {cell.target} {cell.protocol} says {cell.state}"
        if cell.state == "no" and heard.answered and not _named_group(index, probe):
            result.differences.append(f"{said}, and it passes")
        known = probe.target.kind != "node" or probe.target.host in index.nodes
        sure = cell.state == "yes" or any(a <= probe.port <= b for a, b in cell.ports)
        if sure and known and not heard.answered and probe.source.host in ("", *index.nodes):
            result.differences.append(f"{said} for ports {cell.ports}, and it does not pass")


def _named_group(index: Index, probe: Probe) -> bool:
    """Whether a peer's host is in a group that a rule names: a cell speaks of any host there; this one does more."""
    named = {g for group in index.snapshot.groups for r in (*group.ingress, *group.egress) for g in r.groups}
    others = [s for s in (probe.source, probe.target) if s.link and s.host not in index.nodes]
    return any(named & set(index.interfaces[s.link].groups or ()) for s in others)


def _cells(index: Index, matrix: Matrix, probe: Probe) -> Iterator[Cell]:
    sources, targets = _endpoints(index, matrix, probe.source), _endpoints(index, matrix, probe.target)
    for cell in matrix.cells:
        if cell.protocol == probe.protocol and cell.source in sources and cell.target in targets:
            yield cell


def _endpoints(index: Index, matrix: Matrix, spot: Spot) -> set[str]:
    found = set()
    for endpoint in matrix.endpoints:
        if endpoint.left_out:
            continue
        if spot.kind == endpoint.kind == "internet":
            found.add(endpoint.name)
        elif endpoint.kind == "network" and spot.kind in ("network", "node") and spot.host not in index.nodes:
            if within(number(spot.address), endpoint.name):
                found.add(endpoint.name)
        elif endpoint.kind == f"{spot.kind}s" and spot.link in endpoint.members:
            found.add(endpoint.name)
    return found
