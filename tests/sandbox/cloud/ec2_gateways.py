"""NAT gateways with an interface of their own, and public addresses that are nobody's on the real internet.

Stock moto gives a NAT gateway an address outside its subnet and an elastic address in 127.0.0.0/8.
"""

from __future__ import annotations

import ipaddress
import random
from typing import Any, Final

from moto.core.utils import utcnow
from moto.ec2.models import elastic_ip_addresses, elastic_network_interfaces
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.models.nat_gateways import NatGateway, NatGatewayBackend
from moto.ec2.utils import random_eni_attach_id, random_nat_gateway_id

from .changes import notify
from .ec2_errors import error
from .ec2_interfaces import Wanted, create, remove
from .patching import replace

__all__ = ["PUBLIC_POOL", "install"]

PUBLIC_POOL: Final = ipaddress.ip_network("203.0.113.0/24")
"""Where public addresses come from: TEST-NET-3 (RFC 5737), which nobody routes."""

_unused: Final[list[str]] = []
_random: Final = random.Random(3)


def _public_address() -> str:
    """Each address once; the pool starts again when it is used up, long after the first ones were released."""
    if not _unused:
        _unused.extend(str(address) for address in PUBLIC_POOL.hosts())
        _random.shuffle(_unused)
    return _unused.pop()


def _make(
    gateway: Any,
    backend: Any,
    subnet_id: str,
    allocation_id: str | None,
    tags: dict[str, str] | None = None,
    connectivity_type: str | None = "public",
) -> None:
    """Replaces NatGateway's constructor. Its interface is EC2's own: in use, without source check."""
    TaggedEC2Resource.__init__(gateway)
    gateway.id, gateway.subnet_id, gateway.ec2_backend = random_nat_gateway_id(), subnet_id, backend
    gateway.connectivity_type = connectivity_type or "public"
    public = gateway.connectivity_type == "public"
    if public and not allocation_id:
        raise error("MissingParameter", "The request must contain the parameter allocationId")
    if allocation_id:
        backend.address_by_allocation([allocation_id])
    subnet = backend.get_subnet(subnet_id)
    gateway.vpc_id, gateway.state, gateway._created_at = subnet.vpc_id, "available", utcnow()
    gateway.address_set = []
    eni = create(backend, subnet, Wanted(), description=f"Interface for NAT Gateway {gateway.id}")
    eni.interface_type, eni.requester_managed, eni.source_dest_check = "nat_gateway", True, False
    eni.attachment_id, eni.attach_time, eni.attachment_status = random_eni_attach_id(), utcnow(), "attached"
    eni.status, eni.device_index, eni.delete_on_termination = "in-use", 1, False
    eni._group_set = []  # "You cannot associate a security group with a NAT gateway" (VPC user guide)
    gateway._eni, gateway.private_ip = eni, eni.private_ip_address
    if public:
        backend.associate_address(eni=eni, allocation_id=allocation_id)
    gateway.add_tags(tags or {})


def _delete(backend: Any, nat_gateway_id: str) -> Any:
    gateway = backend.nat_gateways.get(nat_gateway_id)
    if gateway is None:
        raise error("NatGatewayNotFound", f"The Nat Gateway {nat_gateway_id} was not found")
    if gateway.state != "deleted":
        gateway.state = "deleted"
        remove(backend, gateway._eni)
    notify()
    return gateway


def install() -> None:
    """Replace NAT gateways' making and deleting, and the two places where moto invents public addresses."""
    replace(NatGateway, "__init__", _make)
    replace(NatGatewayBackend, "delete_nat_gateway", _delete)
    replace(elastic_ip_addresses, "random_ip", _public_address)
    replace(elastic_network_interfaces, "random_public_ip", _public_address)
