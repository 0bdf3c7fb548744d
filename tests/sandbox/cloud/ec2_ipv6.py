"""IPv6 prefixes of interfaces, which stock moto does not know: /80 blocks out of the subnet's IPv6 CIDR.

Docs: EC2 user guide, "Prefix delegation for Amazon EC2 network interfaces": EC2 assigns IPv6 prefixes as /80 alone, on
instances built on Nitro, and each uses the slot of one IPv6 address. What EC2 answers for a subnet without an IPv6 CIDR
is in no page we know; the code here is a guess.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from typing import Any, Final

from moto.core.responses import ActionResult
from moto.ec2.models import elastic_network_interfaces
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.subnets import Subnet
from moto.ec2.responses.elastic_network_interfaces import ElasticNetworkInterfaces

from .changes import notify
from .ec2_errors import address_limit, error, invalid
from .ec2_limits import limits_of
from .patching import replace

__all__ = ["assign_prefixes", "install", "wanted_prefixes"]

_LENGTH: Final = 80
_random: Final = random.Random(6)
_stock_address: Final[Any] = elastic_network_interfaces.random_private_ip  # type: ignore[attr-defined]


def wanted_prefixes(response: Any) -> tuple[list[str], int]:
    """(by name, by count) of a request; EC2 takes one of them, and not with single addresses."""
    named = [p if isinstance(p, str) else p["Ipv6Prefix"] for p in response._get_param("Ipv6Prefixes", [])]
    count = response._get_int_param("Ipv6PrefixCount", 0)
    singles = response._get_param("Ipv6Addresses", []) or response._get_int_param("Ipv6AddressCount", 0)
    if sum(map(bool, (named, count, singles))) > 1:
        raise error(
            "InvalidParameterCombination", "Only one of IPv6 addresses, prefixes and their counts can be specified."
        )
    return named, count


def assign_prefixes(backend: Any, eni: Any, named: Sequence[str], count: int) -> list[str]:
    """Put prefixes on an interface; the new ones. All or none."""
    if not named and not count:
        return []
    _check_type(eni, len(named) + count)
    cidrs = [
        ipaddress.IPv6Network(a["ipv6CidrBlock"])
        for a in eni.subnet.ipv6_cidr_block_associations.values()
        if a["ipv6CidrBlockState"]["State"] == "associated"
    ]
    if not cidrs:
        raise invalid(f"The subnet '{eni.subnet.id}' has no IPv6 CIDR block")
    taken = {p["Ipv6Prefix"] for other in backend.enis.values() for p in other.ipv6_prefixes}
    for prefix in named:
        block = ipaddress.IPv6Network(prefix)
        if block.prefixlen != _LENGTH or not any(block.subnet_of(c) for c in cidrs):
            raise invalid(f"The prefix {prefix} is not a /{_LENGTH} block within the subnet's address range")
        if prefix in taken:
            raise error("InvalidIPAddress.InUse", f"The prefix {prefix} is not free.")
    chosen = list(named)
    # the first block holds the addresses that are given out one by one
    blocks = (str(b) for cidr in cidrs for b in list(_first(cidr, len(taken) + count + 1))[1:])
    chosen += [b for b in blocks if b not in taken][:count]
    eni.ipv6_prefixes = [*eni.ipv6_prefixes, *({"Ipv6Prefix": p} for p in chosen)]
    notify()
    return chosen


def _first(cidr: ipaddress.IPv6Network, count: int) -> list[ipaddress.IPv6Network]:
    size = 1 << (128 - _LENGTH)
    start = int(cidr.network_address)
    return [ipaddress.IPv6Network((start + n * size, _LENGTH)) for n in range(min(count, cidr.num_addresses // size))]


def _check_type(eni: Any, more: int) -> None:
    if eni.instance is None:
        return
    kind = eni.instance.instance_type
    network = INSTANCE_TYPES[kind]["NetworkInfo"]
    if not limits_of(kind).prefixes or not network.get("Ipv6Supported"):
        raise error("UnsupportedOperation", f"IPv6 prefixes are not supported on instance type {kind}")
    if len(eni.ipv6_addresses) + len(eni.ipv6_prefixes) + more > network["Ipv6AddressesPerInterface"]:
        raise address_limit()


def assign_ipv6_addresses(self: Any) -> ActionResult:
    named, count = wanted_prefixes(self)
    eni = self.ec2_backend.get_network_interface(self._get_param("NetworkInterfaceId"))
    if named or count:
        got = assign_prefixes(self.ec2_backend, eni, named, count)
        return ActionResult({"NetworkInterfaceId": eni.id, "AssignedIpv6Prefixes": got, "AssignedIpv6Addresses": []})
    before = set(eni.ipv6_addresses)
    self.ec2_backend.assign_ipv6_addresses(
        eni.id, self._get_param("Ipv6Addresses", []), self._get_int_param("Ipv6AddressCount", 0)
    )
    return ActionResult(
        {"NetworkInterfaceId": eni.id, "AssignedIpv6Addresses": [a for a in eni.ipv6_addresses if a not in before]}
    )


def _associations(subnet: Any) -> list[dict[str, Any]]:
    """As describes show them; stock moto nests the state once too often."""
    return [
        {k: a[k] for k in ("associationId", "ipv6CidrBlock", "ipv6CidrBlockState")}
        for a in subnet.ipv6_cidr_block_associations.values()
        if a["ipv6CidrBlockState"]["State"] == "associated"
    ]


def _address_of(cidr: str | None = None, ipv6: bool = False) -> str:
    """One address out of the first block, so that none is ever in a prefix; IPv4 is left to ``ec2_addresses``."""
    if not (cidr and ipv6):
        return str(_stock_address(cidr, ipv6))
    first = ipaddress.IPv6Network((ipaddress.IPv6Network(cidr).network_address, _LENGTH))
    return str(first[_random.randrange(16, first.num_addresses)])


def install() -> None:
    """Give every interface its prefixes, and let AssignIpv6Addresses assign them."""
    replace(elastic_network_interfaces, "random_private_ip", _address_of)
    setattr(NetworkInterface, "ipv6_prefixes", [])  # noqa: B010 - of interfaces made before these additions
    replace(Subnet, "ipv6_cidr_block_association_set", property(_associations))
    replace(ElasticNetworkInterfaces, "assign_ipv6_addresses", assign_ipv6_addresses)
