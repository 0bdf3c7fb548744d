"""What an instance type allows (interfaces, cards, addresses per interface), from moto's copy of AWS's catalogue."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from moto.ec2.models.instance_types import INSTANCE_TYPES

from .ec2_errors import address_limit, error, invalid

__all__ = ["UNATTACHED_ADDRESSES", "NetworkLimits", "check_addresses", "limits_of", "slots_used"]

UNATTACHED_ADDRESSES = 50
"""Slots of an interface that no instance bounds yet. AWS documents no number; this only stops absurd requests."""


@dataclass(frozen=True, slots=True)
class NetworkLimits:
    """Of one type. ``addresses`` is per interface and counts each prefix as one; ``cards`` is by card index."""

    interfaces: int
    addresses: int
    cards: dict[int, int]
    prefixes: bool


@functools.cache
def limits_of(instance_type: str) -> NetworkLimits:
    """``InvalidParameterValue`` for a type that does not exist, as RunInstances answers."""
    described = INSTANCE_TYPES.get(instance_type)
    if described is None:
        raise invalid(f"Invalid value '{instance_type}' for InstanceType.")
    network = described["NetworkInfo"]
    interfaces = network["MaximumNetworkInterfaces"]
    cards = {c["NetworkCardIndex"]: c["MaximumNetworkInterfaces"] for c in network.get("NetworkCards", [])}
    nitro = described.get("Hypervisor") == "nitro" or bool(described.get("BareMetal"))
    return NetworkLimits(interfaces, network["Ipv4AddressesPerInterface"], cards or {0: interfaces}, nitro)


def slots_used(eni: Any) -> int:
    """Each prefix uses the slot of one address (docs: EC2 user guide, "Assign prefixes to network interfaces")."""
    return len(eni.private_ip_addresses) + len(eni.ipv4_prefixes)


def check_addresses(slots: int, prefixes: int, instance_type: str | None) -> None:
    """Refuse more slots than an interface of that type has, and prefixes on a type that is not built on Nitro."""
    if instance_type is None:
        if slots > UNATTACHED_ADDRESSES:
            raise address_limit()
        return
    limits = limits_of(instance_type)
    if prefixes and not limits.prefixes:
        raise error("UnsupportedOperation", f"Prefixes are not supported on instance type {instance_type}")
    if slots > limits.addresses:
        raise address_limit()
