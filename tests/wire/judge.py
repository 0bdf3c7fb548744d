"""Judges each mutating EC2 call when it is about to have its effect, by what is true then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from berth.brake import Level

from tests.sandbox.cloud.calls import Call
from tests.simulator.cloud import MEMORY_SECONDS
from tests.simulator.promises import BrokenPromise, Promises

from .cloud import WireCloud

__all__ = ["Judge"]

_TAKING_AWAY: Final = ("UnassignPrivateIpAddresses", "DetachNetworkInterface", "DeleteNetworkInterface")
_OWN_ONLY: Final = (*_TAKING_AWAY, "AttachNetworkInterface", "ModifyNetworkInterfaceAttribute", "CreateTags")
RACE_SECONDS: Final = MEMORY_SECONDS + 60.0


class Judge:
    """``brake`` gives the level that every running batch must know of."""

    def __init__(self, cloud: WireCloud, promises: Promises, brake: Callable[[], Level]) -> None:
        self._cloud, self._promises, self._brake = cloud, promises, brake

    def about_to(self, call: Call) -> None:
        """Raises :class:`BrokenPromise`."""
        level = self._brake()
        if level is Level.READ_ONLY or (level is Level.NO_RELEASE and call.action in _TAKING_AWAY):
            raise BrokenPromise(f"{call.action} {dict(call.params)}: the brake is at {level.value}")
        name = self._target(call)
        view = self._cloud.interfaces.get(name)
        if view is None:
            return
        if view.id in self._promises.foreign:
            raise BrokenPromise(f"{call.action} {dict(call.params)}: a foreign interface")
        if self._cloud.kernel.now - self._promises.moved.get(name, float("-inf")) < RACE_SECONDS:
            return
        at = view.attachment
        primary = at is not None and at.device_index == 0 and at.network_card == 0
        if call.action in _OWN_ONLY and not (primary or view.node or view.standby):
            raise BrokenPromise(f"{call.action} {dict(call.params)}: not ours: {view}")
        holder = self._cloud.instances.get(at.instance_id) if at else None
        if call.action == "DetachNetworkInterface" and holder and holder.state in ("pending", "running"):
            raise BrokenPromise(f"{call.action} {name}: detached from {holder.id}, which is {holder.state}")
        if call.action == "AttachNetworkInterface":
            wanted, owner = call.params.get("InstanceId"), view.node or self._promises.owner_of(name)
            if owner != wanted:
                raise BrokenPromise(f"{name} is {owner}'s and about to be attached to {wanted}")

    def _target(self, call: Call) -> str:
        """The interface that a call is about."""
        params = call.params
        if "AttachmentId" in params:
            there = self._cloud.interfaces.values()
            return next((i.id for i in there if i.attachment and i.attachment.id == params["AttachmentId"]), "")
        return str(params.get("NetworkInterfaceId") or params.get("ResourceId.1") or "")
