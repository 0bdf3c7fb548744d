"""The report of `make demo-vpc`: a section for each capability, with what was done, what packets showed, a verdict."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tests.sandbox.demo.machine import SandboxDiedError
from tests.sandbox.demo.report import Report, Stage, table

__all__ = ["INTRODUCTION", "Section", "Telling"]

WIDTH: Final = 118
_FACT: Final = 96
"""The width of a fact's text; its verdict stands behind it."""
INTRODUCTION: Final = """
A section for each of the VPC's tools. In each: "did" is what was done; "wire" what packets showed, where a server
answers with its name and the address that called it; "seen" what EC2 or Berth shows; "$" a command and its answer."""


@dataclass(slots=True)
class Section:
    """One capability. ``seen`` are facts: what, what was expected and told (if told), and whether it held."""

    number: int
    name: str
    page: str
    ok: bool = False
    seconds: float = 0.0
    did: list[str] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Telling:
    """Says each section as it happens. What fails in one is told there, and the next one begins."""

    report: Report
    sections: list[Section] = field(default_factory=list)

    @contextmanager
    def section(self, number: int, name: str, page: str) -> Iterator[Section]:
        """One capability's part. Only the end of the sandbox, or of everything, goes on up."""
        section, stage, before = Section(number, name, page), Stage(f"{number}. {name}"), len(self.report.failures)
        self.sections.append(section)
        self.report.stages.append(stage)
        self.report.say(f"\n{number}. {name}  ({page})")
        begun = time.monotonic()
        try:
            yield section
        except SandboxDiedError:
            raise
        except Exception as error:  # the other capabilities are still to be shown
            self.report.failures.append(f"{number}. {name}: {type(error).__name__}: {error}")
            self._lines("stopped", f"{type(error).__name__}: {error}")
        finally:
            section.seconds = stage.seconds = round(time.monotonic() - begun, 2)
        section.ok = stage.ok = bool(section.seen) and len(self.report.failures) == before
        self.report.say(f"    {'OK' if section.ok else 'FAILED'} in {section.seconds:.1f} s")

    def did(self, what: str) -> None:
        """What was done, by whom."""
        self.sections[-1].did.append(what)
        self._lines("did", what)

    def seen(self, what: str, told: str, expected: str) -> None:
        """What a server, a client or AWS told, beside what it has to be."""
        self._fact("wire", f"{what}: {told}", told == expected, told=told, expected=expected)

    def holds(self, what: str, held: object, kind: str = "seen") -> None:
        """A fact of another kind: what AWS or a command shows."""
        self._fact(kind, what, bool(held))

    def command(self, words: str, output: str = "", lines: int = 12, leave_out: str = "\n") -> None:
        """A command as an operator types it, and the first lines of what it answered, without those of a kind."""
        self.sections[-1].commands.append(words)
        for line in textwrap.wrap(f"$ {words}", WIDTH - 6, subsequent_indent="      "):
            self.report.say(f"    {line}")
        shown = [line for line in output.splitlines() if line.strip() and leave_out not in line]
        for line in shown[:lines]:
            for part in textwrap.wrap(line, WIDTH - 10, subsequent_indent="      ", break_on_hyphens=False):
                self.report.say(f"      | {part}")
        if len(shown) > lines:
            self.report.say(f"      | … {len(shown) - lines} more lines")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Figures side by side."""
        for line in table(head, rows):
            self.report.say(f"      | {line}")

    def verdict(self) -> None:
        """The sections in one table, and into the JSON."""
        self.report.figures["sections"] = [asdict(section) for section in self.sections]
        self.report.say("\nThe VPC's own tools, for pods")
        rows = [(s.number, s.name, "OK" if s.ok else "FAILED", f"{s.seconds:.1f}", s.page) for s in self.sections]
        for line in table(("", "CAPABILITY", "VERDICT", "SECONDS", "PAGE"), rows):
            self.report.say(f"   {line}")

    def _fact(self, kind: str, text: str, held: bool, **more: str) -> None:
        section = self.sections[-1]
        section.seen.append({"what": text, "ok": held, **more})
        expected = f" (expected: {more['expected']})" if "expected" in more and not held else ""
        self._lines(kind, text + expected, "ok" if held else "NOT OK")
        if not held:
            self.report.failures.append(f"{section.number}. {section.name}: {text}{expected}")

    def _lines(self, kind: str, text: str, end: str = "") -> None:
        width = _FACT if end else WIDTH - 12
        first, *rest = textwrap.wrap(text, width, break_on_hyphens=False) or [""]
        self.report.say(f"    {kind:<8}{first:<{width}}  {end}".rstrip())
        for line in rest:
            self.report.say(f"    {'':<8}{line}")
