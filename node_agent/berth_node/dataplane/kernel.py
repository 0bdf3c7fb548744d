"""The seam's implementation on Linux: pods, routing, nftables and the reaper put together."""

from __future__ import annotations

from collections.abc import Iterable

from ..seams import Attachment, DataplaneError, NodeLayout, Problem, Wired
from . import routing
from .namespaces import Home
from .nft import NftError, NftTable, ruleset
from .notices import KernelNotices
from .pods import PodWiring
from .reaper import Reaper
from .repair import Repair
from .rtnl import Rtnl

__all__ = ["KernelDataplane"]


class KernelDataplane:
    """A :class:`berth_node.seams.Dataplane`. Make it, and call it, in the one thread that has the node's network
    namespace. Needs CAP_NET_ADMIN, and CAP_SYS_ADMIN for entering pods' namespaces."""

    def __init__(self) -> None:
        self._home = Home()
        self._reaper = Reaper()
        self._pods = PodWiring(self._home, self._reaper)
        self._nft = NftTable()
        self._rtnl = Rtnl()
        self._repair = Repair(self._rtnl)
        ports = (self._rtnl.port, self._pods.port, self._reaper.port)
        self._notices = KernelNotices(ports, self._pods.leaving)

    def configure(self, layout: NodeLayout) -> tuple[Problem, ...]:
        """See :meth:`berth_node.seams.Dataplane.configure`."""
        try:
            result, sweep = routing.configure(self._rtnl, layout, self._pods.links())
        except OSError as error:
            raise DataplaneError(f"reading the node's routing: {error}", temporary=True) from error
        problems = [*result.problems]
        try:
            self._nft.apply(ruleset(layout, result.marks, result.primary_link))
        except NftError as error:
            # stale rules stay as long as marks may still be set for them
            return (*problems, Problem("nftables", str(error)))
        return (*problems, *sweep())

    def repair(self, attachments: Iterable[Attachment]) -> tuple[Problem, ...]:
        """See :meth:`berth_node.seams.Dataplane.repair`."""
        try:
            problems = self._repair.run(attachments)
        except OSError as error:
            raise DataplaneError(f"reading the pods' links: {error}", temporary=True) from error
        self._reaper.wake()
        return problems

    def attach(self, attachment: Attachment) -> Wired:
        """See :meth:`berth_node.seams.Dataplane.attach`."""
        return self._pods.attach(attachment)

    def detach(self, attachment: Attachment) -> None:
        """See :meth:`berth_node.seams.Dataplane.detach`."""
        self._pods.detach(attachment)

    def check(self, attachment: Attachment) -> tuple[Problem, ...]:
        """See :meth:`berth_node.seams.Dataplane.check`."""
        return self._pods.check(attachment)

    def survey(self) -> tuple[Attachment, ...]:
        """See :meth:`berth_node.seams.Dataplane.survey`."""
        return self._pods.survey()

    def usable_macs(self) -> frozenset[str]:
        """See :meth:`berth_node.seams.Dataplane.usable_macs`."""
        return frozenset(link.mac for link in self._pods.links() if link.mac)

    def notices(self) -> KernelNotices:
        """See :meth:`berth_node.seams.Dataplane.notices`."""
        return self._notices

    def close(self) -> None:
        """See :meth:`berth_node.seams.Dataplane.close`."""
        self._notices.close()
        self._reaper.close()
        self._pods.close()
        self._rtnl.close()
        self._home.close()
