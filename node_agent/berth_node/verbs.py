"""What each CNI command does: validation is done (:mod:`berth_node.skel`), the desk decides, the data plane wires.

Requests of one container run one after the other; a DEL first cancels an ADD that still waits for an address.

An ADD is answered when the kernel has all of the pod, a DEL when it has nothing of it any more: both before the journal
says so. Killed in between, the next start goes by the kernel: the pod keeps its address, or gives it back.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from berth_node import portmap, skel
from berth_node.desk import UNKNOWN, Desk
from berth_node.hand import Hand, HangUpError
from berth_node.journal import JournalError
from berth_node.lending import Lending, Node
from berth_node.measures import Measures
from berth_node.metrics import Histogram
from berth_node.names import alias_key
from berth_node.pod import Pod
from berth_node.pool import Key
from berth_node.requests import (
    compare_grant,
    compare_result,
    log_unknown_annotations,
    refuse_public_address,
    refuse_security_groups,
    valid_attachments,
)
from berth_node.seams import Attachment, Dataplane, DataplaneError, Wired
from berth_node.skel import Call, CniError
from berth_node.turns import Turn
from berth_node.unwritten import Unwritten

__all__ = ["Reply", "Rtnl", "Verbs"]

_log = logging.getLogger(__name__)

_A = TypeVar("_A")
_R = TypeVar("_R")
Reply = Callable[[dict[str, Any] | None], bool]
"""Sends the answer; False if the plugin has hung up and nobody will ever read it."""


class Rtnl(Protocol):
    """Runs a blocking call of the data plane in its one thread."""

    def __call__(self, call: Callable[[_A], _R], argument: _A, /) -> Awaitable[_R]: ...


class AtOnce(Protocol):
    """Runs such a call here and now; None if the data plane is busy: nothing was done."""

    def __call__(self, call: Callable[[_A], _R], argument: _A, /) -> tuple[_R] | None: ...


def _cancelled() -> CniError:
    return CniError(skel.TRY_AGAIN_LATER, "cancelled by a DEL of this container")


def _result(call: Call, attachment: Attachment, wired: Wired) -> dict[str, Any]:
    return skel.result_body(
        call,
        addresses=attachment.addresses,
        host=(attachment.host_ifname, wired.host_mac),
        pod_mac=wired.pod_mac,
        mtu=attachment.mtu,
    )


async def _nothing() -> Collection[Key]:
    return ()


def _never(_call: Callable[[_A], _R], _argument: _A, /) -> tuple[_R] | None:
    return None


@dataclass(slots=True)
class Verbs:
    """The commands. ``patience`` is how long an ADD waits for an address, seconds; ``mtu`` 0 is the primary link's."""

    desk: Desk
    dataplane: Dataplane
    rtnl: Rtnl
    node: Node
    patience: float = 45.0
    mtu: int = 0
    at_once: AtOnce = _never
    waits: Histogram = field(default_factory=lambda: Measures().waits)
    kept: Callable[[], Awaitable[Collection[Key]]] = _nothing
    """Does the DELs of pods that their plugins have taken from the kernel (:mod:`berth_node.spool`); whose could not be
    done."""
    ipv6_is_off: bool = False
    """The runtime makes namespaces in which IPv6 is off: for pods that have it, plugins' pairs are only in the way."""
    lending: Lending = field(init=False)
    left: Unwritten = field(init=False)
    _turns: dict[str, list[asyncio.Lock]] = field(default_factory=dict)
    _hands: dict[Key, Hand] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.lending = Lending(self.desk, self.node, self.patience, self.waits)
        self.left = Unwritten(self.desk)

    async def run(
        self, call: Call, netns_fd: int | None, gone: asyncio.Event, reply: Reply, hand: Hand | None = None
    ) -> None:
        """Do what was asked and reply. Raises :class:`CniError` when there is an error to reply.

        ``hand``: the plugin makes the pod's links meanwhile, and can do the rest of them.
        """
        try:
            match call.command:
                case "ADD":
                    await self._add(call, netns_fd, gone, reply, hand)
                case "DEL":
                    await self._delete(call.key, lambda: reply(None))
                case "CHECK":
                    await self._check(call, netns_fd)
                    reply(None)
                case "GC":
                    await self._collect(call)
                    reply(None)
                case "STATUS":
                    if not self.node.ready:
                        raise CniError(skel.NOT_AVAILABLE, self.node.why_not_ready())
                    reply(None)
                case _:
                    reply(skel.versions_body())
        except JournalError as error:
            raise CniError(skel.IO_FAILURE, str(error)) from error
        except DataplaneError as error:
            code = skel.TRY_AGAIN_LATER if error.temporary else skel.WIRING_FAILED
            raise CniError(code, f"the kernel refused: {error}") from error

    def _container(self, container_id: str) -> Turn:
        """To be entered: requests of one container take turns."""
        return Turn(self._turns, container_id)

    async def _wire(self, call: Callable[[Attachment], _R], attachment: Attachment) -> _R:
        """Attach or detach: at once if that is over soon and nobody else is at it, else in the data plane's thread.

        Host ports are not always over soon: their table may have to be loaded.
        """
        soon = not attachment.ports and self.dataplane.prompt()
        done = self.at_once(call, attachment) if soon else None
        return done[0] if done else await self.rtnl(call, attachment)

    # ------------------------------------------------------------------------------------------------- ADD

    async def _add(
        self, call: Call, netns_fd: int | None, gone: asyncio.Event, reply: Reply, hand: Hand | None
    ) -> None:
        if netns_fd is None:
            raise CniError(skel.INVALID_NETNS, f"CNI_NETNS {call.netns!r} cannot be opened")
        if self.node.refusal:
            raise CniError(skel.TRY_AGAIN_LATER, self.node.refusal)
        pod = Pod(
            call.key,
            namespace=call.pod.get("K8S_POD_NAMESPACE", ""),
            name=call.pod.get("K8S_POD_NAME", ""),
            uid=call.pod.get("K8S_POD_UID", ""),
            mtu=self.mtu or self.dataplane.primary_mtu(),
            ports=portmap.encode(call.ports),
            annotations=call.annotations,
        )
        if pod.annotations:
            log_unknown_annotations(pod, self._told)
            refuse_public_address(pod, self.desk)
            refuse_security_groups(pod, self.desk)
        # a container that is started again, or its ADD is asked again
        if self.desk.entry(call.key) and call.key in await self.kept():
            raise CniError(skel.TRY_AGAIN_LATER, "a DEL of this container could not be done yet")
        async with self._container(call.container_id):
            entry = self.left.still(self.desk.entry(call.key))
            attachment = entry.attachment if entry else await self._lend(pod, gone, hand)
            if hand and entry is None and await self._by_hand(call, attachment, hand):
                return
            # attach is idempotent: asking again for a pod that is wired only reads its MACs back.
            known = wired = entry.wired if entry else None
            if wired is None or not wired.pod_mac:
                wired = await self._attach(replace(attachment, netns_fd=netns_fd), fresh=wired is None)
            answered = not gone.is_set() and reply(_result(call, attachment, wired))
            if wired is not known:
                self.left.wired(attachment.key, wired)
                self.node.pool_changed()
            if not answered and entry is None:
                _log.info("plugin hung up: undoing its ADD", extra={"container": call.container_id})
                await self._remove(attachment)

    async def _lend(self, pod: Pod, gone: asyncio.Event, hand: Hand | None) -> Attachment:
        try:
            return await self.lending.lend(pod, gone)
        except CniError:
            if hand and gone.is_set():
                await self.rtnl(self.dataplane.discard, hand.pair.index)  # its plugin cannot any more
            raise

    async def _by_hand(self, call: Call, attachment: Attachment, hand: Hand) -> bool:
        """Have the plugin wire the pod and answer. False if the agent is to do both; else it is done, or undone."""
        useless = self.ipv6_is_off and ":" in attachment.addresses[-1]
        if useless or not (hand.fits(attachment) and self.dataplane.prompt()):
            return False
        key, rest = attachment.key, self.dataplane.rest(attachment, hand.pair.index)
        self._hands[key] = hand
        try:
            if not await hand.carry_out(rest, skel.encode(_result(call, attachment, rest.wired))):
                if hand.refusal == errno.EACCES:
                    self.ipv6_is_off = True
                return False
            self.dataplane.wired_by_hand(attachment, hand.pair.index)
            self.left.wired(key, rest.wired)
        except HangUpError as error:
            _log.info("undoing an ADD that its plugin wired", extra={"container": key[0], "why": str(error)})
            await self.rtnl(self.dataplane.discard, hand.pair.index)
            self.left.free(key)
            if error.by_del:
                raise _cancelled() from None
        finally:
            del self._hands[key]
        self.node.pool_changed()
        return True

    async def _attach(self, attachment: Attachment, *, fresh: bool) -> Wired:
        """Wire a pod.

        Only a refusal frees the address, since attach has undone everything then. After anything else (the agent is
        stopping, a bug) the entry stays without its ``wired`` mark: the DEL that follows, the ADD that is asked again,
        or the next start sees what the kernel has. A pod found in the kernel alone (``fresh`` is False) keeps its
        address in any case.
        """
        try:
            return await self._wire(self.dataplane.attach, attachment)
        except DataplaneError:
            if fresh:
                self.left.forget(attachment.key)
                self.desk.free(attachment.key, used=False)
                self.node.pool_changed()
            raise

    # --------------------------------------------------------------------------------------- DEL, GC, CHECK

    async def _delete(self, key: Key, gone: Callable[[], object] = lambda: None) -> None:
        self.lending.queue.refuse(key, _cancelled())
        if key in self._hands:
            self._hands[key].let_go("a DEL came", by_del=True)
        try:
            async with self._container(key[0]):
                entry = self.desk.entry(key)
                if entry:
                    await self._remove(entry.attachment, gone)
                else:
                    gone()
                    self.desk.deleted(key)
        finally:
            self.lending.queue.allow(key)

    async def _remove(self, attachment: Attachment, gone: Callable[[], object] = lambda: None) -> None:
        """``gone`` is called when the kernel has nothing of it."""
        await self._wire(self.dataplane.detach, attachment)
        gone()
        self.left.free(attachment.key)
        self.node.pool_changed()

    async def delete_spooled(self, key: Key, index: int = 0) -> None:
        """A DEL that the plugin kept. With the ``index`` of a host link, which it has buried: of that very pod. Another
        DEL may have freed that since, and the container have been started again."""
        entry = self.desk.entry(key)
        if not index or (entry and entry.wired and entry.wired.host_ifindex in (index, UNKNOWN.host_ifindex)):
            await self._delete(key)

    async def remove(self, attachment: Attachment) -> None:
        """Take away a pod that the runtime has lost, unless something else has become of it meanwhile."""
        async with self._container(attachment.container_id):
            entry = self.desk.entries.get(attachment.key)
            if entry and entry.attachment == attachment:
                await self._remove(attachment)

    async def _collect(self, call: Call) -> None:
        """GC: remove every pod that is not listed. Goes on after an error and reports the first.

        Only pods wired before the call started count: an ADD in progress is younger than the runtime's list.
        """
        valid = valid_attachments(call)
        stale = [key for key, entry in self.desk.entries.items() if entry.wired and alias_key(key) not in valid]
        errors: list[Exception] = []
        for key in stale:
            _log.info("garbage collection removes a pod", extra={"container": key[0]})
            try:
                await self._delete(key)
            except (DataplaneError, JournalError) as error:
                errors.append(error)
        if errors:
            raise CniError(
                skel.WIRING_FAILED, f"{len(errors)} of {len(stale)} stale pods could not be removed: {errors[0]}"
            )

    async def _check(self, call: Call, netns_fd: int | None) -> None:
        previous = call.config.get("prevResult")
        if previous is None:
            raise CniError(skel.INVALID_CONFIG, "CHECK needs 'prevResult', the result of the ADD, in the configuration")
        async with self._container(call.container_id):
            entry = self.desk.entry(call.key)
            if entry is None or (entry.wired is None and call.key not in self.left):
                raise CniError(
                    skel.UNKNOWN_CONTAINER, f"no ADD of {call.container_id} {call.ifname} is known; recreate the pod"
                )
            problems = [*compare_result(entry, previous), *compare_grant(call.key, self.desk)]
            problems += [
                f"{p.where}: {p.message}"
                for p in await self.rtnl(self.dataplane.check, replace(entry.attachment, netns_fd=netns_fd))
            ]
        if problems:
            raise CniError(
                skel.CHECK_FAILED, "the pod's network is not as ADD left it; recreate it", "; ".join(problems)
            )
