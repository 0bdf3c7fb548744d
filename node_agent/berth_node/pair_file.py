"""The file by which plugins know that they may make pods' links, and how (``cni/pair.c``).

It is there while an agent serves that wants it so. A plugin that goes by an old one is only slower: the agent makes the
links anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from berth_node.durable import write_atomically

__all__ = ["PairFile"]


@dataclass(slots=True)
class PairFile:
    """``form`` is what is to be in it by now, b"" for no file; see :meth:`berth_node.seams.Dataplane.pair_form`."""

    path: Path
    form: Callable[[], bytes]
    _written: bytes | None = field(default=None)

    def publish(self) -> None:
        """Write it, or take it away, if it is not as it should be. Raises ``OSError``."""
        wanted = self.form()
        if wanted == self._written:
            return
        if wanted:
            write_atomically(self.path, wanted, 0o600)
        else:
            self.withdraw()
        self._written = wanted

    def withdraw(self) -> None:
        """Take it away. Gone already is fine."""
        self.path.unlink(missing_ok=True)
        self._written = None
