"""Eventual consistency: for a while after a change, EC2's describes still show what was before it.

DescribeNetworkInterfaces and DescribeInstances answer as of ``lag`` seconds ago: what was just made does not exist yet
(``InvalidNetworkInterfaceID.NotFound``), what was just deleted still does. Mutating calls see the truth.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from moto.ec2.responses.elastic_network_interfaces import ElasticNetworkInterfaces
from moto.ec2.responses.instances import InstanceResponse

from .changes import subscribe
from .lock import API_LOCK
from .patching import replace
from .snapshot import ACCOUNT, REGION, backend_of

__all__ = ["install", "set_lag"]


@dataclass(frozen=True, slots=True)
class _View:
    """Copies of all interfaces and reservations, as they were from ``since`` on."""

    since: float
    enis: dict[str, Any]
    reservations: dict[str, Any]


@dataclass(slots=True)
class _History:
    lag: float = 0.0
    clock: Callable[[], float] = time.monotonic
    views: deque[_View] = field(default_factory=deque)
    end: Callable[[], None] | None = None


_history: Final = _History()


def set_lag(seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
    """How long a change stays unseen by describes; 0 switches the lag (and its copying) off."""
    with API_LOCK:
        if _history.end is not None:
            _history.end()
            _history.end = None
        _history.lag, _history.clock = seconds, clock
        _history.views.clear()
        if seconds > 0:
            _remember(since=float("-inf"))
            _history.end = subscribe(_remember)


def _remember(since: float | None = None) -> None:
    now = _history.clock()
    _history.views.append(_take_view(backend_of(ACCOUNT, REGION), now if since is None else since))
    while len(_history.views) > 1 and _history.views[1].since <= now - _history.lag:
        _history.views.popleft()


def _take_view(backend: Any, since: float) -> _View:
    instances: dict[str, Any] = {}

    def copied_instance(instance: Any) -> Any:
        if instance.id not in instances:
            twin = instances[instance.id] = copy.copy(instance)
            twin.nics = {}
        return instances[instance.id]

    enis: dict[str, Any] = {}
    for eni in backend.enis.values():
        twin = enis[eni.id] = copy.copy(eni)
        if eni.instance is not None:
            twin.instance = copied_instance(eni.instance)
    reservations: dict[str, Any] = {}
    for reservation in backend.reservations.values():
        shown = reservations[reservation.id] = copy.copy(reservation)
        shown.instances = [copied_instance(instance) for instance in reservation.instances]
        for instance in reservation.instances:
            instances[instance.id].nics = {k: enis[e.id] for k, e in instance.nics.items() if e.id in enis}
    return _View(since, enis, reservations)


def _as_of_before(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Run a describe on the newest view that is at least ``lag`` old."""

    def describe(response: Any) -> Any:
        if _history.lag <= 0:
            return handler(response)
        horizon = _history.clock() - _history.lag
        view = next((v for v in reversed(_history.views) if v.since <= horizon), _history.views[0])
        backend = response.ec2_backend
        truth = backend.enis, backend.reservations
        backend.enis, backend.reservations = view.enis, view.reservations
        try:
            return handler(response)
        finally:
            backend.enis, backend.reservations = truth

    return describe


def install() -> None:
    """Wrap the two describes, after whatever else replaces them."""
    for owner, name in (
        (ElasticNetworkInterfaces, "describe_network_interfaces"),
        (InstanceResponse, "describe_instances"),
    ):
        replace(owner, name, _as_of_before(getattr(owner, name)))
