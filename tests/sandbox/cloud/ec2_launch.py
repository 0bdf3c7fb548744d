"""RunInstances: types that exist, interfaces as asked for, all or nothing, idempotent; instance profiles are kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models import instances
from moto.ec2.models.iam_instance_profile import IamInstanceProfileAssociationBackend
from moto.ec2.models.instances import Instance, InstanceBackend
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import convert_tag_spec, filter_iam_instance_profiles

from .changes import notify
from .ec2_attachments import check_new_attachment
from .ec2_errors import error, invalid
from .ec2_instances import CODES, boot
from .ec2_interface_api import remember_token
from .ec2_interfaces import Wanted, assign, remove
from .ec2_ipv6 import assign_prefixes
from .ec2_limits import limits_of
from .patching import replace

__all__ = ["install"]


def _template(backend: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    argument = kwargs.get("launch_template")
    data: dict[str, Any] = backend._get_template_from_args(argument).data if argument else {}
    return data


def _run_instances(original: Callable[..., Any]) -> Callable[..., Any]:
    def run_instances(backend: Any, image_id: str, count: int, *args: Any, **kwargs: Any) -> Any:
        template = _template(backend, kwargs)
        kind = kwargs.get("instance_type")
        if kwargs.get("is_instance_type_default"):
            kind = template.get("InstanceType") or kind
        limits_of(str(kind))  # stock moto launches types and images that do not exist
        backend.describe_images(ami_ids=[image_id or template.get("ImageId")])
        if not kwargs.get("metadata_options") and template.get("MetadataOptions"):
            kwargs["metadata_options"] = template["MetadataOptions"]
        if not kwargs.get("nics"):
            kwargs["nics"] = _template_interfaces(template, kwargs.get("subnet_id"))
        interface_tags = convert_tag_spec(template.get("TagSpecifications", [])).get("network-interface", {})
        interface_tags |= kwargs.get("tags", {}).get("network-interface", {})
        before, reservations = set(backend.enis), set(backend.reservations)
        try:
            made = original(backend, image_id, count, *args, **kwargs)
        except Exception:
            _undo(backend, before, reservations)
            raise
        for instance in made.instances:
            _give_profile(backend, instance, kwargs, template)
            for eni in instance.nics.values():
                eni.add_tags(interface_tags)
            boot(instance)
        return made

    return run_instances


def _template_interfaces(template: dict[str, Any], subnet_id: str | None) -> list[dict[str, Any]]:
    """A template's interfaces; the first one is put into the subnet that an Auto Scaling group has chosen."""
    interfaces: list[dict[str, Any]] = copy.deepcopy(template.get("NetworkInterfaces") or [])
    for interface in interfaces:
        if subnet_id and int(interface.get("DeviceIndex") or 0) == 0:
            interface["SubnetId"] = subnet_id
    return interfaces


def _undo(backend: Any, enis: set[str], reservations: set[str]) -> None:
    """A launch that fails leaves nothing: neither instances nor interfaces that hold addresses."""
    for name in [name for name in backend.reservations if name not in reservations]:
        for instance in backend.reservations.pop(name).instances:
            instance.nics.clear()
    for eni_id in [eni_id for eni_id in backend.enis if eni_id not in enis]:
        remove(backend, backend.enis[eni_id])


def _give_profile(backend: Any, instance: Any, kwargs: dict[str, Any], template: dict[str, Any]) -> None:
    """Stock moto gives the profile to the first instance only, and none that a launch template or group names."""
    configured = template.get("IamInstanceProfile") or {}
    name = kwargs.get("iam_instance_profile_name") or configured.get("Name")
    arn = kwargs.get("iam_instance_profile_arn") or configured.get("Arn")
    launch_config = kwargs.get("launch_config")
    if not name and not arn and launch_config is not None and launch_config.iam_instance_profile:
        given = launch_config.iam_instance_profile
        name, arn = (None, given) if given.startswith("arn:") else (given, None)
    if name or arn:
        backend.associate_iam_instance_profile(
            instance.id, iam_instance_profile_name=name, iam_instance_profile_arn=arn
        )


def _associate(original: Callable[..., Any]) -> Callable[..., Any]:
    def associate_iam_instance_profile(
        backend: Any,
        instance_id: str,
        iam_instance_profile_name: str | None = None,
        iam_instance_profile_arn: str | None = None,
    ) -> Any:
        """The same profile again is no error: RunInstances' handler in moto repeats it for the first instance."""
        known = backend.iam_instance_profile_associations.get(instance_id)
        if known is not None:
            profile = filter_iam_instance_profiles(
                backend.account_id,
                partition=backend.partition,
                iam_instance_profile_arn=iam_instance_profile_arn,
                iam_instance_profile_name=iam_instance_profile_name,
            )
            if known.iam_instance_profile is profile:
                return known
        made = original(backend, instance_id, iam_instance_profile_name, iam_instance_profile_arn)
        notify()
        return made

    return associate_iam_instance_profile


def _prep_nics(original: Callable[..., Any]) -> Callable[..., Any]:
    def prep_nics(instance: Any, nic_spec: list[dict[str, Any]], *args: Any, **kwargs: Any) -> None:
        existing = {int(n["DeviceIndex"]) for n in nic_spec if n.get("NetworkInterfaceId")}
        unwanted = {int(n["DeviceIndex"]) for n in nic_spec if str(n.get("DeleteOnTermination")).lower() == "false"}
        _check_spec(instance, nic_spec)
        original(instance, nic_spec, *args, **kwargs)
        backend = instance.ec2_backend
        for nic in nic_spec:
            eni = instance.nics[int(nic["DeviceIndex"])]
            wanted = Wanted(
                count=int(nic.get("SecondaryPrivateIpAddressCount") or 0),
                prefixes=tuple(p["Ipv4Prefix"] for p in nic.get("Ipv4Prefixes", [])),
                prefix_count=int(nic.get("Ipv4PrefixCount") or 0),
            )
            if wanted.slots:
                assign(backend, eni.id, wanted)
            if nic.get("Ipv6PrefixCount"):
                assign_prefixes(backend, eni, [], int(nic["Ipv6PrefixCount"]))
        primary = instance.nics.get(0)
        if primary is not None and 0 not in existing | unwanted:
            primary.delete_on_termination = True  # EC2's default for the primary interface that a launch creates

    return prep_nics


def _check_spec(instance: Any, nic_spec: list[dict[str, Any]]) -> None:
    limits = limits_of(instance.instance_type)
    if len(nic_spec) > limits.interfaces:
        raise error(
            "AttachmentLimitExceeded", f"Interface count {len(nic_spec)} exceeds the limit for {instance.instance_type}"
        )
    instance.nics = {}
    for nic in nic_spec:
        if nic.get("NetworkInterfaceId"):
            eni = instance.ec2_backend.get_network_interface(nic["NetworkInterfaceId"])
            if int(nic["DeviceIndex"]) == 0:
                instance._subnet_id, instance._placement.zone = eni.subnet.id, eni.subnet.availability_zone
            check_new_attachment(eni, instance, int(nic["DeviceIndex"]), int(nic.get("NetworkCardIndex") or 0))


def _run_handler(original: Callable[..., Any]) -> Callable[..., Any]:
    def run_instances(response: Any) -> Any:
        least, most = int(response._get_param("MinCount", 1)), int(response._get_param("MaxCount", 1))
        if most < least:
            raise invalid("maxCount must be at least minCount")
        template = _template(response.ec2_backend, {"launch_template": response._get_param("LaunchTemplate", {})})
        if template.get("NetworkInterfaces") and response._get_param("SubnetId"):
            raise error(
                "InvalidParameterCombination",
                "Network interfaces and an instance-level subnet ID may not be specified on the same request",
            )

        def make() -> tuple[str, Any]:
            response.params["MinCount"] = most  # EC2 launches as many as it can; here there is always room for all
            result = original(response)
            return next(reversed(response.ec2_backend.reservations)), result

        def find(reservation_id: str) -> Any:
            known = response.ec2_backend.reservations.get(reservation_id)
            return None if known is None else ActionResult(known)

        return remember_token(response, "RunInstances", make, find)

    return run_instances


def _terminate_handler(original: Callable[..., Any]) -> Callable[..., Any]:
    def terminate_instances(response: Any) -> Any:
        """Stock moto says ``shutting-down`` of an instance that is already terminated."""
        answer = original(response)
        for change in answer.result["TerminatingInstances"]:
            state = response.ec2_backend.get_instance(change["InstanceId"]).state
            if change["PreviousState"].name == "terminated":
                change["CurrentState"] = {"Code": CODES[state], "Name": state}
        return answer

    return terminate_instances


def _modify_instance_attribute(original: Callable[..., Any]) -> Callable[..., Any]:
    def modify_instance_attribute(backend: Any, instance_id: str, key: str, value: Any) -> Any:
        """SourceDestCheck of an instance is that of its primary interface."""
        instance = original(backend, instance_id, key, value)
        if key == "source_dest_check" and 0 in instance.nics:
            instance.nics[0].source_dest_check = str(value).lower() == "true"
        notify()
        return instance

    return modify_instance_attribute


def _modify_groups(original: Callable[..., Any]) -> Callable[..., Any]:
    def modify_instance_security_groups(backend: Any, instance_id: str, group_ids: list[str]) -> Any:
        """The groups of an instance are those of its primary interface."""
        instance = original(backend, instance_id, group_ids)
        if 0 in instance.nics:
            instance.nics[0]._group_set = list(instance.security_groups)
        notify()
        return instance

    return modify_instance_security_groups


def install() -> None:
    """Wrap moto's launch, which does everything else (images, volumes, tags, placement)."""
    # Without a subnet in the request, moto makes up an address outside of any; none means: choose one of the subnet.
    replace(instances, "random_private_ip", lambda: None)
    for owner, name, wrap in (
        (InstanceBackend, "run_instances", _run_instances),
        (InstanceBackend, "modify_instance_attribute", _modify_instance_attribute),
        (InstanceBackend, "modify_instance_security_groups", _modify_groups),
        (IamInstanceProfileAssociationBackend, "associate_iam_instance_profile", _associate),
        (Instance, "prep_nics", _prep_nics),
        (InstanceResponse, "run_instances", _run_handler),
        (InstanceResponse, "terminate_instances", _terminate_handler),
    ):
        replace(owner, name, wrap(getattr(owner, name)))
