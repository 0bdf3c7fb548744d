"""Elastic IP addresses on any private address of an interface, not its primary one alone.

Stock moto takes ``PrivateIpAddress`` and notes the association on the primary address. What EC2 does (AssociateAddress,
API reference): an association that is there already is answered again; one that is elsewhere is refused, or moved with
``AllowReassociation``; and an address that an interface loses loses its association.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.elastic_ip_addresses import ElasticAddress, ElasticAddressBackend
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.responses.elastic_ip_addresses import ElasticIPAddresses
from moto.ec2.utils import random_eip_association_id

from .changes import notify
from .ec2_errors import error, invalid
from .patching import replace

__all__ = ["as_described", "dropped", "install"]


def associate_address(self: Any) -> ActionResult:
    """With a private address; without one the instance's or interface's primary one is meant, which moto does."""
    param, backend = self._get_param, self.ec2_backend
    private, eni_id = param("PrivateIpAddress"), param("NetworkInterfaceId")
    if not private or not eni_id:
        answer: ActionResult = _by_moto(self)
        return answer
    self.error_on_dryrun()
    eni = backend.get_network_interface(eni_id)
    (elastic,) = backend.address_by_allocation([param("AllocationId")])
    _check(backend, eni, private)
    here = elastic.eni is eni and elastic.private_ip_address == private
    if not here:
        _make_room(backend, elastic, eni, private, str(param("AllowReassociation", True)).lower() == "true")
        _put(elastic, eni, private)
        notify()
    return ActionResult({"AssociationId": elastic.association_id})


def _check(backend: Any, eni: Any, private: str) -> None:
    if all(a["PrivateIpAddress"] != private for a in eni.private_ip_addresses):
        raise invalid(f"The address {private} is not assigned to interface {eni.id}")
    if eni.instance is not None and eni.instance.state not in ("running", "stopped"):
        raise error("IncorrectInstanceState", f"The pending-instance-creation instance to which '{eni.id}' is attached")
    # moto's filter, and not its table: a gateway names its VPC
    if not backend.describe_internet_gateways(filters={"attachment.vpc-id": [eni.vpc_id]}):
        raise error("Gateway.NotAttached", f"Network {eni.vpc_id} is not attached to any internet gateway")


def _make_room(backend: Any, elastic: Any, eni: Any, private: str, reassociate: bool) -> None:
    others = [e for e in backend.addresses if e.eni is eni and e.private_ip_address == private]
    taken = [*([elastic] if elastic.association_id else []), *others]
    if taken and not reassociate:
        raise error(
            "Resource.AlreadyAssociated",
            f"resource {taken[0].allocation_id} is already associated with associate-id {taken[0].association_id}",
        )
    for other in taken:
        backend.disassociate_address(association_id=other.association_id)


def _put(elastic: Any, eni: Any, private: str) -> None:
    elastic.eni, elastic.instance, elastic.association_id = eni, eni.instance, random_eip_association_id()
    if private == eni.private_ip_address:
        elastic._private, eni.public_ip = None, elastic.public_ip
        return
    elastic._private = private
    shown = {
        "PublicIp": elastic.public_ip,
        "AllocationId": elastic.allocation_id,
        "AssociationId": elastic.association_id,
        "IpOwnerId": elastic.ec2_backend.account_id,
    }
    eni.private_ip_addresses = [
        {**a, "Association": shown} if a["PrivateIpAddress"] == private else a for a in eni.private_ip_addresses
    ]


def _disassociate(backend: Any, address: str | None = None, association_id: str | None = None) -> None:
    found = backend.address_by_ip([address]) if address else backend.address_by_association([association_id])
    elastic = found[0]
    if getattr(elastic, "_private", None) is None:
        _disassociate_by_moto(backend, address=address, association_id=association_id)
        return
    _take_off(elastic)
    notify()


def _take_off(elastic: Any) -> None:
    if elastic.eni is not None:
        elastic.eni.private_ip_addresses = [
            {k: v for k, v in a.items() if k != "Association" or a["PrivateIpAddress"] != elastic._private}
            for a in elastic.eni.private_ip_addresses
        ]
    elastic.eni = elastic.instance = elastic.association_id = elastic._private = None


def dropped(eni: Any, addresses: set[str]) -> None:
    """These secondary addresses have left the interface."""
    for elastic in eni.ec2_backend.addresses:
        if elastic.eni is eni and getattr(elastic, "_private", None) in addresses:
            _take_off(elastic)


def as_described(eni: Any) -> Any:
    """As DescribeNetworkInterfaces shows it: the association of the primary address is at that address too."""
    if not eni.public_ip:
        return eni
    shown = copy(eni)
    shown.private_ip_addresses = [
        {**a, "Association": eni.association} if a["PrivateIpAddress"] == eni.private_ip_address else a
        for a in eni.private_ip_addresses
    ]
    return shown


def _private(elastic: Any) -> str | None:
    if elastic.eni is None:
        return None
    found: str | None = getattr(elastic, "_private", None) or elastic.eni.private_ip_address
    return found


def _instance_list(eni: Any) -> list[dict[str, Any]]:
    """DescribeInstances shows associations too."""
    shown = _instance_list_by_moto.fget(eni)
    of = {a["PrivateIpAddress"]: a["Association"] for a in eni.private_ip_addresses if "Association" in a}
    return [{**a, "Association": of[a["PrivateIpAddress"]]} if a["PrivateIpAddress"] in of else a for a in shown]


_by_moto: Any = None
_disassociate_by_moto: Any = None
_instance_list_by_moto: Any = None


def install() -> None:
    """Replace associating, disassociating, and what DescribeAddresses and DescribeInstances show of it."""
    global _by_moto, _disassociate_by_moto, _instance_list_by_moto
    _by_moto = replace(ElasticIPAddresses, "associate_address", associate_address)
    _disassociate_by_moto = replace(ElasticAddressBackend, "disassociate_address", _disassociate)
    _instance_list_by_moto = replace(NetworkInterface, "instance_private_ip_address_list", property(_instance_list))
    replace(ElasticAddress, "private_ip_address", property(_private))
