"""What follows a change of the pool: blocks surrendered, waiting pods served, readiness told, a report asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from berth_node import conflist
from berth_node.chain import Chain
from berth_node.config import Config
from berth_node.desk import Desk
from berth_node.reporter import Reporter
from berth_node.watcher import Watcher

__all__ = ["Settling"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Settling:
    """The node as :class:`berth_node.verbs.Verbs` sees it. ``mark`` is the file that says so to the plugin.

    ``serve_waiting`` and ``reporter`` are given before the first change: both need a node to be made.
    """

    config: Config
    desk: Desk
    watcher: Watcher
    mark: Path
    chain: Chain
    ready: bool = False
    reporter: Reporter = field(init=False)
    serve_waiting: Callable[[], None] = field(init=False)
    _asked: bool = False

    def pool_changed(self) -> None:
        """Addresses were lent, returned or are missing. What follows is done once for a burst of changes."""
        if not self._asked:
            self._asked = True
            asyncio.get_running_loop().call_soon(self.settle)

    def settle(self) -> None:
        """Take back or surrender, serve who waits, become ready, tell."""
        self._asked = False
        if not self.ready and self.desk.can_lend and not self.watcher.refusal:
            self._become_ready()
        surrendered = self.desk.balance()
        self.serve_waiting()
        pool, last, revision = self.desk.pool, self.reporter.last, self.watcher.applied_revision
        if revision is None:
            return
        if (
            last is None
            or surrendered
            or revision != last.acknowledged_revision
            or self.desk.requests.listed != last.requests
            or (pool.deficit > 0 and pool.need > last.in_use + len(last.waiting))
        ):
            self.reporter.notify(urgent=True)
        else:
            self.reporter.notify()  # sends only if there is something new to say

    def beat(self) -> None:
        """Say again that the node is ready: the plugin trusts a mark of the last minute alone."""
        self.mark.touch()
        self.publish()

    def publish(self) -> None:
        """Put the CNI configuration where the runtime finds it; withdraw it for as long as the node is not ready."""
        try:
            if self.ready:
                conflist.publish(self.config.cni_config, self.config.cni_version, self.chain.links)
                self._note_chain()
            else:
                conflist.withdraw(self.config.cni_config)
        except (OSError, ValueError) as error:
            self.watcher.note("CNI configuration", error)

    def _note_chain(self) -> None:
        self.watcher.trouble.pop("CNI configuration", None)
        if self.chain.trouble:
            self.watcher.note("CNI configuration", ValueError("; ".join(self.chain.trouble.values())))

    def _become_ready(self) -> None:
        """The mark first: killed before the configuration is there, the next heartbeat or start writes it."""
        self.ready = True
        self.beat()
        _log.info("ready: addresses can be lent", extra={"free": self.desk.pool.free})

    @property
    def refusal(self) -> str:
        """See :attr:`berth_node.watcher.Watcher.refusal`."""
        return self.watcher.refusal

    def why_not_ready(self) -> str:
        """In words, for STATUS, for an ADD that found nothing, and for ``berth-node status``."""
        if self.refusal:
            return self.refusal
        watcher, pool, prefixes = self.watcher, self.desk.pool, self.desk.prefixes
        if watcher.applied_revision is None:
            troubles = "; ".join(f"{what}: {why}" for what, why in watcher.trouble.items())
            tagged = "the instance must have the tag kubernetes.io/cluster/<name>, and the stack must be deployed"
            return f"the node has no record yet ({troubles or tagged})"
        if prefixes.families != "ipv4" and not prefixes.usable:
            return prefixes.why
        if prefixes.families == "ipv6":
            return f"{len(self.desk.entries)} pods have IPv6 addresses, at most {pool.policy.max_pods} can"
        if not pool.blocks:
            return "the node's record lists no address yet; the reconcile function assigns them"
        if not pool.lendable:
            return "no address of the record is usable: metadata or links do not show them, or they are being released"
        if pool.free:
            return "addresses are free"
        cooling = f", {len(pool.cooling)} cool down" if pool.cooling else ""
        return f"no address is free: {len(pool.lent)} are lent{cooling}"
