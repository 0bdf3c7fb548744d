"""A matrix as JSON and as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from berth.flat.matrix import PROTOCOLS, Cell, Matrix
from berth.flat.numbers import ONE, Ports, shown
from berth.flat.packets import Finding, Protocol

__all__ = ["MARKS", "as_json", "as_text", "causes"]

MARKS: Final = {"yes": "+", "partly": "~", "no": "-", "unknown": "?"}


def as_json(matrix: Matrix, taken_at: str = "") -> dict[str, Any]:
    """Plain values. Ports are ``[[first, last], ...]``, empty for a protocol without ports."""
    return {
        "flat": matrix.flat,
        "snapshot-taken-at": taken_at,
        "endpoints": [
            {"name": e.name, "kind": e.kind, "where": e.where, "interfaces": list(e.members),
             "addresses-judged": len(e.places), "addresses-left-out": e.left_out, "supposed": e.supposed}
            for e in matrix.endpoints
        ],
        "cells": [
            {"from": c.source, "to": c.target, "protocol": c.protocol, "passes": c.state, "ports": _ports(c.ports),
             "rewritten": c.rewritten, "unknown": c.unknown, "findings": [_finding(f) for f in c.findings]}
            for c in matrix.cells
        ],
        "causes": [{**_finding(finding), "breaks": breaks} for finding, breaks in causes(matrix)],
    }  # fmt: skip


def _ports(ports: Ports) -> list[list[int]]:
    return [] if ports == ONE else [list(p) for p in ports]


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "resource": finding.resource,
        "rule": finding.what,
        "remedy": finding.remedy,
        "ports": _ports(finding.ports),
        "on-the-way-back": finding.answer,
    }


def causes(matrix: Matrix) -> list[tuple[Finding, list[str]]]:
    """Each rule that breaks something, with what it breaks, the most first.

    What one rule does to several protocols is told as one, in words that name them all.
    """
    found: dict[tuple[str, str, bool, str], list[tuple[Finding, str]]] = {}
    for cell in matrix.failures:
        for finding in cell.findings:
            key = (finding.code, finding.resource, finding.answer, finding.about)
            found.setdefault(key, []).append((finding, f"{cell.source} → {cell.target} {cell.protocol}"))
    told = [(_together([f for f, _ in items]), list(dict.fromkeys(b for _, b in items))) for items in found.values()]
    return sorted(told, key=lambda c: -len(c[1]))


def _together(findings: Sequence[Finding]) -> Finding:
    first = findings[0]
    said = list(dict.fromkeys(f.said for f in findings if f.said))
    if len(said) < 2:
        return first
    words = f"{', '.join(said[:-1])} and {said[-1]}"
    what, remedy = first.what.replace(first.said, words), first.remedy.replace(first.said, words)
    return replace(first, what=what, remedy=remedy, ports=())


def as_text(matrix: Matrix) -> str:
    """A table with TCP, UDP and ICMP in each cell, then what breaks it and what mends it."""
    return "\n".join(_lines(matrix))


def _lines(matrix: Matrix) -> Iterator[str]:
    cells = {(c.source, c.target, c.protocol): c for c in matrix.cells}
    rows = [e for e in matrix.endpoints if any(c.source == e.name for c in matrix.cells)]
    columns = [e for e in matrix.endpoints if any(c.target == e.name for c in matrix.cells)]
    yield "rows send, columns answer; each cell is TCP UDP ICMP: + passes, ~ partly, - does not, ? not known"
    width = max((len(f"{len(columns)} {e.name}") for e in rows), default=0)
    yield " " * (width + 2) + " ".join(f"{n:>4}" for n in range(1, len(columns) + 1))
    for row in rows:
        marks = (_marks(cells, row.name, column.name) for column in columns)
        yield f"{row.name:<{width}}  " + " ".join(f"{m:>4}" for m in marks)
    yield ""
    yield from (f"{n:>3} {column.name} ({column.where})" for n, column in enumerate(columns, 1))
    yield from _notes(matrix)
    yield ""
    yield from _breaks(matrix)


def _marks(cells: Mapping[tuple[str, str, Protocol], Cell], source: str, target: str) -> str:
    found = [cells.get((source, target, protocol)) for protocol in PROTOCOLS]
    return "".join(MARKS[c.state] for c in found if c) or "."


def _notes(matrix: Matrix) -> Iterator[str]:
    for endpoint in matrix.endpoints:
        if endpoint.supposed:
            yield f"    no pod interface is in {endpoint.where} yet: the groups of {endpoint.name} are assumed"
        if endpoint.left_out:
            yield f"    rules tell {endpoint.left_out} more kinds of address of {endpoint.name} apart than are judged"
    for pair in dict.fromkeys((c.source, c.target) for c in matrix.cells if c.rewritten):
        yield f"    {pair[0]} → {pair[1]}: the pod's address is rewritten on the way"
    for reason in dict.fromkeys(c.unknown for c in matrix.cells if c.unknown):
        yield f"  ? {reason}"


def _breaks(matrix: Matrix) -> Iterator[str]:
    failures = [c for c in matrix.failures if c.state != "unknown"]
    if matrix.flat:
        yield "The network is flat: everything passes."
        return
    if not failures:
        yield f"Nothing is known to fail; of {len(matrix.failures)} of {len(matrix.cells)} cells it cannot be known."
        return
    yield f"{len(failures)} of {len(matrix.cells)} cells do not pass in full, by:"
    for finding, breaks in causes(matrix):
        back = "on the way back, " if finding.answer else ""
        yield f"* {back}{finding.what}"
        yield f"    mend it: {finding.remedy}"
        yield f"    breaks {_some(breaks)}{_about(finding)}"


def _some(breaks: Sequence[str]) -> str:
    rest = len(breaks) - 3
    return "; ".join(breaks[:3]) + (f"; and {rest} more" if rest > 0 else "")


def _about(finding: Finding) -> str:
    said = shown(finding.ports)
    return f" (ports {said})" if said and said not in ("all ports", "no port") else ""
