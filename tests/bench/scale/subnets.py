"""The network of the runs: enough /16 subnets, in three zones, that no run fills or fragments one."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["GROUP", "VPC", "Subnet", "make_subnets"]

VPC: Final = "vpc-0123456789abcdef0"
GROUP: Final = "sg-0123456789abcdef0"
_ZONES: Final = ("eu-west-1a", "eu-west-1b", "eu-west-1c")
_NODES_EACH: Final = 200
"""A /16 holds 4,096 prefixes; 200 nodes take at most 200 × 4 × 14 addresses, or 200 × 14 prefixes."""


@dataclass(slots=True)
class Subnet:
    """Prefixes are taken from the upper half, single addresses from the lower: nothing fragments here."""

    id: str
    cidr: str
    zone: str
    base: int
    singles: int = 4
    prefixes: int = 0

    def prefix(self) -> str:
        self.prefixes += 1
        return f"{ipaddress.IPv4Address(self.base + 65_536 - 16 - 16 * self.prefixes)}/28"

    def address(self) -> str:
        self.singles += 1
        return str(ipaddress.IPv4Address(self.base + self.singles))

    def describe(self) -> dict[str, Any]:
        return {
            "SubnetId": self.id,
            "CidrBlock": self.cidr,
            "VpcId": VPC,
            "AvailabilityZone": self.zone,
            "AvailableIpAddressCount": 65_536 - 5 - self.singles - 16 * self.prefixes,
            "Tags": [{"Key": "berth:allowed", "Value": "true"}],
        }


def make_subnets(nodes: int) -> list[Subnet]:
    """One for each 200 nodes, three at the least."""
    count = max(len(_ZONES), -(-nodes // _NODES_EACH))
    first = int(ipaddress.IPv4Address("10.0.0.0"))
    return [
        Subnet(f"subnet-{n:017x}", f"10.{n}.0.0/16", _ZONES[n % len(_ZONES)], first + n * 65_536) for n in range(count)
    ]
