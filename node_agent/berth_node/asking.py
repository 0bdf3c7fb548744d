"""What the node's pods ask of the VPC, and what the record answers.

A pod's annotations make a request (:class:`berth.contract.PodRequest`), which each report lists from the ADD until the
pod is gone; a Lambda's grants in the record answer it. Everything runs in the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from berth.contract import Order, PodGrant, PodRequest, Record

from berth_node import pod_annotations
from berth_node.leases import names_of, text_size
from berth_node.pod import Pod
from berth_node.pool import Key
from berth_node.seams import Attachment
from berth_node.usable import Own

__all__ = ["Requests", "request_id", "request_of"]

_MOST_BYTES: Final = 100_000
_MOST_EARLIER: Final = 256
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
    who = names_of(attachment)
    return PodRequest(request_id(attachment.key), attachment.address, *who, public=asked.public, groups=asked.groups)


def _content(r: PodRequest) -> tuple[str, ...]:
    return r.namespace, r.name, r.uid, r.public, r.groups


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
    """All requests of the node's pods, and the grants of the record in force, by their id. Nothing, mostly.

    ``own`` are the interfaces that single pods have for themselves, by their requests' ids.
    """

    of: dict[Key, PodRequest] = field(default_factory=dict)
    grants: Mapping[str, PodGrant] = field(default_factory=dict)
    own: Mapping[str, Own] = field(default_factory=dict)
    _answered: Order = field(default_factory=Order)
    _asked: dict[Key, Order] = field(default_factory=dict)
    """The first report that can list a pod which waits for an interface of its own."""
    _listed: tuple[PodRequest, ...] | None = ()
    _earlier: dict[tuple[str, ...], str] = field(default_factory=dict)
    """Problems, by who asks for what: kubelet tries a pod again under another id, which a Lambda answers later only, if
    what was asked for could not be had (:mod:`berth.unmet`)."""

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
        self._answered = record.accepted
        if self.grants:
            for request in self.of.values():
                self._note(request, self.grants.get(request.id))

    def _note(self, request: PodRequest, grant: PodGrant | None) -> None:
        if grant is not None:
            self._earlier.pop(_content(request), None)  # the latest are kept
            if grant.problem:
                self._earlier[_content(request)] = grant.problem
        while len(self._earlier) > _MOST_EARLIER:
            del self._earlier[next(iter(self._earlier))]

    # ------------------------------------------------------------------------------------------------ asking

    def attached(self, attachment: Attachment) -> None:
        """A pod has its address: it asks, if its annotations do, for as long as it is there."""
        if attachment.annotations and (request := request_of(attachment)):
            self.add(attachment.key, request)
        elif attachment.table:  # the kernel knows the pod, and nobody what it asked for
            self.add(attachment.key, PodRequest(request_id(attachment.key), attachment.address, *names_of(attachment)))

    def ask(self, pod: Pod, report: Order) -> None:
        """A pod waits for an address of its own; ``report`` is the next one's order. Again is fine."""
        asked = pod.asked
        self.add(pod.key, PodRequest(request_id(pod.key), "", *names_of(pod), public=asked.public, groups=asked.groups))
        if asked.groups:
            self._asked.setdefault(pod.key, report)

    def ask_again(self, report: Order) -> None:
        """Reports are counted from another number on."""
        self._asked = dict.fromkeys(self._asked, report)

    def unask(self, key: Key, *, lent: bool) -> None:
        """A pod waits no more. ``lent``: it has its address."""
        self._asked.pop(key, None)
        if not lent:
            self.drop(key)

    # ---------------------------------------------------------------------------------------------- answers

    def interface(self, key: Key) -> Own | None:
        """A waiting pod's own interface, if the record answers a report that lists the pod: an older one may have been
        taken back by a look that knew it from no report (docs/decisions/0027)."""
        asked = self._asked.get(key)
        return self.own.get(request_id(key)) if asked is not None and self._answered >= asked else None

    def why_not_apart(self, pod: Pod, seconds: float) -> str:
        """Why a pod got no address of its own in its time, in words for its events."""
        grant = self.grants.get(request_id(pod.key))
        if pod.asked.groups:
            told = grant.problem if grant else ""
            told = told or self._told_before(pod.key, "the node's record lists none as yet")
            return f"no interface of its own for its security groups within {seconds:g} s: {told}"
        nothing = "the node's record lists no single address that is free"
        told = grant.problem if grant else self._told_before(pod.key, nothing)
        return f"no address of its own for a public one within {seconds:g} s: {told}"

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
            return self._told_before(request, "no answer is in the node's record yet")
        if public and request.public and not (grant.public_address and grant.address == request.address):
            return grant.problem or "no public address is associated yet"
        if request.groups and not grant.interface_id:
            return grant.problem or "no interface is attached yet"
        return ""

    def _told_before(self, asked: PodRequest | Key, nothing: str) -> str:
        """What an earlier attempt of the same pod was told; ``nothing`` if that is not known."""
        request = asked if isinstance(asked, PodRequest) else self.of.get(asked)
        told = self._earlier.get(_content(request)) if request is not None else None
        return f"{told} (told an earlier attempt)" if told else nothing

    def orphans(self) -> tuple[str, ...]:
        """Private addresses with a public one whose pod is gone: whoever got one now would get the other with it."""
        if not self.grants:
            return ()
        here = self._here()
        return tuple(g.address for g in self.grants.values() if _public(g) and (g.id, g.address) not in here)

    def public(self, grants: Iterable[PodGrant]) -> tuple[str, ...]:
        """Private addresses of pods that are here and have a public one by these grants. What a record grants to
        others, or for an address that is another pod's, changes nothing."""
        told = [g for g in grants if _public(g)]
        here = self._here() if told else frozenset()
        return tuple(sorted({g.address for g in told if (g.id, g.address) in here}))

    def _here(self) -> frozenset[tuple[str, str]]:
        """The same sandbox may have another address by now, if an agent was restarted before it was answered."""
        return frozenset((request.id, request.address) for request in self.of.values())


def _public(grant: PodGrant) -> bool:
    return bool(grant.public_address and grant.address)
