"""What the agent publishes for plugins: how to make a pod's links, and what takes a pod away again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from berth_node.config import Config
from berth_node.lending import Node
from berth_node.pair_file import PairFile
from berth_node.seams import Dataplane
from berth_node.unwire_files import UnwireFiles
from berth_node.verbs import Verbs

__all__ = ["PluginFiles"]


class PluginFiles:
    """Without any of the files the agent does everything itself."""

    def __init__(
        self,
        config: Config,
        dataplane: Dataplane,
        node: Node,
        verbs: Verbs,
        noting: Callable[..., AbstractContextManager[None]],
    ) -> None:
        """``noting`` takes down what kind of error goes on."""
        self._config, self._dataplane, self._node, self._verbs = config, dataplane, node, verbs
        self._noting = noting
        self._pair = PairFile(config.run_dir / "pair", self._form)
        self._unwire = UnwireFiles(config.run_dir / "unwire", lambda: verbs.desk.entries, dataplane.unwiring)

    def begin(self) -> None:
        """What a killed agent has left goes, and what there is by now is published."""
        with self._noting("plugins' files", OSError):
            self._unwire.clear()
        self.publish()

    def publish(self) -> None:
        """Have the files be as they should. To be called again every now and then."""
        with self._noting("plugins' form", OSError):
            self._pair.publish()
        if self._config.plugin_makes_links:
            with self._noting("word for plugins", OSError, ValueError):
                self._unwire.settle()

    def end(self) -> None:
        """The agent serves no more. Pods can still be taken away: the next agent finds them gone."""
        self._pair.withdraw()

    def _form(self) -> bytes:
        config, verbs, kernel = self._config, self._verbs, self._dataplane
        useful = not (verbs.ipv6_is_off and verbs.desk.prefixes.families != "ipv4")
        wanted = config.plugin_makes_links and useful and kernel.prompt() and not self._node.refusal
        return kernel.pair_form(config.mtu or kernel.primary_mtu()) if wanted else b""
