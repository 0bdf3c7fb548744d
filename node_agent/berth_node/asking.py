"""What the node's pods ask of the VPC, what the record answers, and the ADDs that wait for it.

A pod's annotations make a request (:class:`berth.contract.PodRequest`), which each report lists from the ADD until the
pod is gone; a Lambda's grants in the record answer it. Everything runs in the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from berth.contract import PodGrant, PodRequest, Record

from berth_node import pod_annotations
from berth_node.leases import names_of, text_size
from berth_node.pool import Key
from berth_node.seams import Attachment

__all__ = ["Requests", "Waits", "request_id", "request_of"]

_T = TypeVar("_T")
_MOST_BYTES: Final = 100_000
_BARE: Final = 150
"""Bytes of a request in a report whose texts are empty, but for its address."""


def request_id(key: Key) -> str:
    """As :class:`berth.contract.PodRequest` has it."""
    return "/".join(key)


def request_of(attachment: Attachment) -> PodRequest | None:
    """What a pod asks for; None for nothing, and for what this version cannot read (an older one took it)."""
    try:
        asked = pod_annotations.asked(attachment.annotations)
    except ValueError:
        return None
    if asked is pod_annotations.NOTHING:
        return None
    key = (attachment.container_id, attachment.ifname)
    who = names_of(attachment)
    return PodRequest(request_id(key), attachment.address, *who, public=asked.public, groups=asked.groups)


def _fitting(requests: Sequence[PodRequest]) -> tuple[PodRequest, ...]:
    """What goes into a report: all pods that have their address, and of those that wait as many as there is room for.
    SQS takes 262,144 bytes, and leases may have 110,000 of them."""
    size, kept = 0, []
    for request in sorted(requests, key=lambda r: not r.address):
        text = "".join((request.id, request.namespace, request.name, request.uid, request.public, request.groups))
        size += _BARE + text_size(text)
        if request.address or size <= _MOST_BYTES:
            kept.append(request)
    return tuple(sorted(kept, key=lambda r: r.id))


@dataclass(slots=True)
class Requests:
    """All requests of the node's pods, and the grants of the record in force, by their id. Nothing, mostly."""

    of: dict[Key, PodRequest] = field(default_factory=dict)
    grants: Mapping[str, PodGrant] = field(default_factory=dict)
    _listed: tuple[PodRequest, ...] | None = ()

    def add(self, key: Key, request: PodRequest) -> None:
        """A pod asks, or has got its address since."""
        self.of[key], self._listed = request, None

    def drop(self, key: Key) -> None:
        """The pod is gone, or waits no more."""
        if self.of.pop(key, None):
            self._listed = None

    def take(self, record: Record) -> None:
        """Take over what the record grants."""
        self.grants = {g.id: g for g in record.grants} if record.grants else {}

    @property
    def listed(self) -> tuple[PodRequest, ...]:
        """For the report."""
        if self._listed is None:
            self._listed = _fitting(sorted(self.of.values(), key=lambda r: r.id))
        return self._listed

    @property
    def pending(self) -> bool:
        """A request has no answer yet, or may get another one."""
        return any(self.missing(request) for request in self.of.values())

    def missing(self, request: PodRequest, *, public: bool = True) -> str:
        """What a pod has not got of what it asks for, in words; "" if it has it all. ``public``: a public address,
        too."""
        grant = self.grants.get(request.id)
        if grant is None:
            return "no answer is in the node's record yet"
        if public and request.public and not (grant.public_address and grant.address == request.address):
            return grant.problem or "no public address is associated yet"
        if request.groups and not grant.interface_id:
            return grant.problem or "no interface is attached yet"
        return ""

    def public(self) -> tuple[str, ...]:
        """Private addresses that a public one is associated with."""
        return tuple(sorted(g.address for g in self.grants.values() if g.public_address and g.address))

    def orphans(self) -> tuple[str, ...]:
        """Those of them whose pod is gone: whoever got one now would get that pod's public address with it."""
        if not self.grants:
            return ()
        # the same sandbox may have another address by now, if an agent was restarted before it was answered
        here = {(request.id, request.address) for request in self.of.values()}
        told = (g for g in self.grants.values() if g.public_address and g.address)
        return tuple(g.address for g in told if (g.id, g.address) not in here)


@dataclass(slots=True)
class Waits:
    """ADDs that wait until a probe gives something: it is asked after each change of what the node knows."""

    _waiting: dict[Key, tuple[Callable[[], Any], asyncio.Future[Any]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def wait(self, key: Key, probe: Callable[[], _T | None], gone: asyncio.Event, seconds: float) -> _T | None:
        """What ``probe`` gives as soon as it gives something; None when time is up or the plugin has hung up.

        Raises what ``probe`` does, and what :meth:`cancel` is given.
        """
        if (found := probe()) is not None:
            return found
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._waiting[key] = (probe, future)
        hang_up = asyncio.ensure_future(gone.wait())
        try:
            waits: set[asyncio.Future[Any]] = {future, hang_up}
            await asyncio.wait(waits, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
            return future.result() if future.done() else None
        finally:
            hang_up.cancel()
            self._waiting.pop(key, None)

    def serve(self) -> None:
        """Ask again for each that waits."""
        for probe, future in list(self._waiting.values()):
            if future.done():
                continue
            try:
                found = probe()
            except Exception as error:  # the ADD's own to tell
                future.set_exception(error)
                continue
            if found is not None:
                future.set_result(found)

    def cancel(self, key: Key, error: Exception) -> None:
        """End one's waiting, if it waits."""
        waiting = self._waiting.get(key)
        if waiting and not waiting[1].done():
            waiting[1].set_exception(error)

    def abandon(self) -> None:
        """The agent stops: drop the ADDs unanswered, so that their plugins ask the next agent."""
        for _, future in self._waiting.values():
            future.cancel()
