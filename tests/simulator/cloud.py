"""What is true in the simulated EC2: instances, interfaces, subnets, and how each was a moment ago."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from berth.ec2_wire import Ec2Error, classify
from berth.model import Attachment, Instance, InterfaceView, Limits, SubnetView

from tests.simulator.kernel import Kernel
from tests.simulator.space import NoPrefixError, Space, SubnetFullError
from tests.unit.control.fakes import ARN_PREFIX, GROUP

__all__ = ["MEMORY_SECONDS", "TYPES", "ZONE", "Cloud", "Past", "refusal"]

ZONE = "eu-west-1a"
MEMORY_SECONDS = 60.0
"""Describes never lag by more than this."""
TYPES = {
    "m5.large": Limits(interfaces=3, addresses_per_interface=10),
    "m6i.xlarge": Limits(interfaces=4, addresses_per_interface=15),
    "t3.nano": Limits(interfaces=2, addresses_per_interface=2),
    "t3.small": Limits(interfaces=3, addresses_per_interface=4),
    "t3.medium": Limits(interfaces=3, addresses_per_interface=6),
    "c6in.32xlarge": Limits(interfaces=4, addresses_per_interface=6, cards=((0, 2), (1, 2))),
    "t2.large": Limits(interfaces=3, addresses_per_interface=12, prefixes=False),
}
"""As DescribeInstanceTypes gives them, but for the one with two network cards, which is made small."""

_T = TypeVar("_T")


def refusal(action: str, code: str, message: str = "as told") -> Ec2Error:
    """EC2's error, sorted by the very code that sorts the real one's."""
    return Ec2Error(action, code, message, classify(code, message))


class Past(Generic[_T]):
    """What things were, by id, as far back as describes lag."""

    def __init__(self) -> None:
        self._versions: dict[str, list[tuple[float, _T | None]]] = {}

    def note(self, name: str, value: _T | None, now: float) -> None:
        versions = self._versions.setdefault(name, [])
        versions.append((now, value))
        if len(versions) > 8:
            kept = next((n for n in range(len(versions) - 1, 0, -1) if versions[n][0] < now - MEMORY_SECONDS), 0)
            del versions[:kept]

    def at(self, moment: float) -> list[_T]:
        """Everything there was at a moment."""
        found = []
        for versions in self._versions.values():
            for since, value in reversed(versions):
                if since <= moment:
                    if value is not None:
                        found.append(value)
                    break
        return found

    def forget(self, now: float) -> None:
        """Drop what has been gone for long."""
        for name in [n for n, v in self._versions.items() if v[-1][1] is None and v[-1][0] < now - MEMORY_SECONDS]:
            del self._versions[name]


@dataclass
class Cloud:
    """``watch`` is called with an interface as it was and as it is whenever one changes (None: not there)."""

    kernel: Kernel
    rng: random.Random
    watch: Callable[[InterfaceView | None, InterfaceView | None], None] = lambda _old, _new: None
    types: dict[str, Limits] = field(default_factory=lambda: dict(TYPES))
    groups: frozenset[str] = frozenset({GROUP, "sg-22222222"})
    instances: dict[str, Instance] = field(default_factory=dict)
    interfaces: dict[str, InterfaceView] = field(default_factory=dict)
    subnets: dict[str, SubnetView] = field(default_factory=dict)
    spaces: dict[str, Space] = field(default_factory=dict)
    past_instances: Past[Instance] = field(default_factory=Past)
    past_interfaces: Past[InterfaceView] = field(default_factory=Past)
    slow: float = 0.0
    """Attaching takes up to this many seconds, detaching up to five times as many."""
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    # ------------------------------------------------------------------------------------------- scenery

    def add_subnet(self, name: str, cidr: str, *, zone: str = ZONE, allowed: bool = True) -> None:
        self.subnets[name] = SubnetView(name, cidr, "vpc-1", zone, 0, allowed)
        self.spaces[name] = Space(cidr, self.rng)

    def counted(self) -> tuple[SubnetView, ...]:
        return tuple(replace(s, free=self.spaces[s.id].count) for s in self.subnets.values())

    def put_instance(self, instance: Instance) -> None:
        self.instances[instance.id] = instance
        self.past_instances.note(instance.id, instance, self.kernel.now)

    def put(self, view: InterfaceView) -> InterfaceView:
        old = self.interfaces.get(view.id)
        self.interfaces[view.id] = view
        self.past_interfaces.note(view.id, view, self.kernel.now)
        self.watch(old, view)
        return view

    def attached(self, instance_id: str) -> list[InterfaceView]:
        return [i for i in self.interfaces.values() if i.attachment and i.attachment.instance_id == instance_id]

    def launch(self, instance_id: str, type: str, subnet: str, tags: dict[str, str], prefixes: int = 0) -> Instance:
        """RunInstances. Raises :class:`Ec2Error` where the subnet is too full for it."""
        primary = self.new_interface(subnet, prefixes=prefixes)
        instance = Instance(
            id=instance_id,
            arn=ARN_PREFIX + instance_id,
            state="pending",
            type=type,
            subnet_id=subnet,
            vpc_id="vpc-1",
            zone=ZONE,
            launched_at=self.kernel.now,
            tags=tuple(sorted(({"kubernetes.io/cluster/demo": "owned"} | tags).items())),
        )
        self.put_instance(instance)
        self.put(replace(primary, attachment=self.attachment(instance_id, 0, delete=True)))
        return instance

    def free_position(self, instance_id: str) -> tuple[int, int] | None:
        """The last (card, index) where something can be attached."""
        limits = self.types[self.instances[instance_id].type]
        there = [i.attachment for i in self.attached(instance_id) if i.attachment]
        for card, most in reversed(limits.by_card):
            used = {a.device_index for a in there if a.network_card == card}
            if len(used) < most and len(there) < limits.interfaces:
                return card, max(set(range(most)) - used)
        return None

    def attachment(self, instance_id: str, index: int, card: int = 0, *, delete: bool = False) -> Attachment:
        return Attachment(f"eni-attach-{next(self._ids)}", instance_id, index, card, "attached", delete)

    def new_interface(self, subnet: str, prefixes: int = 0, addresses: int = 0, **more: object) -> InterfaceView:
        number = next(self._ids)
        space = self.spaces[subnet]
        before = space.free
        try:
            primary = self._take(subnet, addresses=1)[0].removesuffix("/32")
            blocks = self._take(subnet, prefixes, addresses)
        except Ec2Error:
            space.free = before
            raise
        view = InterfaceView(
            id=f"eni-{number:08x}",
            mac=f"06:00:00:00:{number >> 8:02x}:{number & 255:02x}",
            subnet_id=subnet,
            vpc_id="vpc-1",
            zone=self.subnets[subnet].zone,
            primary_address=primary,
            addresses=tuple(b.removesuffix("/32") for b in blocks if b.endswith("/32")),
            prefixes=tuple(b for b in blocks if not b.endswith("/32")),
            groups=(GROUP,),
        )
        return self.put(replace(view, **more))  # type: ignore[arg-type]

    def _take(self, subnet: str, prefixes: int = 0, addresses: int = 0) -> tuple[str, ...]:
        space, action = self.spaces[subnet], "AssignPrivateIpAddresses"
        try:
            return (*space.take_prefixes(prefixes), *(f"{a}/32" for a in space.take(addresses)))
        except NoPrefixError:
            raise refusal(action, "InsufficientCidrBlocks") from None
        except SubnetFullError:
            raise refusal(action, "InsufficientFreeAddressesInSubnet") from None

    # ------------------------------------------------------------------------------------------- life

    def set_state(self, instance_id: str, state: str) -> None:
        """As EC2 does: termination deletes what is marked so, and lets go of the rest."""
        self.put_instance(replace(self.instances[instance_id], state=state))
        self.kernel.say(f"    {instance_id} is {state}")
        if state == "terminated":
            for view in self.attached(instance_id):
                if view.attachment and view.attachment.delete_on_termination:
                    self.delete(view)
                else:
                    self.put(replace(view, attachment=None))

    def can_start(self, instance_id: str) -> bool:
        """Whether its type allows what is attached: StartInstances fails otherwise."""
        limits = self.types[self.instances[instance_id].type]
        there = self.attached(instance_id)
        cards = Counter(i.attachment.network_card for i in there if i.attachment)
        return (
            len(there) <= limits.interfaces
            and all(count <= dict(limits.by_card).get(card, 0) for card, count in cards.items())
            and all(i.slots <= limits.addresses_per_interface for i in there)
        )

    # ------------------------------------------------------------------------------------------- changes

    def delete(self, view: InterfaceView) -> None:
        space = self.spaces[view.subnet_id]
        for block in (view.primary_address, *view.prefixes, *view.addresses):
            space.give(block)
        del self.interfaces[view.id]
        self.past_interfaces.note(view.id, None, self.kernel.now)
        self.watch(view, None)

    def assign(self, view: InterfaceView, prefixes: int = 0, addresses: int = 0) -> tuple[str, ...]:
        blocks = tuple(sorted(self._take(view.subnet_id, prefixes, addresses)))
        self.put(
            replace(
                view,
                prefixes=(*view.prefixes, *(b for b in blocks if not b.endswith("/32"))),
                addresses=(*view.addresses, *(b.removesuffix("/32") for b in blocks if b.endswith("/32"))),
            )
        )
        return blocks

    def unassign(self, view: InterfaceView, blocks: tuple[str, ...]) -> None:
        for block in blocks:
            self.spaces[view.subnet_id].give(block.removesuffix("/32"))
        self.put(
            replace(
                view,
                prefixes=tuple(p for p in view.prefixes if p not in blocks),
                addresses=tuple(a for a in view.addresses if f"{a}/32" not in blocks),
            )
        )

    def attach(self, view: InterfaceView, instance_id: str, index: int, card: int = 0) -> Attachment:
        at = self.attachment(instance_id, index, card)
        seconds = self.rng.uniform(0, self.slow) if self.slow else 0.0
        self.put(replace(view, attachment=replace(at, status="attaching" if seconds else "attached")))
        if seconds:
            self.kernel.after(seconds, lambda: self._attached(view.id, at.id))
        return at

    def _attached(self, interface_id: str, attachment_id: str) -> None:
        view = self.interfaces.get(interface_id)
        if view and view.attachment and (view.attachment.id, view.attachment.status) == (attachment_id, "attaching"):
            self.put(replace(view, attachment=replace(view.attachment, status="attached")))

    def detach(self, view: InterfaceView) -> None:
        at = view.attachment
        if at is None:
            return
        seconds = self.rng.uniform(0, 5 * self.slow) if self.slow else 0.0
        if seconds:
            self.put(replace(view, attachment=replace(at, status="detaching")))
        self.kernel.after(seconds, lambda: self._detached(view.id, at.id))

    def _detached(self, interface_id: str, attachment_id: str) -> None:
        view = self.interfaces.get(interface_id)
        if view and view.attachment and view.attachment.id == attachment_id:
            self.put(replace(view, attachment=None))
