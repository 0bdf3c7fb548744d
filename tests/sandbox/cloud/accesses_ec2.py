"""Which permissions an EC2 call needs: one question per resource it touches, with the keys that resource has.

Source: Service Authorization Reference for Amazon EC2 (the condition keys of each action's resource types) and EC2 user
guide, "Identity-based policies for Amazon EC2": a call is allowed only if each of its resources is. Resources that do
not exist are left out: EC2 answers ``…NotFound`` for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from moto.ec2.models import ec2_backends

from .calls import Call
from .iam import Access, context
from .identity import ACCOUNT, REGION, arn

__all__ = ["ec2_accesses"]

_Params = Mapping[str, Any]
_Keys = dict[str, str | Iterable[str] | None]

_MODIFIABLE: Final = {
    "Attachment": "Attachment",
    "Description": "Description",
    "SourceDestCheck": "SourceDestCheck",
    "SecurityGroupId": "SecurityGroupIds",
    "EnaSrdSpecification": "EnaSrdSpecification",
    "EnablePrimaryIpv6": "EnablePrimaryIpv6",
    "ConnectionTrackingSpecification": "ConnectionTrackingSpecification",
    "AssociatePublicIpAddress": "AssociatePublicIpAddress",
}
"""First part of a parameter of ModifyNetworkInterfaceAttribute → the attribute it changes."""


def ec2_accesses(call: Call) -> list[Access]:
    """All questions of a call. Describe calls know no resources (same reference)."""
    handler = _ACTIONS.get(call.action)
    if handler is None:
        return [_access(call.action, "*", {})]
    return list(handler(call.action, call.params))


def _access(action: str, resource: str, keys: _Keys) -> Access:
    return Access(f"ec2:{action}", resource, context({**keys, "ec2:Region": REGION}))


def _backend() -> Any:
    return ec2_backends[ACCOUNT][REGION]


# ------------------------------------------------------------------------------------------ resources and their keys


def _tags(resource: Any) -> _Keys:
    keys: _Keys = {}
    for tag in resource.get_tags():
        keys[f"aws:ResourceTag/{tag['key']}"] = str(tag["value"])
        keys[f"ec2:ResourceTag/{tag['key']}"] = str(tag["value"])
    return keys


def _interface_keys(eni: Any) -> _Keys:
    return {
        **_tags(eni),
        "ec2:NetworkInterfaceID": eni.id,
        "ec2:Subnet": arn("ec2", f"subnet/{eni.subnet.id}"),
        "ec2:Vpc": arn("ec2", f"vpc/{eni.subnet.vpc_id}"),
        "ec2:AvailabilityZone": eni.subnet.availability_zone,
    }


def _interface(action: str, eni_id: Any, more: _Keys | None = None) -> Iterable[Access]:
    eni = _backend().enis.get(str(eni_id))
    if eni is not None:
        yield _access(action, arn("ec2", f"network-interface/{eni.id}"), {**_interface_keys(eni), **(more or {})})


def _instance(action: str, instance_id: Any, more: _Keys | None = None) -> Iterable[Access]:
    instance = next((i for i in _backend().all_instances() if i.id == instance_id), None)
    if instance is None:
        return
    profile = getattr(instance, "iam_instance_profile", None) or {}
    keys: _Keys = {
        **_tags(instance),
        "ec2:InstanceID": instance.id,
        "ec2:InstanceType": instance.instance_type,
        "ec2:AvailabilityZone": instance.placement.zone,
        "ec2:InstanceProfile": profile.get("Arn") if isinstance(profile, Mapping) else None,
        "ec2:Vpc": arn("ec2", f"vpc/{instance.vpc_id}") if instance.vpc_id else None,
        "ec2:Subnet": arn("ec2", f"subnet/{instance.subnet_id}") if instance.subnet_id else None,
        **(more or {}),
    }
    yield _access(action, arn("ec2", f"instance/{instance.id}"), keys)


def _subnet(action: str, subnet_id: Any) -> Iterable[Access]:
    subnet = next((z[subnet_id] for z in _backend().subnets.values() if subnet_id in z), None)
    if subnet is not None:
        keys: _Keys = {
            **_tags(subnet),
            "ec2:SubnetID": subnet.id,
            "ec2:Vpc": arn("ec2", f"vpc/{subnet.vpc_id}"),
            "ec2:AvailabilityZone": subnet.availability_zone,
        }
        yield _access(action, arn("ec2", f"subnet/{subnet.id}"), keys)


def _group(action: str, group_id: str, more: _Keys | None = None) -> Iterable[Access]:
    group = next((g[group_id] for g in _backend().groups.values() if group_id in g), None)
    if group is not None:
        vpc = arn("ec2", f"vpc/{group.vpc_id}") if group.vpc_id else None
        keys: _Keys = {**_tags(group), "ec2:SecurityGroupID": group.id, "ec2:Vpc": vpc, **(more or {})}
        yield _access(action, arn("ec2", f"security-group/{group.id}"), keys)


# ----------------------------------------------------------------------------------------------------- parameters


def _many(params: _Params, name: str) -> list[str]:
    pattern = re.compile(rf"{name}\.\d+(\.\w+)?")
    return [str(v) for k, v in params.items() if pattern.fullmatch(k)]


def _request_tags(params: _Params, prefix: str) -> _Keys:
    """``aws:RequestTag/*`` and ``aws:TagKeys`` of the tags below ``prefix``; nothing without tags."""
    names = {k[: -len(".Key")]: str(v) for k, v in params.items() if re.fullmatch(rf"{prefix}\.\d+\.Key", k)}
    keys: _Keys = {f"aws:RequestTag/{name}": str(params.get(f"{at}.Value", "")) for at, name in names.items()}
    return {**keys, "aws:TagKeys": tuple(names.values()) or None}


def _specified_tags(params: _Params, kind: str) -> _Keys:
    for name, value in params.items():
        match = re.fullmatch(r"(TagSpecifications?\.\d+)\.ResourceType", name)
        if match and value == kind:
            return _request_tags(params, rf"{re.escape(match[1])}\.Tags?")
    return {"aws:TagKeys": None}


# -------------------------------------------------------------------------------------------------------- actions


def _create_interface(action: str, params: _Params) -> Iterable[Access]:
    tags = _specified_tags(params, "network-interface")
    new = arn("ec2", "network-interface/*")
    yield _access(action, new, tags)
    yield from _subnet(action, params.get("SubnetId"))
    for group in _many(params, "SecurityGroupId"):
        yield from _group(action, group)
    if tags.get("aws:TagKeys"):
        # authorized as CreateTags once more (EC2 user guide, "Grant permission to tag resources on creation")
        yield _access("CreateTags", new, {**tags, "ec2:CreateAction": action})


def _attach(action: str, params: _Params) -> Iterable[Access]:
    yield from _instance(action, params.get("InstanceId"))
    yield from _interface(action, params.get("NetworkInterfaceId"))


def _detach(action: str, params: _Params) -> Iterable[Access]:
    wanted = params.get("AttachmentId")
    for eni in _backend().enis.values():
        if wanted and eni.attachment_id == wanted:
            if eni.instance:
                yield from _instance(action, eni.instance.id)
            yield from _interface(action, eni.id)


def _one_interface(action: str, params: _Params) -> Iterable[Access]:
    yield from _interface(action, params.get("NetworkInterfaceId"))


def _modify_interface(action: str, params: _Params) -> Iterable[Access]:
    changed = {_MODIFIABLE[k.partition(".")[0]] for k in params if k.partition(".")[0] in _MODIFIABLE}
    more: _Keys = {"ec2:Attribute": sorted(changed) or None}
    more |= {f"ec2:Attribute/{name}": "true" for name in changed}
    yield from _interface(action, params.get("NetworkInterfaceId"), more)
    for group in _many(params, "SecurityGroupId"):
        yield from _group(action, group, more)


def _tag_resources(action: str, params: _Params) -> Iterable[Access]:
    tags = _request_tags(params, "Tag")
    kinds: dict[str, Callable[..., Iterable[Access]]] = {"eni": _interface, "i": _instance, "sg": _group}
    for resource_id in _many(params, "ResourceId"):
        kind = kinds.get(resource_id.partition("-")[0])
        if kind:
            yield from kind(action, resource_id, tags)
        else:
            yield _access(action, arn("ec2", f"*/{resource_id}"), tags)


def _run_instances(action: str, params: _Params) -> Iterable[Access]:
    yield _access(action, arn("ec2", "instance/*"), _specified_tags(params, "instance"))
    yield from _subnet(action, params.get("SubnetId"))


def _named_instances(action: str, params: _Params) -> Iterable[Access]:
    for instance_id in _many(params, "InstanceId"):
        yield from _instance(action, instance_id)


def _prefix_list(action: str, params: _Params) -> Iterable[Access]:
    found = _backend().managed_prefix_lists.get(str(params.get("PrefixListId")))
    if found is not None:
        yield _access(action, arn("ec2", f"prefix-list/{found.id}"), _tags(found))


def _elastic(action: str, found: Any) -> Iterable[Access]:
    if found is not None:
        keys: _Keys = {**_tags(found), "ec2:AllocationId": found.allocation_id, "ec2:PublicIpAddress": found.public_ip}
        yield _access(action, arn("ec2", f"elastic-ip/{found.allocation_id}"), keys)


def _associate(action: str, params: _Params) -> Iterable[Access]:
    wanted = params.get("AllocationId")
    yield from _elastic(action, next((e for e in _backend().addresses if e.allocation_id == wanted), None))
    yield from _interface(action, params.get("NetworkInterfaceId"))
    yield from _instance(action, params.get("InstanceId"))


def _disassociate(action: str, params: _Params) -> Iterable[Access]:
    """Of the address and of what it is associated with, all of which the reference lists as optional."""
    wanted = params.get("AssociationId")
    found = next((e for e in _backend().addresses if wanted and e.association_id == wanted), None)
    yield from _elastic(action, found)
    if found is not None and found.eni is not None:
        yield from _interface(action, found.eni.id)


_ACTIONS: Final[dict[str, Callable[[str, _Params], Iterable[Access]]]] = {
    "AssignIpv6Addresses": _one_interface,
    "AssignPrivateIpAddresses": _one_interface,
    "AssociateAddress": _associate,
    "AttachNetworkInterface": _attach,
    "CreateNetworkInterface": _create_interface,
    "CreateTags": _tag_resources,
    "DeleteNetworkInterface": _one_interface,
    "DeleteTags": _tag_resources,
    "DetachNetworkInterface": _detach,
    "DisassociateAddress": _disassociate,
    "GetManagedPrefixListEntries": _prefix_list,
    "ModifyNetworkInterfaceAttribute": _modify_interface,
    "RebootInstances": _named_instances,
    "RunInstances": _run_instances,
    "StartInstances": _named_instances,
    "StopInstances": _named_instances,
    "TerminateInstances": _named_instances,
    "UnassignIpv6Addresses": _one_interface,
    "UnassignPrivateIpAddresses": _one_interface,
}
