"""A matrix as one HTML page that needs nothing else: the table, and for each failure the rule and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from berth.flat.matrix import PROTOCOLS, Cell, Matrix
from berth.flat.numbers import ONE, shown
from berth.flat.report import causes

__all__ = ["as_html"]

_STYLE: Final = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em; max-width: 1100px; color: #1c2733; background: #fff }
table { border-collapse: separate; border-spacing: 4px; margin: 1em 0 }
th { text-align: left; font-weight: 500; font-size: 12px; padding: 2px 6px; vertical-align: bottom }
th small { display: block; color: #667; font-weight: 400 }
thead th { max-width: 130px; overflow-wrap: anywhere }
td { padding: 0; white-space: nowrap }
td span { display: inline-block; width: 38px; padding: 5px 0; text-align: center; font-size: 11px; color: #fff }
td span:first-child { border-radius: 4px 0 0 4px } td span:last-child { border-radius: 0 4px 4px 0 }
.yes { background: #2e7d4f } .partly { background: #b7791f }
.no { background: #b3383c } .unknown { background: #75808c }
li { margin: 0.6em 0 } .mend { color: #205a38 } .breaks { color: #667; font-size: 12px }
"""


def as_html(matrix: Matrix, taken_at: str = "") -> str:
    """The page. Everything that comes from the account is escaped."""
    return "\n".join(_page(matrix, taken_at)) + "\n"


def _page(matrix: Matrix, taken_at: str) -> Iterator[str]:
    verdict = "The network is flat" if matrix.flat else "The network is not flat"
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{verdict}</title><style>{_STYLE}</style>'
    yield f"<h1>{verdict}</h1><p>Rows send, columns answer: a cell passes when the answer comes back too. "
    yield f"Point at a part for its reason.{' Snapshot of ' + escape(taken_at) + '.' if taken_at else ''}</p>"
    yield from _table(matrix)
    yield '<p><span class="yes">&emsp;</span> passes <span class="partly">&emsp;</span> partly '
    yield '<span class="no">&emsp;</span> does not pass <span class="unknown">&emsp;</span> not known</p>'
    yield from _reasons(matrix)
    yield "</html>"


def _table(matrix: Matrix) -> Iterator[str]:
    cells = {(c.source, c.target, c.protocol): c for c in matrix.cells}
    rows = [e for e in matrix.endpoints if any(c.source == e.name for c in matrix.cells)]
    columns = [e for e in matrix.endpoints if any(c.target == e.name for c in matrix.cells)]
    heads = "".join(f"<th>{escape(e.name)}<small>{escape(e.where)}</small></th>" for e in columns)
    yield f"<table><thead><tr><th></th>{heads}</tr></thead>"
    for row in rows:
        yield f"<tr><th>{escape(row.name)}</th>"
        for column in columns:
            found = [c for p in PROTOCOLS if (c := cells.get((row.name, column.name, p)))]
            yield f"<td>{''.join(map(_part, found))}</td>"
        yield "</tr>"
    yield "</table>"


def _part(cell: Cell) -> str:
    said = [f"{cell.source} → {cell.target}, {cell.protocol.upper()}: {cell.state}"]
    said += [f"passes: {shown(cell.ports)}"] if cell.state == "partly" and cell.ports not in ((), ONE) else []
    said += [f"not known: {cell.unknown}"] if cell.unknown else []
    said += ["the pod's address is rewritten on the way"] if cell.rewritten else []
    said += [f"{'on the way back: ' if f.answer else ''}{f.what}\n  mend it: {f.remedy}" for f in cell.findings]
    return f'<span class="{cell.state}" title="{escape(chr(10).join(said))}">{cell.protocol.upper()}</span>'


def _reasons(matrix: Matrix) -> Iterator[str]:
    found = causes(matrix)
    if not found:
        return
    yield "<h2>What breaks it, and what mends it</h2><ol>"
    for finding, breaks in found:
        back = "On the way back: " if finding.answer else ""
        yield f"<li>{back}{escape(finding.what)}<br><span class=mend>{escape(finding.remedy)}</span>"
        yield f"<br><span class=breaks>{escape('; '.join(breaks))}</span></li>"
    yield "</ol>"
