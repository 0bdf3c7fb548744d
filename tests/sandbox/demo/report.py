"""What the demo prints and writes: stages as they happen, tables, the connectivity matrix, ``build/demo.json``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

__all__ = ["Report", "Stage", "table"]


@dataclass(slots=True)
class Stage:
    """One stage of the demo; ``ok`` is False until it ended without an error."""

    name: str
    seconds: float = 0.0
    ok: bool = False


@dataclass(slots=True)
class Report:
    """Collects what the demo did and says it as it happens. ``figures`` become top-level keys of the JSON."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    stages: list[Stage] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def say(self, text: str = "") -> None:
        print(text, file=self.out, flush=True)

    def note(self, text: str) -> None:
        """A line of progress inside a stage."""
        self.say(f"    {text}")

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Run one stage. An error marks it failed and goes on up."""
        stage = Stage(name)
        self.stages.append(stage)
        self.say(f"\n[{len(self.stages)}] {name}")
        begun = time.monotonic()
        try:
            yield stage
            stage.ok = True
        finally:
            stage.seconds = round(time.monotonic() - begun, 2)
            self.note(f"{'done' if stage.ok else 'FAILED'} in {stage.seconds:.1f} s")

    def fail(self, what: str) -> None:
        """Something that had to hold did not. The demo goes on where it can, and ends with exit code 1."""
        self.failures.append(what)
        self.note(f"NOT OK: {what}")

    def expect(self, holds: bool, what: str) -> None:
        """Note ``what`` as a fact when it holds, as a failure when it does not."""
        if holds:
            self.note(f"ok: {what}")
        else:
            self.fail(what)

    @property
    def ok(self) -> bool:
        return not self.failures and all(stage.ok for stage in self.stages)

    def document(self) -> dict[str, Any]:
        """The JSON document: figures, stages, failures and the verdict."""
        stages = [{"name": s.name, "seconds": s.seconds, "ok": s.ok} for s in self.stages]
        return {**self.figures, "stages": stages, "failures": self.failures, "ok": self.ok}

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self.document(), indent=2, sort_keys=True) + "\n")
        partial.replace(path)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a left-aligned text table."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(head), *texts]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    return [line(head), line(["-" * width for width in widths]), *map(line, texts)]
