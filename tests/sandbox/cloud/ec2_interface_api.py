"""The wire side of interfaces: request parameters in, EC2's answers out, with idempotency and pagination."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.elastic_network_interfaces import NetworkInterfaceBackend
from moto.ec2.responses.elastic_network_interfaces import ElasticNetworkInterfaces
from moto.ec2.utils import add_tag_specification

from .changes import notify
from .ec2_errors import error, invalid
from .ec2_filters import matches
from .ec2_interfaces import Wanted, assign, create, remove, unassign
from .ec2_ipv6 import assign_prefixes, wanted_prefixes
from .ec2_public import as_described
from .patching import replace

__all__ = ["install", "page", "remember_token"]

MISMATCH = "Arguments on this idempotent request are inconsistent with arguments used in previous request(s)."


def remember_token(response: Any, action: str, make: Any, find: Any) -> Any:
    """Answer a repeated ClientToken with what it made first; ``IdempotentParameterMismatch`` if it now asks for more.

    ``make()`` gives (id, result); ``find(id)`` the result again, or None once it is gone.
    """
    token = response._get_param("ClientToken")
    if not token:
        return make()[1]
    asked = {k: v for k, v in response._get_params().items() if k not in ("ClientToken", "Action", "Version")}
    fingerprint = json.dumps(asked, sort_keys=True, default=str)
    # On the backend's own __dict__, which moto clears when it resets.
    tokens = response.ec2_backend.__dict__.setdefault("_client_tokens", {})
    known = tokens.get((action, token))
    if known is not None:
        if known[0] != fingerprint:
            raise error("IdempotentParameterMismatch", MISMATCH)
        if (found := find(known[1])) is not None:
            return found
    made_id, result = make()
    tokens[(action, token)] = (fingerprint, made_id)
    return result


def _wanted(response: Any) -> Wanted:
    listed = response._get_param("PrivateIpAddresses", [])
    addresses = [
        a if isinstance(a, str) else a["PrivateIpAddress"] for a in listed if isinstance(a, str) or not a.get("Primary")
    ]
    prefixes = [p if isinstance(p, str) else p["Ipv4Prefix"] for p in response._get_param("Ipv4Prefixes", [])]
    primary = response._get_param("PrivateIpAddress")
    return Wanted(
        tuple(a for a in addresses if a != primary),
        response._get_int_param("SecondaryPrivateIpAddressCount", 0),
        tuple(prefixes),
        response._get_int_param("Ipv4PrefixCount", 0),
    )


def create_network_interface(self: Any) -> ActionResult:
    self.error_on_dryrun()
    backend, param = self.ec2_backend, self._get_param
    ipv6_prefixes, ipv6_count = wanted_prefixes(self)
    subnet = backend.get_subnet(param("SubnetId"))
    listed = [a for a in param("PrivateIpAddresses", []) if a.get("Primary")]

    def make() -> tuple[str, Any]:
        eni = create(
            backend,
            subnet,
            _wanted(self),
            primary=param("PrivateIpAddress") or (listed[0]["PrivateIpAddress"] if listed else None),
            group_ids=_known_groups(backend, param("Groups", [])),
            description=param("Description"),
            tags=add_tag_specification(param("TagSpecifications", [])),
            interface_type=param("InterfaceType"),
            ipv6_addresses=[a["Ipv6Address"] for a in param("Ipv6Addresses", [])],
            ipv6_address_count=self._get_int_param("Ipv6AddressCount", 0),
        )
        try:
            assign_prefixes(backend, eni, ipv6_prefixes, ipv6_count)
        except EC2ClientError:
            remove(backend, eni)
            raise
        return eni.id, eni

    eni = remember_token(self, "CreateNetworkInterface", make, backend.enis.get)
    return ActionResult({"NetworkInterface": eni, "ClientToken": param("ClientToken")})


def _known_groups(backend: Any, group_ids: list[str]) -> list[str]:
    """moto makes up a group that does not exist; EC2 refuses it."""
    for group_id in group_ids:
        if backend.get_security_group_from_id(group_id) is None:
            raise error("InvalidGroup.NotFound", f"The security group '{group_id}' does not exist")
    return group_ids


def attach_network_interface(self: Any) -> ActionResult:
    self.error_on_dryrun()
    param = self._get_param
    card = self._get_int_param("NetworkCardIndex", 0)
    made = self.ec2_backend.attach_network_interface(
        param("NetworkInterfaceId"), param("InstanceId"), param("DeviceIndex"), card
    )
    return ActionResult({"AttachmentId": made.attachment_id, "NetworkCardIndex": made.network_card_index})


def assign_private_ip_addresses(self: Any) -> ActionResult:
    eni_id = self._get_param("NetworkInterfaceId")
    reassign = str(self._get_param("AllowReassignment", False)).lower() == "true"
    addresses, prefixes = assign(self.ec2_backend, eni_id, _wanted(self), reassign)
    return ActionResult(
        {
            "NetworkInterfaceId": eni_id,
            "AssignedPrivateIpAddresses": [{"PrivateIpAddress": a} for a in addresses],
            "AssignedIpv4Prefixes": [{"Ipv4Prefix": p} for p in prefixes],
        }
    )


def unassign_private_ip_addresses(self: Any) -> ActionResult:
    param = self._get_param
    unassign(self.ec2_backend, param("NetworkInterfaceId"), param("PrivateIpAddresses", []), param("Ipv4Prefixes", []))
    return EmptyResult()


def modify_network_interface_attribute(self: Any) -> ActionResult:
    """EC2 changes one attribute in a call (docs: ModifyNetworkInterfaceAttribute)."""
    self.error_on_dryrun()
    eni = self.ec2_backend.get_network_interface(self._get_param("NetworkInterfaceId"))
    attachment, groups = self._get_param("Attachment"), self._get_param("Groups", [])
    description, check = self._get_param("Description.Value"), self._get_param("SourceDestCheck.Value")
    if sum(given not in (None, []) for given in (attachment, groups, description, check)) != 1:
        raise error("InvalidParameterCombination", "Exactly one attribute may be specified.")
    if attachment:
        if attachment.get("AttachmentId") != eni.attachment_id or not eni.attachment_id:
            raise error(
                "InvalidAttachmentID.NotFound", f"The attachment '{attachment.get('AttachmentId')}' does not exist."
            )
        if "DeleteOnTermination" in attachment:
            eni.delete_on_termination = str(attachment["DeleteOnTermination"]).lower() == "true"
    elif groups:
        eni._group_set = [
            self.ec2_backend.get_security_group_from_id(g) for g in _known_groups(self.ec2_backend, groups)
        ]
    elif description is not None:
        eni.description = description
    else:
        eni.source_dest_check = str(check).lower() == "true"
    notify()
    return EmptyResult()


def describe_network_interfaces(self: Any) -> ActionResult:
    self.error_on_dryrun()
    ids, filters = self._get_param("NetworkInterfaceIds", []), self._filters_from_querystring()
    size, token = self._get_int_param("MaxResults", 0), self._get_param("NextToken")
    if ids and size:
        raise error(
            "InvalidParameterCombination",
            "The parameter NetworkInterfaceIds cannot be used with the parameter MaxResults",
        )
    found = self.ec2_backend.get_all_network_interfaces(ids, filters)
    shown, following = page(found, size, token)
    return ActionResult({"NetworkInterfaces": [as_described(eni) for eni in shown], "NextToken": following})


def page(items: list[Any], size: int, token: str | None) -> tuple[list[Any], str | None]:
    """Cut a page of ``size`` (0: all) at an opaque token. EC2 takes 5 to 1000."""
    if size and not 5 <= size <= 1000:
        raise invalid(f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value between 5 and 1000.")
    start = 0
    if token:
        try:
            start = int(base64.b64decode(token, validate=True))
        except (ValueError, binascii.Error):
            raise error("InvalidNextToken", "The token is not valid.") from None
    end = start + size if size else len(items)
    following = base64.b64encode(str(end).encode()).decode() if end < len(items) else None
    return items[start:end], following


def _select(backend: Any, eni_ids: list[str] | None = None, filters: Any = None) -> list[Any]:
    if eni_ids:
        found = [backend.get_network_interface(eni_id) for eni_id in dict.fromkeys(eni_ids)]
    else:
        found = list(backend.enis.values())
    return [eni for eni in found if matches(eni, filters or {})]


def install() -> None:
    """Replace the handlers of moto's EC2 responses."""
    for handler in (
        create_network_interface,
        attach_network_interface,
        assign_private_ip_addresses,
        unassign_private_ip_addresses,
        modify_network_interface_attribute,
        describe_network_interfaces,
    ):
        replace(ElasticNetworkInterfaces, handler.__name__, handler)
    replace(NetworkInterfaceBackend, "get_all_network_interfaces", _select)
