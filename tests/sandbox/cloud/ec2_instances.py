"""Instances that take time: ``pending`` to ``running``, ``shutting-down`` to ``terminated``, stop and start.

Each transition puts its event on the bus. An instance's interfaces are plugged at launch; at termination those with
DeleteOnTermination go and the others are left ``available`` (docs: EC2 user guide, "Terminate your instance").
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from moto.ec2.models.instances import Instance, InstanceBackend
from moto.ec2.models.instances import InstanceState as MotoState

from .changes import notify
from .ec2_attachments import unplug
from .ec2_errors import error
from .ec2_events import state_change
from .ec2_interfaces import remove
from .patching import replace
from .timers import TIMERS

__all__ = ["CODES", "Delays", "begin", "boot", "install", "set_delays"]

CODES: Final = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds that each transition takes. AWS publishes none; seconds to tens of seconds are usual there."""

    pending: float = 0.3
    shutting_down: float = 0.3
    stopping: float = 0.3


@dataclass(slots=True)
class _State:
    """The delays in force, and moto's own methods by name, which still do everything but the transition."""

    delays: Delays = field(default_factory=Delays)
    moto: dict[str, Callable[[Any], Any]] = field(default_factory=dict)


_here: Final = _State()


def _enter(instance: Any, state: str) -> None:
    """Be in ``state`` now, and say so on the bus."""
    # A new object: moto copies it shallowly to answer with the previous state.
    instance._state = MotoState(state, CODES[state])
    notify()
    state_change(instance.ec2_backend, instance.id, state)


def _moto(instance: Any, name: str) -> None:
    """Run moto's own method. It writes into the state object, which describes may still be showing."""
    instance._state = copy.copy(instance._state)
    _here.moto[name](instance)


def begin(instance: Any, passing: str, seconds: float, finish: Callable[[], None]) -> None:
    """Enter ``passing``, and ``finish`` after ``seconds`` unless another transition began meanwhile."""
    instance._transition = marker = object()
    _enter(instance, passing)

    def due() -> None:
        if instance._transition is marker:
            finish()

    TIMERS.call_later(seconds, due)


def boot(instance: Any) -> None:
    """The transition that RunInstances and StartInstances begin."""
    begin(instance, "pending", _here.delays.pending, lambda: _enter(instance, "running"))


def _start(instance: Any) -> Any:
    previous = copy.copy(instance._state)
    if previous.name == "stopped":
        _moto(instance, "start")
        boot(instance)
    elif previous.name not in ("pending", "running"):
        raise error(
            "IncorrectInstanceState",
            f"The instance '{instance.id}' is not in a state from which it can be started.",
        )
    return previous


def _stop(instance: Any) -> Any:
    previous = copy.copy(instance._state)
    if previous.name in ("stopping", "stopped"):
        return previous
    if previous.name in ("shutting-down", "terminated"):
        raise error(
            "IncorrectInstanceState", f"The instance '{instance.id}' is not in a state from which it can be stopped."
        )
    _moto(instance, "stop")
    begin(instance, "stopping", _here.delays.stopping, lambda: _enter(instance, "stopped"))
    return previous


def _terminate(instance: Any) -> Any:
    previous = copy.copy(instance._state)
    if previous.name not in ("shutting-down", "terminated"):
        begin(instance, "shutting-down", _here.delays.shutting_down, lambda: _end(instance))
    return previous


def _end(instance: Any) -> None:
    for eni in list(instance.nics.values()):
        goes = eni.delete_on_termination
        unplug(instance, eni)
        if goes:
            remove(instance.ec2_backend, eni)
    _moto(instance, "terminate")  # moto's: volumes, fleets, the profile's association
    _enter(instance, "terminated")


def _terminate_instances(backend: Any, instance_ids: list[str]) -> list[tuple[Any, Any]]:
    """All or none: protection of one instance refuses the call before any is touched."""
    if not instance_ids:
        raise error("InvalidParameterCombination", "No instances specified")
    instances = backend.get_multi_instances_by_id(instance_ids)
    for instance in instances:
        if instance.disable_api_termination is True:
            raise error(
                "OperationNotPermitted",
                f"The instance '{instance.id}' may not be terminated. Modify its 'disableApiTermination' instance "
                "attribute and try again.",
            )
    return [(instance, _terminate(instance)) for instance in instances]


def _first(name: str) -> property:
    def read(instance: Any) -> Any:
        return getattr(instance.nics[0], name) if 0 in instance.nics else None

    return property(read)


def _private_dns_name(instance: Any) -> str:
    address = instance.private_ip
    return f"ip-{address.replace('.', '-')}.{instance.region_name}.compute.internal" if address else ""


def set_delays(delays: Delays) -> None:
    """For the transitions that begin from now on."""
    _here.delays = delays


def install() -> None:
    """Replace moto's immediate transitions. ``ec2_launch`` makes RunInstances begin with :func:`boot`."""
    for name, replacement in (("terminate", _terminate), ("start", _start), ("stop", _stop)):
        _here.moto[name] = replace(Instance, name, replacement)
    replace(InstanceBackend, "terminate_instances", _terminate_instances)
    # A terminated instance has no interfaces, and so no addresses.
    for name, source in (
        ("private_ip", "private_ip_address"),
        ("private_ip_address", "private_ip_address"),
        ("public_ip", "public_ip"),
        ("public_ip_address", "public_ip"),
    ):
        replace(Instance, name, _first(source))
    replace(Instance, "private_dns_name", property(_private_dns_name))
