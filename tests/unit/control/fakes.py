"""An EC2, a table, a queue and a bus in memory, with AWS's rules as far as the control plane relies on them.

They share a :class:`Machine`, which can be told to die before its n-th step: from then on every step raises, as
nothing runs in a killed process, until it is started again.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
from berth.buckets import Reservation
from berth.bus import SOURCE, Event
from berth.calls import (
    AssignAddresses,
    AssignIpv6Prefixes,
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
from berth.contract import Policy, Record, Report, decode_record, decode_report, encode_record, encode_report
from berth.ec2_wire import Ec2Error, Network, Trouble, classify
from berth.edges import Edges
from berth.events import Signal
from berth.events.node_look_requested import HookWait
from berth.intents import decode_intents, encode_intents
from berth.model import Attachment, Instance, Intent, InterfaceView, Limits, Notes, Outcome, SubnetView
from berth.node_items import Heard
from berth.routes import RouteTable
from berth.settings import Settings
from berth.store import NodeState, RevisionConflictError, digest

NODE = "i-0123456789abcdef0"
ARN_PREFIX = "arn:aws:ec2:eu-west-1:123456789012:instance/"
ARN = ARN_PREFIX + NODE
SUBNET = "subnet-a"
GROUP = "sg-11111111"
LIMITS = Limits(interfaces=3, addresses_per_interface=10)


class Died(BaseException):
    """The process was killed here. Not an Exception: nothing can catch it."""


@dataclass
class Machine:
    """Counts steps; dies before step ``dies_at``. ``now`` is the clock of everything."""

    now: float = 1_000_000.0
    steps: int = 0
    dies_at: int | None = None
    dead: bool = False

    def step(self) -> None:
        if self.dead or self.steps == self.dies_at:
            self.dead = True
            raise Died
        self.steps += 1

    def restart(self) -> None:
        self.dead, self.dies_at = False, None

    def clock(self) -> float:
        self.now += 0.01
        return self.now


class FakeEc2:
    """Instances, interfaces, subnets. ``refuse`` maps a call's type to the errors of its next calls, which do nothing;
    the next ``loses_answers`` calls of type ``loses`` are made, and nobody hears of it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.all_instances: dict[str, Instance] = {}
        self.all_interfaces: dict[str, InterfaceView] = {}
        self.types = {"m5.large": LIMITS, "t2.large": replace(LIMITS, prefixes=False)}
        self.subnets: dict[str, SubnetView] = {}
        self.groups = frozenset({GROUP})
        self.refuse: dict[type[Call], list[Ec2Error]] = {}
        self.calls: list[Call] = []
        self.loses_answers = 0
        self.loses: type = object
        self.route_tables: tuple[RouteTable, ...] = ()
        self.routes_forgotten: list[float] = []
        self._made: dict[str, tuple[object, str]] = {}
        self._ids = itertools.count(1)
        self._free: dict[str, list[ipaddress.IPv4Network]] = {}
        self.add_subnet(SUBNET, "10.0.1.0/24")

    # ------------------------------------------------------------------------------------- building the scene

    def add_subnet(self, name: str, cidr: str, *, zone: str = "eu-west-1a", allowed: bool = True, **tags: str) -> None:
        self.subnets[name] = SubnetView(name, cidr, "vpc-1", zone, 0, allowed, tuple(sorted(tags.items())))
        hosts = ipaddress.IPv4Network(cidr)
        self._free[name] = [
            ipaddress.IPv4Network((int(hosts[0]) + 16 * n, 28)) for n in range(hosts.num_addresses // 16)
        ]

    def launch(self, instance_id: str = NODE, *, state: str = "running", type: str = "m5.large", **tags: str) -> None:
        named = {"kubernetes.io/cluster/demo": "owned"} | {
            k.replace("__", ":").replace("_", "-"): v for k, v in tags.items()
        }
        self.all_instances[instance_id] = Instance(
            id=instance_id,
            arn=ARN_PREFIX + instance_id,
            state=state,
            type=type,
            subnet_id=SUBNET,
            vpc_id="vpc-1",
            zone="eu-west-1a",
            launched_at=self._machine.now,
            tags=tuple(sorted(named.items())),
        )
        primary = self._new(SUBNET, (GROUP,))
        at = Attachment(f"eni-attach-{primary.id}", instance_id, 0, 0, "attached", True)
        self.all_interfaces[primary.id] = replace(primary, attachment=at)

    def set_state(self, state: str, instance_id: str = NODE) -> None:
        """As EC2 does: termination deletes what is marked so, and lets go of the rest."""
        self.all_instances[instance_id] = replace(self.all_instances[instance_id], state=state)
        if state != "terminated":
            return
        for interface in list(self.all_interfaces.values()):
            if interface.attachment and interface.attachment.instance_id == instance_id:
                if interface.attachment.delete_on_termination:
                    self._delete(interface.id)
                else:
                    self.all_interfaces[interface.id] = replace(interface, attachment=None)

    def forget(self, instance_id: str = NODE) -> None:
        del self.all_instances[instance_id]

    def primary(self, instance_id: str = NODE) -> InterfaceView:
        return next(i for i in self.all_interfaces.values() if i.is_primary_of(instance_id))

    def ours(self, instance_id: str = NODE) -> list[InterfaceView]:
        return [i for i in self.all_interfaces.values() if i.node == instance_id]

    def assigned(self) -> set[str]:
        return {b for i in self.all_interfaces.values() for b in i.blocks}

    # ------------------------------------------------------------------------------------- what is described

    def instances(self, ids: Sequence[str]) -> dict[str, Instance]:
        self._machine.step()
        return {i: self.all_instances[i] for i in ids if i in self.all_instances}

    def interfaces(self, ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        self._machine.step()

        def concerns(view: InterfaceView, instance_id: str) -> bool:
            return view.node == instance_id or (view.attachment or Attachment("", "", 0)).instance_id == instance_id

        return {i: tuple(v for v in self.all_interfaces.values() if concerns(v, i)) for i in ids}

    def limits(self, types: Iterable[str]) -> dict[str, Limits]:
        self._machine.step()
        return {t: self.types[t] for t in types if t in self.types}

    def network(self, vpc_ids: Iterable[str]) -> Network:
        self._machine.step()
        cidrs, tables = (("vpc-1", ("10.0.0.0/16",)),), (("vpc-1", self.route_tables),)
        return Network(self._counted(), cidrs, self.groups, tables)

    def forget_routes(self, older_than: float) -> None:
        self.routes_forgotten.append(older_than)

    def allowed_subnets(self) -> tuple[SubnetView, ...]:
        return tuple(s for s in self._counted() if s.allowed)

    def node_pages(self, clusters: Iterable[str]) -> Iterator[tuple[Instance, ...]]:
        for instance in self.all_instances.values():
            if not instance.dead:
                yield (instance,)

    def tagged_interface_pages(self) -> Iterator[tuple[InterfaceView, ...]]:
        for interface in list(self.all_interfaces.values()):
            if interface.node:
                yield (interface,)

    def _counted(self) -> tuple[SubnetView, ...]:
        return tuple(
            replace(s, free=sum(n.num_addresses for n in self._free[s.id]))
            for s in sorted(self.subnets.values(), key=lambda s: s.id)
        )

    # ------------------------------------------------------------------------------------- what is changed

    def mutate(self, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        self._machine.step()
        call = intent.call
        self.calls.append(call)
        waiting = self.refuse.get(type(call), [])
        if waiting:
            raise waiting.pop(0)
        outcome = self._apply(call, intent, instance_id, cluster)
        if self.loses_answers and isinstance(call, self.loses):
            self.loses_answers -= 1
            raise refusal("ReadTimeoutError", Trouble.IN_DOUBT)
        self._machine.step()  # a process may die after EC2 has acted and before it heard of it
        return outcome

    def _apply(self, call: Call, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        if isinstance(call, CreateInterface):
            return self._create(call, intent, instance_id, cluster)
        view = self._find(call.interface_id)
        match call:
            case Attach(device_index=index, network_card=card):
                return self._attach(view, self.all_instances[instance_id], index, card)
            case SetDeleteOnTermination(attachment_id=attachment_id):
                at = self._attachment(view, attachment_id)
                self.all_interfaces[view.id] = replace(view, attachment=replace(at, delete_on_termination=True))
            case Detach(attachment_id=attachment_id):
                self._attachment(view, attachment_id)
                self.all_interfaces[view.id] = replace(view, attachment=None)
            case DeleteInterface():
                if view.attachment is not None:
                    raise refusal("InvalidNetworkInterface.InUse", Trouble.STATE)
                self._delete(view.id)
            case AssignPrefixes(count=count):
                return Outcome(blocks=self._assign(view, prefixes=count))
            case AssignAddresses(count=count):
                return Outcome(blocks=self._assign(view, addresses=count))
            case AssignIpv6Prefixes(count=count):
                return Outcome(blocks=self._assign_ipv6(view, count))
            case TagForNode():
                self.all_interfaces[view.id] = replace(view, node=instance_id)
            case SetGroups(groups=groups):
                if not set(groups) <= self.groups:
                    raise refusal("UnauthorizedOperation", Trouble.REFUSED)
                self.all_interfaces[view.id] = replace(view, groups=groups)
            case Unassign(blocks=blocks):
                self._unassign(view, blocks)
        return Outcome()

    def _create(self, call: CreateInterface, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        known = self._made.get(intent.token)
        if known is not None:
            assert known[0] == (call, int(intent.at)), "IdempotentParameterMismatch"
            return Outcome(interface=self._find(known[1]))
        assert bool(call.prefixes) + bool(call.addresses) == (not call.pod)
        made = self._new(call.subnet_id, call.groups)
        view = replace(made, cluster=cluster, node=instance_id, created_at=float(int(intent.at)))
        view = replace(view, pod=call.pod, pod_asks=call.pod_asks)
        self.all_interfaces[view.id] = view
        try:
            self._assign(view, prefixes=call.prefixes, addresses=call.addresses)
            if call.ipv6_prefixes:
                self._assign_ipv6(self.all_interfaces[view.id], call.ipv6_prefixes)
        except Ec2Error:
            self._delete(view.id)
            raise
        self._made[intent.token] = ((call, int(intent.at)), view.id)
        return Outcome(interface=self.all_interfaces[view.id])

    def _attach(self, view: InterfaceView, instance: Instance, index: int, card: int) -> Outcome:
        if instance.state not in ("running", "stopped"):
            raise refusal("IncorrectState", Trouble.STATE)
        here = [i for i in self.all_interfaces.values() if i.attachment and i.attachment.instance_id == instance.id]
        if len(here) >= self.types[instance.type].interfaces:
            raise refusal("AttachmentLimitExceeded", Trouble.LIMIT)
        if index in {i.attachment.device_index for i in here if i.attachment}:
            text = f"Instance '{instance.id}' already has an interface attached at device index '{index}'."
            raise refusal("InvalidParameterValue", classify("InvalidParameterValue", text))
        if view.attachment is not None:
            raise refusal("InvalidNetworkInterface.InUse", Trouble.STATE)
        at = Attachment(f"eni-attach-{next(self._ids)}", instance.id, index, card)
        self.all_interfaces[view.id] = replace(view, attachment=at)
        return Outcome(attachment_id=at.id)

    def _assign(self, view: InterfaceView, prefixes: int = 0, addresses: int = 0) -> tuple[str, ...]:
        if view.slots + prefixes + addresses > LIMITS.addresses_per_interface:
            raise refusal("PrivateIpAddressLimitExceeded", Trouble.LIMIT)
        free = self._free[view.subnet_id]
        whole = [n for n in free if n.prefixlen == 28]
        if len(whole) < prefixes:
            raise refusal("InsufficientCidrBlocks", Trouble.FRAGMENTED)
        if sum(n.num_addresses for n in free) < addresses:
            raise refusal("InsufficientFreeAddressesInSubnet", Trouble.EXHAUSTED)
        taken = whole[:prefixes]
        for network in taken:
            free.remove(network)
        taken += [self._one(view.subnet_id) for _ in range(addresses)]
        blocks = tuple(sorted(map(str, taken)))
        self.all_interfaces[view.id] = replace(
            view,
            prefixes=(*view.prefixes, *(b for b in blocks if not b.endswith("/32"))),
            addresses=(*view.addresses, *(b.removesuffix("/32") for b in blocks if b.endswith("/32"))),
        )
        return blocks

    def _assign_ipv6(self, view: InterfaceView, count: int) -> tuple[str, ...]:
        if not self.subnets[view.subnet_id].ipv6:
            raise refusal("InvalidParameterValue", Trouble.REFUSED)
        blocks = tuple(f"2001:db8:0:1:{next(self._ids):x}::/80" for _ in range(count))
        self.all_interfaces[view.id] = replace(view, ipv6_prefixes=(*view.ipv6_prefixes, *blocks))
        return blocks

    def _one(self, subnet: str) -> ipaddress.IPv4Network:
        free = self._free[subnet]
        if not free:
            raise refusal("InsufficientFreeAddressesInSubnet", Trouble.EXHAUSTED)
        network = max(free, key=lambda n: (n.prefixlen, -int(n[0])))
        free.remove(network)
        one = ipaddress.IPv4Network((network[0], 32))
        if network != one:
            free.extend(network.address_exclude(one))
        return one

    def _unassign(self, view: InterfaceView, blocks: tuple[str, ...]) -> None:
        if not set(blocks) <= set(view.blocks):
            raise refusal("InvalidParameterValue", Trouble.GONE)
        self._free[view.subnet_id] = sorted([*self._free[view.subnet_id], *map(ipaddress.IPv4Network, blocks)])
        self.all_interfaces[view.id] = replace(
            view,
            prefixes=tuple(p for p in view.prefixes if p not in blocks),
            addresses=tuple(a for a in view.addresses if f"{a}/32" not in blocks),
        )

    def _new(self, subnet: str, groups: tuple[str, ...]) -> InterfaceView:
        number = next(self._ids)
        address = str(self._one(subnet)[0])
        zone = self.subnets[subnet].zone
        mac = f"06:00:00:00:00:{number:02x}"
        return InterfaceView(f"eni-{number:08x}", mac, subnet, "vpc-1", zone, address, groups=groups)

    def _delete(self, interface_id: str) -> None:
        view = self.all_interfaces.pop(interface_id)
        blocks = [ipaddress.IPv4Network(b) for b in (*view.blocks, f"{view.primary_address}/32")]
        self._free[view.subnet_id] += blocks

    def _find(self, interface_id: str) -> InterfaceView:
        if interface_id not in self.all_interfaces:
            raise refusal("InvalidNetworkInterfaceID.NotFound", Trouble.GONE)
        return self.all_interfaces[interface_id]

    @staticmethod
    def _attachment(view: InterfaceView, attachment_id: str) -> Attachment:
        if view.attachment is None or view.attachment.id != attachment_id:
            raise refusal("InvalidAttachmentID.NotFound", Trouble.GONE)
        return view.attachment


def refusal(code: str, trouble: Trouble) -> Ec2Error:
    return Ec2Error("test", code, "as told", trouble)


@dataclass
class _Items:
    body: str = ""
    marked: tuple[tuple[str, int], ...] = ()
    notes: Notes = field(default_factory=Notes)
    revision: int = 0
    report: str = ""
    intents: str = ""
    slots: tuple[Reservation, ...] = ()
    expires_at: float | None = None
    requested_at: float = 0.0
    heard: Heard = field(default_factory=Heard)


class FakeStore:
    """The table. Keeps JSON, as the real one does, so that nothing survives that would not survive there."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.items: dict[str, _Items] = {}
        self.leases: dict[str, tuple[str, float, int]] = {}
        self.history: list[Record] = []
        self.lease_writes = 0

    def record(self, arn: str = ARN) -> Record | None:
        item = self.items.get(arn)
        return decode_record(item.body) if item and item.body else None

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]:
        self._machine.step()
        return {arn: self._state(self.items.get(arn, _Items())) for arn in arns}

    def records(self) -> Iterator[tuple[str, NodeState]]:
        for arn, item in self.items.items():
            if item.body:
                yield arn, self._state(item)

    @staticmethod
    def _state(item: _Items) -> NodeState:
        return NodeState(
            record=decode_record(item.body) if item.body else None,
            marked=item.marked,
            notes=item.notes,
            report=decode_report(item.report) if item.report else None,
            intents=decode_intents(item.intents) if item.intents else (),
            buried=item.expires_at is not None,
            slots=item.slots,
            heard=item.heard,
        )

    def save(self, arn: str, record: Record, marked: tuple[tuple[str, int], ...], notes: Notes) -> None:
        self._machine.step()
        item = self.items.setdefault(arn, _Items())
        self._write(arn, item, record)
        kept = item.notes
        item.marked, item.expires_at = marked, None
        item.notes = replace(
            notes,
            draining_until=kept.draining_until,
            requested=kept.requested,
            requested_until=kept.requested_until,
            hook_group=kept.hook_group,
            hook_name=kept.hook_name,
            hook_at=kept.hook_at,
        )

    def bury(self, arn: str, record: Record, expires_at: float) -> None:
        self._machine.step()
        item = self.items.setdefault(arn, _Items())
        item.report, item.intents, item.slots, item.heard = "", "", (), Heard()
        self._write(arn, item, record)
        item.marked, item.notes, item.expires_at, item.requested_at = (), Notes(), expires_at, 0.0

    def _write(self, arn: str, item: _Items, record: Record) -> None:
        changed = bool(item.body) and digest(record) != digest(decode_record(item.body))
        if record.revision < item.revision or (record.revision == item.revision and changed):
            raise RevisionConflictError(f"{arn}: revision {record.revision} cannot follow {item.revision}")
        item.body, item.revision = encode_record(record), record.revision
        self.history.append(record)

    def save_intents(self, arn: str, intents: Sequence[Intent], slots: Sequence[Reservation] = ()) -> None:
        self._machine.step()
        item = self.items.setdefault(arn, _Items())
        item.intents, item.slots = encode_intents(intents), tuple(slots)

    def accept_report(self, arn: str, report: Report, heard: Heard | None = None) -> bool:
        item = self.items.setdefault(arn, _Items())
        if item.report and decode_report(item.report).order > report.order:
            return False
        item.report, item.heard = encode_report(report), heard or Heard()
        return True

    def hint(self, arn: str, signal: Signal) -> bool:
        item = self.items.get(arn)
        if item is None or not item.body or item.expires_at is not None:
            return False
        if signal.draining_until > 0:
            item.notes = replace(item.notes, draining_until=signal.draining_until)
        if signal.requested_until > 0:
            if item.requested_at > signal.requested_at:
                return False
            item.requested_at = signal.requested_at
            item.notes = replace(item.notes, requested=signal.requested, requested_until=signal.requested_until)
        if signal.hook_name:
            item.notes = replace(
                item.notes, hook_group=signal.hook_group, hook_name=signal.hook_name, hook_at=signal.hook_at
            )
        return True

    def unhook(self, arn: str, hook_at: float) -> None:
        self._machine.step()
        item = self.items.get(arn)
        if item is not None and item.notes.hook_at <= hook_at:
            item.notes = replace(item.notes, hook_group="", hook_name="", hook_at=0.0)

    def take(self, arn: str, holder: str, now: float, until: float) -> bool:
        self._machine.step()
        lease = self.leases.get(arn)
        if lease is None or lease[1] < now or lease[0] == holder:
            self.leases[arn] = (holder, until, 0)
            return True
        self.leases[arn] = (lease[0], lease[1], lease[2] + 1)
        return False

    def release(self, arn: str, holder: str, seen: int | None) -> int | None:
        self._machine.step()
        lease = self.leases.get(arn)
        if lease is None or lease[0] != holder:
            return None
        if seen is not None and lease[2] != seen:
            return lease[2]
        del self.leases[arn]
        return None


class FakeLooks:
    """Remembers (instance id, reason, delay), and the launch hook where one was given."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.hooks: dict[str, HookWait] = {}

    def ask(
        self,
        instance_ids: Iterable[str],
        reason: str,
        delay: int = 0,
        hook: HookWait | None = None,
        due: float = 0.0,
    ) -> None:
        for instance_id in instance_ids:
            self.asked.append((instance_id, reason, delay))
            if hook is not None:
                self.hooks[instance_id] = hook


@cache
def _schema(detail_type: str) -> Any:
    name = detail_type.lower().replace(" ", "-")
    text = (Path(__file__).parents[3] / "docs" / "events" / f"{name}.schema.json").read_text()
    return jsonschema.Draft202012Validator(json.loads(text))


class FakeBus:
    """Remembers events. Every one must fit its schema, whichever test sends it."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def send(self, events: Iterable[Event]) -> int:
        for event in events:
            detail = json.loads(json.dumps(dict(event.detail)))
            _schema(event.detail_type).validate(
                {"source": SOURCE, "detail-type": event.detail_type, "resources": [*event.resources], "detail": detail}
            )
            self.events.append(event)
        return 0

    def named(self, detail_type: str) -> list[Event]:
        return [e for e in self.events if e.detail_type == detail_type]


def settings(**changes: object) -> Settings:
    base = Settings(
        clusters=("demo",),
        table="nodes",
        events_queue_url="https://sqs/events",
        reports_queue_arn="arn:aws:sqs:eu-west-1:123456789012:reports",
        bus="berth",
        arn_prefix=ARN_PREFIX,
        defaults=Policy(),
        no_snat_cidrs=("192.168.0.0/16",),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class Scene:
    """All fakes together."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.machine = Machine()
        self.ec2 = FakeEc2(self.machine)
        self.store = FakeStore(self.machine)
        self.looks = FakeLooks()
        self.bus = FakeBus()
        tokens = itertools.count(1)
        self.edges = Edges(
            ec2=self.ec2,
            store=self.store,
            bus=self.bus,
            looks=self.looks,
            settings=settings(defaults=policy or Policy()),
            clock=self.machine.clock,
            token=lambda: f"token-{next(tokens)}",
        )
