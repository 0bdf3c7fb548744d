"""Filters of DescribeNetworkInterfaces: any of an interface's values that matches any of the filter's is a match."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix

from .ec2_errors import invalid
from .patching import replace

__all__ = ["install", "matches"]


def _truth(value: Any) -> list[str]:
    return [str(bool(value)).lower()]


def _attached(eni: Any, value: Callable[[Any], Any]) -> list[str]:
    attachment = eni.attachment
    return [] if attachment is None else [str(value(attachment))]


_VALUES: Final[dict[str, Callable[[Any], Iterable[Any]]]] = {
    "addresses.private-ip-address": lambda e: [a["PrivateIpAddress"] for a in e.private_ip_addresses],
    "addresses.primary": lambda e: [str(bool(a.get("Primary"))).lower() for a in e.private_ip_addresses],
    "association.public-ip": lambda e: [e.public_ip] if e.public_ip else [],
    "attachment.attach-time": lambda e: _attached(e, lambda a: a.attach_time.isoformat()),
    "attachment.attachment-id": lambda e: _attached(e, lambda a: a.attachment_id),
    "attachment.delete-on-termination": lambda e: _attached(e, lambda a: str(a.delete_on_termination).lower()),
    "attachment.device-index": lambda e: _attached(e, lambda a: a.device_index),
    "attachment.instance-id": lambda e: _attached(e, lambda a: a.instance_id),
    "attachment.instance-owner-id": lambda e: _attached(e, lambda a: a.instance_owner_id),
    "attachment.status": lambda e: _attached(e, lambda a: a.status),
    "availability-zone": lambda e: [e.availability_zone],
    "availability-zone-id": lambda e: [e.subnet.availability_zone_id],
    "description": lambda e: [e.description],
    "group-id": lambda e: [g.id for g in e.group_set],
    "group-name": lambda e: [g.name for g in e.group_set],
    "interface-type": lambda e: [e.interface_type],
    "ipv6-addresses.ipv6-address": lambda e: e.ipv6_addresses,
    "mac-address": lambda e: [e.mac_address],
    "network-interface-id": lambda e: [e.id],
    "owner-id": lambda e: [e.owner_id],
    "private-dns-name": lambda e: [getattr(e, "private_dns_name", None) or ""],
    "private-ip-address": lambda e: [e.private_ip_address],
    "requester-id": lambda e: [e.requester_id],
    "requester-managed": lambda e: _truth(e.requester_managed),
    "source-dest-check": lambda e: _truth(e.source_dest_check),
    "status": lambda e: [e.status],
    "subnet-id": lambda e: [e.subnet.id],
    "tag-key": lambda e: [t["key"] for t in e.get_tags()],
    "tag-value": lambda e: [t["value"] for t in e.get_tags()],
    "vpc-id": lambda e: [e.vpc_id],
}


def _values(eni: Any, name: str) -> Iterable[Any]:
    if name.startswith("tag:"):
        return [t["value"] for t in eni.get_tags() if t["key"] == name[4:]]
    if name not in _VALUES:
        raise invalid(f"The filter '{name}' is invalid")
    return _VALUES[name](eni)


def matches(eni: Any, filters: Mapping[str, list[str]]) -> bool:
    """Whether an interface passes all filters. Wildcards ``*`` and ``?``; an unknown name is refused as EC2 does."""
    return all(
        any(fnmatch.fnmatchcase(str(value), pattern) for value in _values(eni, name) for pattern in patterns)
        for name, patterns in filters.items()
    )


def _get_tags(resource: Any) -> list[dict[str, str]]:
    """moto compiles a pattern and scans the tags of every resource, for each resource it shows; this is a look-up."""
    if not resource.id:
        return []
    tags = resource.ec2_backend.tags.get(resource.id, {})
    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(resource.id), "")
    return [{"resource_id": resource.id, "resource_type": kind, "key": k, "value": v} for k, v in tags.items()]


def install() -> None:
    """Make tag look-ups quick for all resources of EC2."""
    replace(TaggedEC2Resource, "get_tags", _get_tags)
