"""One pod's wiring: a veth pair; in the pod a /32 or /128 and a link-local gateway; on the host a route and neighbour.

ADD is three ``sendmsg`` (host, pod, host), whichever families the pod has. The alias of the host end names the
attachment, so that the kernel itself is a witness of who holds which address, and a name met again can be told from a
leftover.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Iterator
from typing import Final

from ..seams import (
    FIRST_PAIR_INDEX,
    POD_GATEWAY,
    POD_GATEWAY6,
    PODS_TABLE,
    Attachment,
    DataplaneError,
    Problem,
    Rest,
    Wired,
)
from . import alias, batches, messages, pairs, sysctl
from .batches import Wiring
from .checking import find, holds, host_problems, mac_of_pod, pod_problems
from .messages import Link, VethEnd, packed
from .namespaces import Home
from .reaper import Reaper
from .rtnl import Rtnl, RtnlError

__all__ = ["FIRST_INDEX", "PODS_TABLE", "PodWiring", "is_ours", "macs"]

_GATEWAY: Final = packed(POD_GATEWAY)
_GATEWAY6: Final = packed(POD_GATEWAY6)
_GATEWAYS: Final = {len(_GATEWAY): _GATEWAY, len(_GATEWAY6): _GATEWAY6}
FIRST_INDEX: Final = 1 << 20
"""Pods' links have higher indexes; those that the kernel numbers by itself never come near."""
_ATTEMPTS: Final = 4
_CARRIER_SECONDS: Final = 2.5
_SLOW_SECONDS: Final = 60.0
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT})
_GONE: Final = frozenset({errno.ESRCH, errno.ENODEV})
_TEMPORARY: Final = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOBUFS, errno.ENOMEM})


def refused(action: str, error: OSError) -> DataplaneError:
    """A kernel's refusal as the seam's error."""
    return DataplaneError(f"{action}: {error}", temporary=error.errno in _TEMPORARY)


def macs(index: int) -> tuple[bytes, bytes]:
    """The MACs of host end and pod end of the pair whose host end has this index: either can be told from the link."""
    number = index.to_bytes(4, "big")
    return b"\x02\xbe" + number, b"\x02\xbf" + number


class PodWiring:
    """Wires pods of the network namespace of the thread that makes this. One thread uses it at a time."""

    def __init__(self, home: Home, reaper: Reaper) -> None:
        self._home = home
        self._reaper = reaper
        self._rtnl = Rtnl()
        self._made: dict[tuple[str, ...], int] = {}
        """Host links that this process made, by attachment: no other link ever gets such an index while it lives."""
        self.leaving: set[int] = set()
        """Indexes of host links that this process takes away: what the kernel tells of them is no news."""
        self._slow_until = 0.0
        # chosen indexes let every message be packed before the first answer; above every index there is, none of
        # them can meet a link that is not ours
        there = tuple(self._links())
        self._index = max([FIRST_INDEX, *(link.index for link in there if link.index < FIRST_PAIR_INDEX)])
        for link in there:
            if is_ours(link):
                reaper.quiet(link.name)
            if _is_unnamed_pair(link):
                # its plugin died with an agent before this one; one that lives has it made anew
                self._rtnl.batch([messages.link_down(link.index), messages.link_bury(link.index)], ignore=_GONE)
                reaper.wake()

    @property
    def prompt(self) -> bool:
        """The kernel makes links able to send as soon as it is asked about them: nothing here sleeps. After a link that
        was late, not for a while."""
        return time.monotonic() >= self._slow_until

    @property
    def port(self) -> int:
        """The port of the socket that wires pods."""
        return self._rtnl.port

    def close(self) -> None:
        """Close the socket."""
        self._rtnl.close()

    # ------------------------------------------------------------------------------------------------- attach

    def attach(self, attachment: Attachment) -> Wired:
        """See :meth:`berth_node.seams.Dataplane.attach`."""
        who = f"wiring {attachment.address} for container {attachment.container_id[:12]}"
        if attachment.netns_fd is None:
            raise DataplaneError(f"{who}: the pod's network namespace is not known; pass its descriptor")
        try:
            with self._home.call_in(attachment.netns_fd, Rtnl) as pod:
                for _ in range(_ATTEMPTS):
                    wired = self._make(attachment, attachment.netns_fd, pod) or self._give_way(attachment, pod)
                    if wired is not None:
                        return wired
        except OSError as error:
            raise refused(who, error) from error
        raise DataplaneError(f"{who}: the name {attachment.host_ifname} keeps being taken", temporary=True)

    def _make(self, attachment: Attachment, netns_fd: int, pod_side: Rtnl) -> Wired | None:
        """Wire it from nothing. None if a name was taken; then nothing was made."""
        self._index += 2
        wiring = _wiring(attachment, self._index, netns_fd)
        host, ips = wiring.host, wiring.ips
        try:
            batch = batches.wire_host(self._rtnl.numbers(batches.host_requests(ips)), wiring)
            self._rtnl.send(batch, _NO_IPV6 if len(ips[-1]) == 4 else frozenset())
        except RtnlError as error:
            if error.index == 0 and error.errno == errno.EEXIST:
                return None
            if error.index > 0:
                self._delete(host.index)
            raise
        try:
            pod_side.send(batches.wire_pod(pod_side.numbers(batches.pod_requests(ips)), wiring))
            self._await_carrier(host.index)
        except RtnlError as error:
            self._delete(host.index)
            if error.errno == errno.EACCES and self._home.call_in(netns_fd, _switch_ipv6_on):
                return self._make(attachment, netns_fd, pod_side)
            raise
        except BaseException:
            self._delete(host.index)
            raise
        self.keep(attachment, host.index)
        return _wired(wiring)

    def rest(self, attachment: Attachment, index: int) -> Rest:
        """See :meth:`berth_node.seams.Dataplane.rest`."""
        wiring = _wiring(attachment, index)
        return Rest(_wired(wiring), pairs.finish(wiring), errno.EAFNOSUPPORT if len(wiring.ips[-1]) == 4 else 0)

    def keep(self, attachment: Attachment, index: int) -> None:
        """A pod is whole, whoever has made it: its host link is known from here on."""
        self._made[_id(attachment)] = index
        self._reaper.quiet(attachment.host_ifname)

    def discard(self, index: int) -> None:
        """See :meth:`berth_node.seams.Dataplane.discard`."""
        try:
            self._delete(index)
        except OSError as error:
            raise refused(f"deleting the link {index}", error) from error

    def _await_carrier(self, index: int) -> None:
        """Wait until the host end can send.

        Its queue is attached by deferred work, and a packet sent before that is lost: one second until TCP tries
        again. Current kernels run that work in RTM_GETLINK itself, so the first look is enough; older ones take up
        to a second.
        """
        deadline = time.monotonic() + _CARRIER_SECONDS
        while messages.operstate(self._rtnl.get(messages.get_link(index=index))) != messages.OPERSTATE_UP:
            if time.monotonic() > deadline:
                raise OSError(errno.EAGAIN, "the host link did not come up")
            self._slow_until = time.monotonic() + _SLOW_SECONDS
            time.sleep(0.002)

    def _give_way(self, attachment: Attachment, pod_side: Rtnl) -> Wired | None:
        """Somebody holds a name. Ours and whole: it is the answer. A leftover: delete it, so that we can try again."""
        link, there = self._find(attachment.host_ifname), find(pod_side, attachment.ifname) is not None
        if link is None:
            if there:
                raise DataplaneError(
                    f"the pod already has an interface {attachment.ifname} whose host end is not "
                    f"{attachment.host_ifname}; another plugin made it, or the namespace is used twice"
                )
            return None
        if link.kind != "veth":
            raise DataplaneError(
                f"the node has an interface {link.name} ({link.kind or 'a device'}) that is no veth; rename it"
            )
        if _dead(link) and not there:
            aside = messages.link_rename(link.index, f"berth-{link.index:08x}")
            self._rtnl.batch([messages.link_down(link.index), aside], ignore=_GONE)
            return None  # the reaper has not come by yet
        if not _dead(link) and not self.check(attachment):
            return Wired(
                host_mac=link.mac, pod_mac=mac_of_pod(self._rtnl, link, attachment).hex(":"), host_ifindex=link.index
            )
        self._delete(link.index)
        return None

    def _delete(self, index: int) -> None:
        self.leaving.add(index)
        self._rtnl.batch([messages.link_delete(index)], ignore=_GONE)
        self.leaving.discard(index)  # newer kernels name us as the cause, and then nobody hears of it

    # ------------------------------------------------------------------------------------------------- detach

    def detach(self, attachment: Attachment) -> None:
        """See :meth:`berth_node.seams.Dataplane.detach`."""
        try:
            index = self._made.pop(_id(attachment), 0) or self._found(attachment)
            if not index:
                return
            self.leaving.add(index)
            ips = tuple([packed(address) for address in attachment.addresses])
            number = self._rtnl.numbers(batches.unwire_requests(ips))
            if not self._rtnl.send(batches.unwire(number, index, ips, attachment.table or PODS_TABLE), ignore=_GONE):
                self.leaving.discard(index)  # it has gone already, with the pod's namespace
        except OSError as error:
            raise refused(f"unwiring {attachment.address}", error) from error
        self._reaper.wake()

    def unwiring(self, attachment: Attachment) -> bytes:
        """See :meth:`berth_node.seams.Dataplane.unwiring`."""
        index = self._made.get(_id(attachment))
        if not index or attachment.ifname != pairs.FORM_IFNAME:
            return b""
        ips = tuple([packed(address) for address in attachment.addresses])
        return pairs.unwiring(self._home.inode, attachment.container_id, index, ips, PODS_TABLE)

    def adopt(self, attachments: Iterable[Attachment]) -> None:
        """See :meth:`berth_node.seams.Dataplane.adopt`: their host links are known from here on."""
        by_name = {attachment.host_ifname: attachment for attachment in attachments}
        for link in self._links():
            held = by_name.get(link.name)
            if held and not _dead(link) and holds(link, held):
                self._made[_id(held)] = link.index

    def _found(self, attachment: Attachment) -> int:
        """The host link of a pod that an earlier process wired, 0 if there is none: its name may be a later
        container's by now. A plugin's pair that has no alias is deleted, whosever it is: what its plugin still does to
        it is refused then, and done by the agent that the plugin asks."""
        link = self._find(attachment.host_ifname)
        if link is None or _dead(link):
            return 0
        if _is_unnamed_pair(link):
            self._delete(link.index)
            return 0
        return link.index if holds(link, attachment) else 0

    # ------------------------------------------------------------------------------------------------ witness

    def survey(self) -> tuple[Attachment, ...]:
        """See :meth:`berth_node.seams.Dataplane.survey`."""
        try:
            found = [alias.decode(k.alias, k.name, k.mtu) for k in self._links() if k.alias and not _dead(k)]
        except OSError as error:
            raise refused("listing the pods' links", error) from error
        return tuple(sorted((a for a in found if a is not None), key=lambda a: a.key))

    def whole(self, attachment: Attachment) -> bool:
        """See :meth:`berth_node.seams.Dataplane.whole`."""
        try:
            link = self._find(attachment.host_ifname)
        except OSError as error:
            raise refused(f"looking at the link of {attachment.address}", error) from error
        named = link is not None and not _dead(link) and holds(link, attachment)
        return named and link is not None and link.operstate == messages.OPERSTATE_UP

    def links(self) -> tuple[Link, ...]:
        """The links that are not pods': the node's own interfaces."""
        try:
            return tuple(k for k in self._links() if not _dead(k) and alias.decode(k.alias, k.name, k.mtu) is None)
        except OSError as error:
            raise refused("listing the node's links", error) from error

    def check(self, attachment: Attachment) -> tuple[Problem, ...]:
        """See :meth:`berth_node.seams.Dataplane.check`."""
        try:
            link = self._find(attachment.host_ifname)
            if link is None:
                return (Problem(attachment.host_ifname, "the host link is gone; delete the pod"),)
            problems = list(host_problems(self._rtnl, link, attachment))
            if attachment.netns_fd is not None:
                with self._home.call_in(attachment.netns_fd, Rtnl) as pod:
                    problems += pod_problems(pod, link, attachment, mac_of_pod(self._rtnl, link, attachment))
        except OSError as error:
            raise refused(f"checking {attachment.address}", error) from error
        return tuple(problems)

    def _find(self, name: str) -> Link | None:
        return find(self._rtnl, name)

    def _links(self) -> Iterator[Link]:
        return (Link.parse(reply) for reply in self._rtnl.dump(messages.dump_links()))


def _switch_ipv6_on() -> bool:
    """In a pod's namespace. Some runtimes switch it off in what they make, since most pods have IPv4 alone; then an
    address is refused (EACCES). False if it was on."""
    return any(sysctl.ensure(f"conf/{name}/disable_ipv6", "0", "ipv6") for name in ("all", "default"))


def _wiring(attachment: Attachment, index: int, netns_fd: int = -1) -> Wiring:
    host, pod = macs(index)
    ips = tuple([packed(address) for address in attachment.addresses])
    return Wiring(
        VethEnd(attachment.host_ifname, host, index),
        VethEnd(attachment.ifname, pod, index + 1),
        netns_fd,
        attachment.mtu,
        ips,
        tuple([_GATEWAYS[len(ip)] for ip in ips]),
        attachment.table or PODS_TABLE,
        alias.encode(attachment),
    )


def _wired(w: Wiring) -> Wired:
    return Wired(host_mac=w.host.mac.hex(":"), pod_mac=w.pod.mac.hex(":"), host_ifindex=w.host.index)


def _id(attachment: Attachment) -> tuple[str, ...]:
    return (*attachment.key, *attachment.addresses)


def _dead(link: Link) -> bool:
    return link.group == messages.REAP_GROUP


def is_ours(link: Link) -> bool:
    """Whether it is a pod's host end that Berth has made, whatever it says of itself."""
    return link.kind == "veth" and link.mac == macs(link.index)[0].hex(":")


def _is_unnamed_pair(link: Link) -> bool:
    """Made by a plugin that has not been told whose it is, or did not get to writing it."""
    return link.index >= FIRST_PAIR_INDEX and not link.alias and is_ours(link)
