"""The EventBridge edge: what Berth tells. Schemas: docs/events/; samples: events/.

Telling is a courtesy: a bus that cannot be reached never stops a node from getting its addresses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from berth.contract import PodRequest
from berth.free_blocks import Room
from berth.model import PolicyProblem

if TYPE_CHECKING:
    from mypy_boto3_events.client import EventBridgeClient

__all__ = [
    "SOURCE",
    "Bus",
    "Event",
    "EventBus",
    "addresses_ready",
    "demand_unmet",
    "interface_reclaimed",
    "network_not_flat",
    "policy_invalid",
    "public_address_unavailable",
    "routes_unknown",
    "standby_pool_invalid",
    "subnet_low",
]

SOURCE: Final = "berth"
_ENTRIES: Final = 10
"""Entries in one PutEvents (EventBridge API reference)."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event to send. ``resources`` are ARNs."""

    detail_type: str
    detail: Mapping[str, Any]
    resources: tuple[str, ...] = field(default=())


def addresses_ready(arn: str, instance_id: str, addresses: int, revision: int) -> Event:
    """The record of a node lists its first addresses."""
    detail = {"instance-id": instance_id, "addresses": addresses, "revision": revision}
    return Event("Node Addresses Ready", detail, (arn,))


def demand_unmet(arn: str, instance_id: str, addresses: int, reason: str) -> Event:
    """A node needs ``addresses`` more and cannot have them."""
    return Event(
        "Node Address Demand Unmet", {"instance-id": instance_id, "addresses": addresses, "reason": reason}, (arn,)
    )


def subnet_low(
    subnet_id: str, zone: str, free: int, size: int, shortage: Sequence[str] = ("addresses",), room: Room | None = None
) -> Event:
    """A subnet that nodes may use has few ``addresses`` left, or few ``prefixes``. ``room`` is how many, if known."""
    detail = {"subnet-id": subnet_id, "availability-zone": zone, "free": free, "size": size, "shortage": [*shortage]}
    if room is not None:
        detail |= {"free-prefixes": room.free_prefixes, "prefixes": room.prefixes, "largest-free-block": room.largest}
    return Event("Subnet Addresses Low", detail)


def interface_reclaimed(instance_id: str, interface_id: str, reason: str) -> Event:
    """An interface of ours was deleted because nobody needs it any more."""
    return Event(
        "Network Interface Reclaimed",
        {"instance-id": instance_id, "network-interface-id": interface_id, "reason": reason},
    )


def policy_invalid(arn: str, instance_id: str, problems: Sequence[PolicyProblem]) -> Event:
    """Tags (or the instance type) of a node cannot be used as they are."""
    listed = [{"key": p.key, "value": p.value, "message": p.message} for p in problems]
    return Event("Node Policy Invalid", {"instance-id": instance_id, "problems": listed}, (arn,))


def public_address_unavailable(arn: str, instance_id: str, request: PodRequest, reason: str) -> Event:
    """A pod asks for a public address and cannot have one."""
    detail = {
        "instance-id": instance_id,
        "namespace": request.namespace,
        "pod": request.name,
        "wanted": request.public,
        "reason": reason,
    }
    return Event("Public Address Unavailable", detail, (arn,))


def standby_pool_invalid(problems: Sequence[PolicyProblem]) -> Event:
    """Entries of the stack's parameter for standby pools cannot be used."""
    listed = [{"entry": p.value, "message": p.message} for p in problems]
    return Event("Standby Pool Invalid", {"problems": listed})


def network_not_flat(cells: int, failing: int, causes: Sequence[Mapping[str, Any]]) -> Event:
    """Something does not pass between pods, nodes and networks. An entry holds 256 KB, so not every cause is told."""
    told = [{**cause, "breaks": list(cause["breaks"])[:10]} for cause in causes[:20]]
    detail = {"cells": cells, "failing": failing, "causes": told, "causes-left-out": max(0, len(causes) - len(told))}
    return Event("Network Not Flat", detail)


def routes_unknown(prefix_list: str, tables: Sequence[str], nodes: int) -> Event:
    """A prefix list that routes name cannot be read."""
    return Event("Routes Unknown", {"prefix-list": prefix_list, "route-tables": sorted(tables), "nodes": nodes})


class Bus(Protocol):
    """Where events go."""

    def send(self, events: Iterable[Event]) -> int:
        """Send them. Returns how many could not be sent; never raises."""


class EventBus:
    """The custom bus through boto3."""

    def __init__(self, client: EventBridgeClient, name: str) -> None:
        self._client, self._name = client, name

    def send(self, events: Iterable[Event]) -> int:
        waiting = list(events)
        failed = 0
        for start in range(0, len(waiting), _ENTRIES):
            batch = waiting[start : start + _ENTRIES]
            try:
                answer = self._client.put_events(
                    Entries=[
                        {
                            "EventBusName": self._name,
                            "Source": SOURCE,
                            "DetailType": event.detail_type,
                            "Detail": json.dumps(dict(event.detail)),
                            "Resources": list(event.resources),
                        }
                        for event in batch
                    ]
                )
                failed += answer.get("FailedEntryCount", 0)
            except (BotoCoreError, ClientError):
                failed += len(batch)
        return failed
