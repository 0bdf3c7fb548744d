"""The seam's implementation on Linux: pods, routing, nftables and the reaper put together."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from ..seams import Attachment, DataplaneError, NodeLayout, Problem, Rest, Wired
from . import pairs, proxies, routing, sysctl, verify
from .conntrack import Conntrack
from .namespaces import Home
from .nft import TABLE, NftError, NftTable, ruleset, ruleset6
from .notices import KernelNotices
from .own import OwnRules
from .pods import PodWiring, refused
from .ports import IPV6, HostPorts
from .reaper import Reaper
from .repair import Repair
from .rtnl import Rtnl

__all__ = ["KernelDataplane"]

_SMALL_MTU: Final = 1500
"""Until the primary link was seen: every interface of EC2 carries as much."""


class KernelDataplane:
    """A :class:`berth_node.seams.Dataplane`. Make it, and call it, in threads that have the node's network
    namespace, one at a time. Needs CAP_NET_ADMIN, and CAP_SYS_ADMIN for entering pods' namespaces."""

    def __init__(self) -> None:
        self._home = Home()
        self._reaper = Reaper()
        self._pods = PodWiring(self._home, self._reaper)
        self._nft, self._nft6 = NftTable(), NftTable("ip6")
        self._ipv6 = not self.ipv6_refusal()
        """Something of IPv6 may be there: left by an earlier process until the first look has found that it is not."""
        self._rtnl = Rtnl()
        self._ports, self._ports6 = HostPorts(), HostPorts(IPV6)
        self._conntrack = Conntrack()
        self._primary_mtu = _SMALL_MTU
        self._configured: tuple[NodeLayout, Mapping[int, int]] | None = None
        self._repair = Repair(self._rtnl)
        self._own = OwnRules(self._rtnl)
        ports = (self._rtnl.port, self._pods.port, self._reaper.port)
        self._notices = KernelNotices(ports, (self._ports.port, self._ports6.port), self._pods.leaving)

    def configure(self, layout: NodeLayout) -> tuple[Problem, ...]:
        """See :meth:`berth_node.seams.Dataplane.configure`."""
        try:
            links = self._pods.links()
            result, sweep = routing.configure(self._rtnl, layout, links, ipv6=self._ipv6)
        except OSError as error:
            raise DataplaneError(f"reading the node's routing: {error}", temporary=True) from error
        self._configured = layout, result.marks
        self._own.mask = layout.connection_mark
        self._primary_mtu = next((k.mtu for k in links if k.name == result.primary_link), self._primary_mtu)
        problems = [*result.problems, *proxies.unsupported(links, proxies.virtual_services())]
        try:
            self._nft.apply(ruleset(layout, result.marks, result.primary_link, result.own_links))
            self._apply6(layout, result)
        except NftError as error:
            # stale rules stay as long as marks may still be set for them
            return (*problems, Problem("nftables", str(error)))
        ports6 = self._ports6.restore() if layout.ipv6 or result.ipv6_rules else ()
        return (*problems, *self._ports.restore(), *ports6, *sweep())

    def _apply6(self, layout: NodeLayout, result: routing.Routing) -> None:
        """IPv6's table is there as long as its rules are: those are swept after it."""
        if layout.ipv6:
            self._notices.hear_ipv6()
        if layout.ipv6 or result.ipv6_rules:
            self._nft6.apply(ruleset6(layout, result.primary_link))
        self._ipv6 = layout.ipv6

    def repair(self, attachments: Iterable[Attachment]) -> tuple[Problem, ...]:
        """See :meth:`berth_node.seams.Dataplane.repair`."""
        attachments = tuple(attachments)
        try:
            problems = (
                *self._repair.run(attachments, ipv6=self._ipv6),
                *self._own.mend(attachments, self._pods.survey),
            )
        except OSError as error:
            raise DataplaneError(f"reading the pods' links: {error}", temporary=True) from error
        self._reaper.wake()
        return problems

    def attach(self, attachment: Attachment) -> Wired:
        """See :meth:`berth_node.seams.Dataplane.attach`."""
        wired = self._attach_own(attachment) if attachment.table else self._pods.attach(attachment)
        try:
            self._ports.add(attachment)
            self._ports6.add(attachment)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._ports.remove(attachment)
            self._pods.detach(attachment)
            if attachment.table:
                self._own.remove(attachment)
            raise refused(f"host ports {attachment.ports} of {attachment.address}", error) from error
        return wired

    def _attach_own(self, attachment: Attachment) -> Wired:
        self._own.add(attachment)
        try:
            wired = self._pods.attach(attachment)
            self._own.lodge(wired.host_ifindex, attachment.address)
            return wired
        except DataplaneError:
            for undo in (self._pods.detach, self._own.remove):
                with contextlib.suppress(DataplaneError):
                    undo(attachment)
            raise

    def pair_form(self, mtu: int) -> bytes:
        """See :meth:`berth_node.seams.Dataplane.pair_form`."""
        return pairs.form(self._home.inode, mtu)

    def rest(self, attachment: Attachment, index: int) -> Rest:
        """See :meth:`berth_node.seams.Dataplane.rest`."""
        return self._pods.rest(attachment, index)

    def wired_by_hand(self, attachment: Attachment, index: int) -> None:
        """See :meth:`berth_node.seams.Dataplane.wired_by_hand`."""
        self._pods.keep(attachment, index)

    def discard(self, index: int) -> None:
        """See :meth:`berth_node.seams.Dataplane.discard`."""
        self._pods.discard(index)

    def detach(self, attachment: Attachment) -> None:
        """See :meth:`berth_node.seams.Dataplane.detach`."""
        try:
            self._ports.remove(attachment)
            self._ports6.remove(attachment)
        except OSError as error:
            raise refused(f"taking back host ports of {attachment.address}", error) from error
        self._pods.detach(attachment)
        if attachment.table:
            self._own.remove(attachment)

    def check(self, attachment: Attachment) -> tuple[Problem, ...]:
        """See :meth:`berth_node.seams.Dataplane.check`."""
        ports = (*self._ports.check(attachment), *self._ports6.check(attachment))
        return (*self._pods.check(attachment), *ports, *self._check_node(attachment))

    def _check_node(self, attachment: Attachment) -> tuple[Problem, ...]:
        """What the pod needs of the node's routing, as it was last asked for; nothing before the first time."""
        if self._configured is None:
            return ()
        layout, marks = self._configured
        try:
            state, links = routing.read(self._rtnl, ipv6=layout.ipv6), routing.links_by_mac(self._pods.links())
        except OSError as error:
            raise refused(f"checking the routing of {attachment.address}", error) from error
        problems = list(self._own.check(attachment)) if attachment.table else []
        problems += [p for a in attachment.addresses for p in verify.missing(layout, marks, links, state, a)]
        for family, table in (("ip", self._nft), *([("ip6", self._nft6)] if layout.ipv6 else [])):
            if not table.intact():
                problems.append(Problem("nftables", f"the table {family} {TABLE} is not as Berth loaded it"))
        return tuple(problems)

    def whole(self, attachment: Attachment) -> bool:
        """See :meth:`berth_node.seams.Dataplane.whole`."""
        return self._pods.whole(attachment)

    def survey(self) -> tuple[Attachment, ...]:
        """See :meth:`berth_node.seams.Dataplane.survey`."""
        return self._pods.survey()

    def unwiring(self, attachment: Attachment) -> bytes:
        """See :meth:`berth_node.seams.Dataplane.unwiring`."""
        more = attachment.ports or attachment.table or attachment.annotations
        return b"" if more else self._pods.unwiring(attachment)

    def adopt(self, attachments: Iterable[Attachment]) -> None:
        """See :meth:`berth_node.seams.Dataplane.adopt`."""
        attachments = tuple(attachments)
        try:
            self._pods.adopt(attachments)
        except OSError as error:
            raise refused("listing the pods' links", error) from error
        self._ports.adopt(attachments)
        self._ports6.adopt(attachments)

    def flush_connections(self, addresses: Collection[str]) -> None:
        """See :meth:`berth_node.seams.Dataplane.flush_connections`."""
        try:
            self._conntrack.flush(addresses)
        except OSError as error:
            raise refused("forgetting the connections of returned addresses", error) from error

    def prompt(self) -> bool:
        """See :meth:`berth_node.seams.Dataplane.prompt`."""
        return self._pods.prompt

    def usable_macs(self) -> frozenset[str]:
        """See :meth:`berth_node.seams.Dataplane.usable_macs`."""
        return frozenset(link.mac for link in self._pods.links() if link.mac)

    def ipv6_refusal(self) -> str:
        """See :meth:`berth_node.seams.Dataplane.ipv6_refusal`."""
        for name in ("all", "default"):
            try:
                off = sysctl.read(f"conf/{name}/disable_ipv6", "ipv6") != "0"
            except OSError:
                return "the kernel has no IPv6 (it was started with ipv6.disable=1, or was built without)"
            if off:
                return f"IPv6 is switched off on this node; set net.ipv6.conf.{name}.disable_ipv6 to 0"
        return ""

    def notices(self) -> KernelNotices:
        """See :meth:`berth_node.seams.Dataplane.notices`."""
        return self._notices

    def primary_mtu(self) -> int:
        """See :meth:`berth_node.seams.Dataplane.primary_mtu`."""
        return self._primary_mtu

    def close(self) -> None:
        """See :meth:`berth_node.seams.Dataplane.close`."""
        self._notices.close()
        self._reaper.close()
        self._conntrack.close()
        self._pods.close()
        self._rtnl.close()
        self._ports.close()
        self._ports6.close()
        self._home.close()
