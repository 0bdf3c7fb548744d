"""Attaching and detaching interfaces: the instance's state, zone, device index, per-type and per-card limits.

An attachment is ``attaching`` and then ``attached``, ``detaching`` and then gone, after delays that are configurable.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import InvalidNetworkAttachmentIdError
from moto.ec2.models.elastic_network_interfaces import NetworkInterface, NetworkInterfaceBackend
from moto.ec2.models.instances import Instance
from moto.ec2.utils import random_eni_attach_id

from .changes import notify
from .ec2_errors import error, incorrect_state, invalid
from .ec2_limits import check_addresses, limits_of, slots_used
from .patching import replace
from .timers import TIMERS

__all__ = [
    "Attachment",
    "attach",
    "check_new_attachment",
    "detach",
    "install",
    "is_attached",
    "plug",
    "set_delays",
    "unplug",
]


@dataclass(frozen=True, slots=True)
class Attachment:
    """What describes show of an attachment. The names are those that moto's serializer looks for."""

    attach_time: datetime
    attachment_id: str
    delete_on_termination: bool
    device_index: int
    network_card_index: int
    instance_id: str | None
    instance_owner_id: str
    status: str


@dataclass(slots=True)
class _Delays:
    attach: float = 0.0
    detach: float = 0.0


_delays = _Delays()


def is_attached(eni: Any) -> bool:
    """Whether the instance has the device: not before ``attached``, not from ``detaching`` on."""
    return eni.attachment_id is not None and getattr(eni, "attachment_status", "attached") == "attached"


def _attachment(eni: Any) -> Attachment | None:
    if not eni.attachment_id:
        return None
    return Attachment(
        attach_time=eni.attach_time,
        attachment_id=eni.attachment_id,
        delete_on_termination=bool(eni.delete_on_termination),
        device_index=int(eni.device_index or 0),
        network_card_index=getattr(eni, "network_card_index", 0),
        instance_id=eni.instance.id if eni.instance else None,
        instance_owner_id=eni.instance.owner_id if eni.instance else "amazon-aws",
        status=getattr(eni, "attachment_status", "attached"),
    )


def check_new_attachment(eni: Any, instance: Any, device_index: int, card: int) -> None:
    """Refuse what the type, the zone or the other interfaces of the instance do not allow."""
    limits = limits_of(instance.instance_type)
    if eni.attachment_id:
        raise error("InvalidNetworkInterface.InUse", f"Interface: [{eni.id}] in use.")  # terraform-provider-aws #27513
    if eni.subnet.availability_zone != instance.placement.zone:
        raise error(
            "InvalidParameterCombination",
            "You may not attach a network interface to an instance if they are not in the same availability zone",
        )
    if card not in limits.cards:
        raise invalid(f"Network card index {card} exceeds the limit for {instance.instance_type}")
    others = list(instance.nics.values())
    on_card = [other for other in others if getattr(other, "network_card_index", 0) == card]
    if any(int(other.device_index or 0) == device_index for other in on_card):
        raise invalid(f"Instance '{instance.id}' already has an interface attached at device index '{device_index}'.")
    if len(on_card) >= limits.cards[card] or len(others) >= limits.interfaces:
        raise error(
            "AttachmentLimitExceeded",
            f"Interface count {len(others) + 1} exceeds the limit for {instance.instance_type}",
        )
    check_addresses(slots_used(eni), len(eni.ipv4_prefixes), instance.instance_type)


def attach(backend: Any, eni_id: str, instance_id: str, device_index: Any, card: int = 0) -> Attachment:
    """AttachNetworkInterface. EC2 documents running and stopped instances only, so ``pending`` is refused."""
    eni, instance = backend.get_network_interface(eni_id), backend.get_instance(instance_id)
    if instance.state not in ("running", "stopped"):
        raise incorrect_state(f"Instance '{instance_id}' is not 'running' or 'stopped'")
    check_new_attachment(eni, instance, int(device_index), card)
    plug(instance, eni, int(device_index), card)
    eni.delete_on_termination = False  # of an attachment by the API; ModifyNetworkInterfaceAttribute changes it
    eni.attachment_status = "attaching"
    attachment_id = eni.attachment_id

    def done() -> None:
        if eni.attachment_id == attachment_id and eni.attachment_status == "attaching":
            eni.attachment_status = "attached"
            notify()

    TIMERS.call_later(_delays.attach, done)
    made = _attachment(eni)
    assert made is not None
    return made


def plug(instance: Any, eni: Any, device_index: int, card: int = 0) -> str:
    """Tie an interface to an instance, as attached. Instances' interfaces are kept by card and device index."""
    eni.instance, eni.device_index, eni.network_card_index = instance, device_index, card
    eni.attachment_id, eni.attach_time = random_eni_attach_id(), utcnow()
    eni.status, eni.attachment_status = "in-use", "attached"
    instance.nics[(card << 16) | device_index] = eni
    notify()
    attachment_id: str = eni.attachment_id
    return attachment_id


def unplug(instance: Any, eni: Any) -> None:
    """Undo :func:`plug`: the interface is ``available`` again."""
    for key in [key for key, other in instance.nics.items() if other is eni]:
        del instance.nics[key]
    eni.instance = eni.attachment_id = eni.attach_time = eni.device_index = None
    eni.network_card_index, eni.status, eni.delete_on_termination = 0, "available", False
    notify()


def detach(backend: Any, attachment_id: str) -> None:
    """DetachNetworkInterface: ``detaching`` at once, ``available`` a little later. The primary cannot be detached."""
    eni = next((e for e in backend.enis.values() if e.attachment_id == attachment_id), None)
    if eni is None or eni.attachment_status == "detaching":
        raise InvalidNetworkAttachmentIdError(attachment_id)
    if eni.instance is None:
        raise error("OperationNotPermitted", f"You do not have permission to detach '{attachment_id}'.")
    if int(eni.device_index) == 0 and eni.network_card_index == 0:
        raise error(
            "OperationNotPermitted",
            "The network interface at device index 0 and networkCard index 0 cannot be detached.",
        )
    eni.attachment_status = "detaching"
    notify()

    def done() -> None:
        if eni.attachment_id == attachment_id:
            unplug(eni.instance, eni)

    TIMERS.call_later(_delays.detach, done)


def set_delays(attach_seconds: float, detach_seconds: float) -> None:
    """How long ``attaching`` and ``detaching`` last; 0 is at once."""
    _delays.attach, _delays.detach = attach_seconds, detach_seconds


def install() -> None:
    """Replace moto's attaching, which refuses nothing."""
    replace(NetworkInterface, "attachment", property(_attachment))
    replace(NetworkInterfaceBackend, "attach_network_interface", attach)
    replace(NetworkInterfaceBackend, "detach_network_interface", detach)
    replace(Instance, "attach_eni", plug)
    replace(Instance, "detach_eni", unplug)
