"""What each CNI command does: validation is done (:mod:`berth_node.skel`), the desk decides, the data plane wires.

Requests of one container run one after the other; a DEL first cancels an ADD that still waits for an address.

An ADD is answered when the kernel has all of the pod, a DEL when it has nothing of it any more: both before the journal
says so. Killed in between, the next start goes by the kernel: the pod keeps its address, or gives it back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from berth_node import portmap, skel
from berth_node.asking import Waits
from berth_node.desk import Desk, Pod
from berth_node.journal import JournalError
from berth_node.measures import Measures
from berth_node.metrics import Histogram
from berth_node.names import alias_key
from berth_node.pool import Key
from berth_node.requests import (
    compare_grant,
    compare_result,
    log_unknown_annotations,
    refuse_lost_ports,
    refuse_public_address,
    refuse_security_groups,
    refuse_taken_ports,
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


def _key(attachment: Attachment) -> Key:
    return attachment.container_id, attachment.ifname


def _never(_call: Callable[[_A], _R], _argument: _A, /) -> tuple[_R] | None:
    return None


class Node(Protocol):
    """What the verbs need from the agent besides desk and kernel."""

    @property
    def ready(self) -> bool:
        """An address of this boot was usable once."""

    @property
    def refusal(self) -> str:
        """Why no pod is to be made here, in words; "" if pods may be."""

    def pool_changed(self) -> None:
        """Addresses were lent, returned or are missing: report, poll, serve."""

    def why_not_ready(self) -> str:
        """In words, for STATUS and for an ADD that found nothing."""


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
    grants: Waits = field(default_factory=Waits)
    left: Unwritten = field(init=False)
    _waiting: dict[Key, tuple[Pod, asyncio.Future[Attachment]]] = field(default_factory=dict)
    _turns: dict[str, list[asyncio.Lock]] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.left = Unwritten(self.desk)

    async def run(self, call: Call, netns_fd: int | None, gone: asyncio.Event, reply: Reply) -> None:
        """Do what was asked and reply. Raises :class:`CniError` when there is an error to reply."""
        try:
            match call.command:
                case "ADD":
                    await self._add(call, netns_fd, gone, reply)
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

    async def _add(self, call: Call, netns_fd: int | None, gone: asyncio.Event, reply: Reply) -> None:
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
        async with self._container(call.container_id):
            self.left.free_before(self.desk.entry(call.key))
            entry = self.desk.entry(call.key)
            attachment = entry.attachment if entry else await self._lend(pod, gone)
            # attach is idempotent: asking again for a pod that is wired only reads its MACs back.
            known = wired = entry.wired if entry else None
            if wired is None or not wired.pod_mac:
                wired = await self._attach(replace(attachment, netns_fd=netns_fd), fresh=wired is None)
            body = skel.result_body(
                call,
                addresses=attachment.addresses,
                host=(attachment.host_ifname, wired.host_mac),
                pod_mac=wired.pod_mac,
                mtu=attachment.mtu,
            )
            answered = not gone.is_set() and reply(body)
            if wired is not known:
                self.left.wired(_key(attachment), wired)
                self.node.pool_changed()
            if not answered and entry is None:
                _log.info("plugin hung up: undoing its ADD", extra={"container": call.container_id})
                await self._remove(attachment)

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
                self.left.forget(_key(attachment))
                self.desk.free(_key(attachment), used=False)
                self.node.pool_changed()
            raise

    async def _lend(self, pod: Pod, gone: asyncio.Event) -> Attachment:
        """An address for a pod whose host ports are free: looked at before it waits, and again when it has waited."""
        refuse_taken_ports(pod, self.desk.entries)
        ends = asyncio.get_running_loop().time() + self.patience
        attachment = await self._address(pod, gone)
        try:
            refuse_taken_ports(pod, self.desk.entries)
            refuse_lost_ports(attachment)
            if pod.annotations and pod.asked.waits:
                await self._granted(pod, gone, ends)
        except CniError:
            self.desk.free(pod.key, used=False)
            self.node.pool_changed()
            raise
        return attachment

    async def _address(self, pod: Pod, gone: asyncio.Event) -> Attachment:
        """An address at once, or as soon as there is one. Raises :class:`CniError` 11 when patience ends."""
        attachment = self.desk.lend(pod)
        if attachment:
            return attachment
        if pod.annotations and self.desk.apart(pod):
            return await self._apart(pod, gone)
        future: asyncio.Future[Attachment] = asyncio.get_running_loop().create_future()
        self._waiting[pod.key] = (pod, future)
        self.desk.wait(pod)
        self.node.pool_changed()
        hang_up = asyncio.ensure_future(gone.wait())
        started, outcome = asyncio.get_running_loop().time(), "cancelled"
        try:
            waits: set[asyncio.Future[Any]] = {future, hang_up}
            await asyncio.wait(waits, timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                outcome = "hung_up" if gone.is_set() else "gave_up"
                self.desk.refuse(pod)
                why = self.node.why_not_ready()
                raise CniError(skel.TRY_AGAIN_LATER, f"no address became free within {self.patience:g} s: {why}")
            attachment = future.result()
            if gone.is_set():
                self.desk.free(pod.key, used=False)
                outcome = "hung_up"
                raise CniError(skel.TRY_AGAIN_LATER, "hung up")
            outcome = "served"
            return attachment
        finally:
            self.waits.observe(asyncio.get_running_loop().time() - started, outcome)
            hang_up.cancel()
            self._waiting.pop(pod.key, None)
            self.desk.unwait(pod.key)
            self.node.pool_changed()

    async def _apart(self, pod: Pod, gone: asyncio.Event) -> Attachment:
        """An address that only this pod can have. Raises :class:`CniError` 11 when patience ends."""
        self.desk.ask(pod)
        self.node.pool_changed()
        started, outcome = asyncio.get_running_loop().time(), "cancelled"
        try:
            attachment = await self.grants.wait(pod.key, lambda: self.desk.lend(pod), gone, self.patience)
            if attachment is None:
                outcome = "hung_up" if gone.is_set() else "gave_up"
                raise CniError(skel.TRY_AGAIN_LATER, self.desk.why_not_apart(pod, self.patience))
            outcome = "served"
            return attachment
        finally:
            self.waits.observe(asyncio.get_running_loop().time() - started, outcome)
            self.desk.unask(pod.key)
            self.node.pool_changed()

    async def _granted(self, pod: Pod, gone: asyncio.Event, ends: float) -> None:
        """Wait until the record confirms what the pod asks for; it has its address. Raises :class:`CniError` 11."""
        self.node.pool_changed()
        request = self.desk.requests.of[pod.key]
        left = ends - asyncio.get_running_loop().time()

        def missing() -> str:
            return self.desk.requests.missing(request, public=pod.asked.wait)

        if not await self.grants.wait(pod.key, lambda: not missing() or None, gone, left):
            why = missing()
            raise CniError(skel.TRY_AGAIN_LATER, f"not within {self.patience:g} s: {why}")

    def serve_waiting(self) -> None:
        """Give addresses to the pods that wait, in the order in which they came."""
        if self.grants:
            self.grants.serve()
        for waiter in self.desk.pool.waiting:
            pod, future = self._waiting[waiter.key]
            if future.done():  # cancelled by a DEL a moment ago; its own task unqueues it
                self.desk.unwait(waiter.key)
                continue
            try:
                attachment = self.desk.lend(pod)
            except JournalError as error:
                future.set_exception(error)
                self.desk.unwait(waiter.key)
                continue
            if attachment is None:
                if self.desk.apart(pod):  # the policy has changed meanwhile: nobody waits behind it
                    continue
                return
            future.set_result(attachment)

    def abandon_waiting(self) -> None:
        """The agent stops: drop the ADDs that wait unanswered, so that their plugins ask the next agent."""
        self.grants.abandon()
        for _, future in self._waiting.values():
            future.cancel()

    # --------------------------------------------------------------------------------------- DEL, GC, CHECK

    async def _delete(self, key: Key, gone: Callable[[], object] = lambda: None) -> None:
        cancelled = CniError(skel.TRY_AGAIN_LATER, "cancelled by a DEL of this container")
        waiting = self._waiting.get(key)
        if waiting and not waiting[1].done():
            waiting[1].set_exception(cancelled)
        self.grants.cancel(key, cancelled)
        async with self._container(key[0]):
            entry = self.desk.entry(key)
            if entry:
                await self._remove(entry.attachment, gone)
            else:
                gone()
                self.desk.deleted(key)

    async def _remove(self, attachment: Attachment, gone: Callable[[], object] = lambda: None) -> None:
        """``gone`` is called when the kernel has nothing of it."""
        await self._wire(self.dataplane.detach, attachment)
        gone()
        self.left.free(_key(attachment))
        self.node.pool_changed()

    async def delete_spooled(self, key: Key) -> None:
        """A DEL that the plugin kept while the agent was down."""
        await self._delete(key)

    async def remove(self, attachment: Attachment) -> None:
        """Take away a pod that the runtime has lost, unless something else has become of it meanwhile."""
        async with self._container(attachment.container_id):
            entry = self.desk.entries.get((attachment.container_id, attachment.ifname))
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
