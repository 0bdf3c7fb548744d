"""What the agent publishes for plugins: how to make a pod's links, and what takes a pod away again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from berth_node.pair_file import PairFile
from berth_node.unwire_files import UnwireFiles

__all__ = ["PluginFiles"]


@dataclass(frozen=True, slots=True)
class PluginFiles:
    """``noting`` takes down what kind of error goes on. Without any of the files the agent does everything itself."""

    pair: PairFile
    unwire: UnwireFiles
    wanted: bool
    noting: Callable[..., AbstractContextManager[None]]

    def begin(self) -> None:
        """What a killed agent has left goes, and what there is by now is published."""
        with self.noting("plugins' files", OSError):
            self.unwire.clear()
        self.publish()

    def publish(self) -> None:
        """Have the files be as they should. To be called again every now and then."""
        with self.noting("plugins' form", OSError):
            self.pair.publish()
        if self.wanted:
            with self.noting("word for plugins", OSError, ValueError):
                self.unwire.settle()

    def end(self) -> None:
        """The agent serves no more. Pods can still be taken away: the next agent finds them gone."""
        self.pair.withdraw()
