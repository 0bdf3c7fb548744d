"""The EC2 edge over the simulated cloud: describes that lag, calls that are throttled, lost or not answered."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from berth.calls import (
    AssignAddresses,
    AssignPrefixes,
    Attach,
    Call,
    CreateInterface,
    DeleteInterface,
    Detach,
    SetDeleteOnTermination,
    SetGroups,
    TagForNode,
    Unassign,
)
from berth.ec2_wire import Network
from berth.model import Instance, Intent, InterfaceView, Limits, Outcome, SubnetView

from tests.simulator.buckets import Buckets
from tests.simulator.cloud import Cloud, refusal
from tests.simulator.kernel import Kernel

__all__ = ["ACTIONS", "Faults", "SimEc2"]

ACTIONS: Final[dict[type, str]] = {
    CreateInterface: "CreateNetworkInterface",
    Attach: "AttachNetworkInterface",
    SetDeleteOnTermination: "ModifyNetworkInterfaceAttribute",
    SetGroups: "ModifyNetworkInterfaceAttribute",
    TagForNode: "CreateTags",
    AssignPrefixes: "AssignPrivateIpAddresses",
    AssignAddresses: "AssignPrivateIpAddresses",
    Unassign: "UnassignPrivateIpAddresses",
    Detach: "DetachNetworkInterface",
    DeleteInterface: "DeleteNetworkInterface",
}
_T = TypeVar("_T")
IN_FLIGHT_SECONDS: Final = 12.0
"""A request arrives within the client's connect and read time-outs (2 s and 10 s) or not at all."""


@dataclass(slots=True)
class Faults:
    """Describes show a moment up to ``lag`` seconds ago, each another one; calls are not made
    at the rate ``dropped`` and made without an answer at the rate ``lost``; the table fails at the rate ``table``."""

    lag: float = 0.0
    dropped: float = 0.0
    lost: float = 0.0
    table: float = 0.0


@dataclass
class SimEc2:
    """``judge`` is asked before a call has its effect, and raises if a promise is broken."""

    kernel: Kernel
    cloud: Cloud
    rng: random.Random
    faults: Faults = field(default_factory=Faults)
    buckets: Buckets = field(default_factory=Buckets)
    judge: Callable[[Call, str], None] = lambda _call, _instance: None
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    changes: int = 0
    left_out: dict[str, float] = field(default_factory=dict)
    """Instances that DescribeInstances does not show until then."""
    _made: dict[str, tuple[object, str]] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------- describing

    @property
    def all_interfaces(self) -> dict[str, InterfaceView]:
        """What a walk over a subnet shows, foreign ones too."""
        return self.cloud.interfaces

    def instances(self, ids: Sequence[str]) -> dict[str, Instance]:
        self._describe("DescribeInstances", ids)
        wanted = set(ids)
        shown = {i.id: i for i in self._instances() if i.id in wanted}
        self.kernel.pause()
        return shown

    def interfaces(self, ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        found: dict[str, dict[str, InterfaceView]] = {i: {} for i in ids}
        for by_tag in (False, True):
            self._describe("DescribeNetworkInterfaces", ids)
            for view in self.cloud.past_interfaces.at(self._moment()):
                holder = view.attachment.instance_id if view.attachment else None
                if (view.node if by_tag else holder) in found:
                    for owner in {holder, view.node} & found.keys():
                        if owner is not None:
                            found[owner][view.id] = view
        return {i: tuple(by_id[n] for n in sorted(by_id)) for i, by_id in found.items()}

    def limits(self, types: Iterable[str]) -> dict[str, Limits]:
        return {t: self.cloud.types[t] for t in types if t in self.cloud.types}

    def network(self, vpc_ids: Iterable[str]) -> Network:
        self._describe("DescribeSubnets", ())
        return Network(self.cloud.counted(), (("vpc-1", ("10.0.0.0/16",)),), self.cloud.groups)

    def forget_routes(self, older_than: float) -> None:
        """There are none."""

    def allowed_subnets(self) -> tuple[SubnetView, ...]:
        return tuple(s for s in self.cloud.counted() if s.allowed)

    def node_pages(self, clusters: Iterable[str]) -> Iterator[tuple[Instance, ...]]:
        self._describe("DescribeInstances", ())
        shown = [i for i in self._instances() if not i.dead]
        for start in range(0, len(shown), 2):
            yield tuple(shown[start : start + 2])

    def shown_interfaces(self, action: str) -> list[InterfaceView]:
        """All there were at the moment that this describe shows."""
        self._describe(action, ())
        return self.cloud.past_interfaces.at(self._moment())

    def tagged_interface_pages(self) -> Iterator[tuple[InterfaceView, ...]]:
        self._describe("DescribeNetworkInterfaces", ())
        shown = [i for i in self.cloud.past_interfaces.at(self._moment()) if i.node]
        for start in range(0, len(shown), 5):
            yield tuple(shown[start : start + 5])

    def _describe(self, action: str, what: Iterable[str]) -> None:
        self.kernel.step(action)
        if not self.buckets.take(action, self.kernel.now):
            self.outcomes[action, "RequestLimitExceeded"] += 1
            raise refusal(action, "RequestLimitExceeded")
        if self.kernel.fate():
            raise refusal(action, "InternalError")
        self.outcomes[action, "ok"] += 1

    def _instances(self) -> list[Instance]:
        now = self.kernel.now
        return [i for i in self.cloud.past_instances.at(self._moment()) if self.left_out.get(i.id, now) <= now]

    def _moment(self) -> float:
        lag = self.faults.lag
        return self.kernel.now - self.rng.uniform(0, lag) if lag else self.kernel.now

    # ------------------------------------------------------------------------------------------- changing

    def mutate(self, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        call = intent.call
        action = ACTIONS[type(call)]

        def apply() -> Outcome:
            self.judge(call, instance_id)
            return self._apply(action, call, intent, instance_id, cluster)

        return self.call(action, f"{call} for {instance_id}", apply)

    def call(self, action: str, what: str, apply: Callable[[], _T]) -> _T:
        """A mutating call: it may be refused, or not be answered, or be held up on its way."""
        sent = self.kernel.now
        self.kernel.step(action)
        code = self._fails_before(action, sent)
        if code:
            self._tell(action, code, what)
            raise refusal(action, code)
        try:
            outcome = apply()
        except Exception as error:
            self._tell(action, getattr(error, "code", str(error)), what)
            raise
        self.changes += 1
        lost = self.rng.random() < self.faults.lost or self.kernel.fate() == "lost"
        self._tell(action, "done, answer lost" if lost else "ok", what, outcome)
        self.kernel.pause()
        if lost:
            raise refusal(action, "ReadTimeoutError" if self.rng.random() < 0.5 else "InternalError")
        return outcome

    def _fails_before(self, action: str, sent: float) -> str:
        if self.kernel.now - sent > IN_FLIGHT_SECONDS:
            return "ReadTimeoutError"
        if not self.buckets.take(action, self.kernel.now):
            return "RequestLimitExceeded"
        dropped = self.rng.random() < self.faults.dropped or self.kernel.fate() == "dropped"
        return "InternalError" if dropped else ""

    def _tell(self, action: str, code: str, what: str, outcome: object = None) -> None:
        self.outcomes[action, code] += 1
        if self.kernel.trace is not None:
            brought = ""
            if isinstance(outcome, Outcome):
                brought = f" {outcome.interface.id if outcome.interface else ''} {outcome.blocks or ''}"
            elif isinstance(outcome, InterfaceView):
                brought = f" {outcome.id}"
            self.kernel.say(f"  EC2 {what}: {code}{brought}")

    def _apply(self, action: str, call: Call, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        if isinstance(call, CreateInterface):
            return self._create(action, call, intent, instance_id, cluster)
        view = self.cloud.interfaces.get(call.interface_id)
        if view is None:
            raise refusal(action, "InvalidNetworkInterfaceID.NotFound")
        match call:
            case Attach(device_index=index, network_card=card):
                return self._attach(action, view, instance_id, index, card)
            case SetDeleteOnTermination(attachment_id=attachment_id):
                self._check_attachment(action, view, attachment_id)
                if view.attachment:
                    self.cloud.put(replace(view, attachment=replace(view.attachment, delete_on_termination=True)))
            case Detach(attachment_id=attachment_id):
                self._check_attachment(action, view, attachment_id)
                self.cloud.detach(view)
            case DeleteInterface():
                self.delete(action, view)
            case TagForNode():
                self.cloud.put(replace(view, node=instance_id))
            case AssignPrefixes(count=count):
                self._check_room(action, view, count, prefixes=True)
                return Outcome(blocks=self.cloud.assign(view, prefixes=count))
            case AssignAddresses(count=count):
                self._check_room(action, view, count)
                return Outcome(blocks=self.cloud.assign(view, addresses=count))
            case SetGroups(groups=groups):
                self.cloud.put(replace(view, groups=groups))
            case Unassign(blocks=blocks):
                if not set(blocks) <= set(view.blocks):
                    message = f"Some of {blocks} are not assigned to interface {view.id}"
                    raise refusal(action, "InvalidParameterValue", message)
                self.cloud.unassign(view, blocks)
        return Outcome()

    def delete(self, action: str, view: InterfaceView) -> None:
        """Delete an interface that is attached to nothing."""
        if view.attachment is not None:
            message = f"Network interface '{view.id}' is currently in use."
            raise refusal(action, "InvalidParameterValue", message)
        self.cloud.delete(view)

    def _create(self, action: str, call: CreateInterface, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        known = self._made.get(intent.token)
        asked = (call, int(intent.at))
        if known is not None:
            assert known[0] == asked, f"IdempotentParameterMismatch: {known[0]} before, {asked} now"
            if known[1] not in self.cloud.interfaces:
                raise refusal(action, "InvalidNetworkInterfaceID.NotFound")
            return Outcome(interface=self.cloud.interfaces[known[1]])
        assert bool(call.prefixes) + bool(call.addresses) == (not call.pod), call
        view = self.cloud.new_interface(
            call.subnet_id,
            call.prefixes,
            call.addresses,
            groups=call.groups,
            cluster=cluster,
            node=instance_id,
            created_at=float(int(intent.at)),
            pod=call.pod,
            pod_asks=call.pod_asks,
        )
        self._made[intent.token] = (asked, view.id)
        return Outcome(interface=view)

    def _attach(self, action: str, view: InterfaceView, instance_id: str, index: int, card: int) -> Outcome:
        instance = self.cloud.instances.get(instance_id)
        if instance is None:
            raise refusal(action, "InvalidInstanceID.NotFound")
        if instance.state not in ("running", "stopped"):
            raise refusal(action, "IncorrectState")
        there = [i.attachment for i in self.cloud.attached(instance_id) if i.attachment]
        limits = self.cloud.types[instance.type]
        if len(there) >= limits.interfaces or card not in dict(limits.by_card):
            raise refusal(action, "AttachmentLimitExceeded")
        here = {a.device_index for a in there if a.network_card == card}
        if index in here:
            text = f"Instance '{instance_id}' already has an interface attached at device index '{index}'."
            raise refusal(action, "InvalidParameterValue", text)
        if len(here) >= dict(limits.by_card)[card]:
            raise refusal(action, "AttachmentLimitExceeded")
        if view.attachment is not None:
            raise refusal(action, "InvalidNetworkInterface.InUse")
        return Outcome(attachment_id=self.cloud.attach(view, instance_id, index, card).id)

    def _check_room(self, action: str, view: InterfaceView, count: int, *, prefixes: bool = False) -> None:
        """An interface takes what its instance's type allows; one that is attached to nothing takes more."""
        if view.attachment is None:
            return
        limits = self.cloud.types[self.cloud.instances[view.attachment.instance_id].type]
        if prefixes and not limits.prefixes:
            raise refusal(action, "InvalidParameterCombination")
        if view.slots + count > limits.addresses_per_interface:
            raise refusal(action, "PrivateIpAddressLimitExceeded")

    @staticmethod
    def _check_attachment(action: str, view: InterfaceView, attachment_id: str) -> None:
        if view.attachment is None or view.attachment.id != attachment_id:
            raise refusal(action, "InvalidAttachmentID.NotFound")
