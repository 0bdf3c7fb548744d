"""An EC2 in virtual time: instances, interfaces, subnets; a token bucket for each action; describes that lag.

:meth:`VirtualEc2.answer` is the whole API: what EC2 says to a request that arrives now, and how long it takes to say
it. Requests and answers have boto3's form.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tests.bench.scale.assumed import (
    ADDRESSES_PER_INTERFACE,
    ATTACHED,
    DESCRIBE_LAG,
    EPOCH,
    INSTANCE_TYPE,
    INTERFACES,
    METADATA,
    THROTTLED,
    api_seconds,
)
from tests.bench.scale.subnets import GROUP, VPC, Subnet, make_subnets
from tests.bench.scale.timeline import Timeline
from tests.sandbox.cloud.throttle import Bucket, limit_of

__all__ = ["Answer", "Machine", "Nic", "VirtualEc2"]

THROTTLE: Final = "RequestLimitExceeded"


@dataclass(frozen=True, slots=True)
class Answer:
    """``code`` is "" where all went well. The answer takes ``seconds``."""

    seconds: float
    body: Mapping[str, Any]
    code: str = ""


class _RefusedError(Exception):
    """EC2 refuses; the argument is its code."""


@dataclass(slots=True)
class _Shown:
    """What describes show of one thing: versions with the time from which they do. None: nothing any more."""

    versions: list[tuple[float, Mapping[str, Any] | None]] = field(default_factory=list)

    def add(self, since: float, version: Mapping[str, Any] | None) -> None:
        """A later version is never shown before an earlier one."""
        self.versions.append((max([since, *(t for t, _ in self.versions[-1:])]), version))

    def at(self, now: float) -> Mapping[str, Any] | None:
        while len(self.versions) > 1 and self.versions[1][0] <= now:
            self.versions.pop(0)
        return self.versions[0][1] if self.versions and self.versions[0][0] <= now else None


@dataclass(slots=True)
class Nic:
    """An interface as it really is. ``metadata`` is from when instance metadata shows each block."""

    id: str
    mac: str
    subnet: Subnet
    primary: str
    groups: tuple[str, ...]
    tags: dict[str, str]
    prefixes: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    instance: str = ""
    attachment: str = ""
    index: int = 0
    status: str = ""
    delete_on_termination: bool = False
    link_at: float = 0.0
    metadata: dict[str, float] = field(default_factory=dict)
    shown: _Shown = field(default_factory=_Shown)

    @property
    def slots(self) -> int:
        return 1 + len(self.prefixes) + len(self.addresses)

    def describe(self) -> dict[str, Any]:
        attachment = {
            "AttachmentId": self.attachment,
            "InstanceId": self.instance,
            "DeviceIndex": self.index,
            "NetworkCardIndex": 0,
            "Status": self.status,
            "DeleteOnTermination": self.delete_on_termination,
        }
        return {
            "NetworkInterfaceId": self.id,
            "MacAddress": self.mac,
            "SubnetId": self.subnet.id,
            "VpcId": VPC,
            "AvailabilityZone": self.subnet.zone,
            "PrivateIpAddress": self.primary,
            "PrivateIpAddresses": [
                {"PrivateIpAddress": a, "Primary": a == self.primary} for a in (self.primary, *self.addresses)
            ],
            "Ipv4Prefixes": [{"Ipv4Prefix": p} for p in self.prefixes],
            "Groups": [{"GroupId": g} for g in self.groups],
            "Status": "in-use" if self.attachment else "available",
            "TagSet": [{"Key": k, "Value": v} for k, v in sorted(self.tags.items())],
        } | ({"Attachment": attachment} if self.attachment else {})


@dataclass(slots=True)
class Machine:
    """An instance. ``state`` is the true one."""

    id: str
    subnet: Subnet
    tags: dict[str, str]
    launched_at: float
    state: str = "pending"
    nics: list[Nic] = field(default_factory=list)
    shown: _Shown = field(default_factory=_Shown)

    def describe(self) -> dict[str, Any]:
        return {
            "InstanceId": self.id,
            "State": {"Name": self.state},
            "InstanceType": INSTANCE_TYPE,
            "SubnetId": self.subnet.id,
            "VpcId": VPC,
            "Placement": {"AvailabilityZone": self.subnet.zone},
            "LaunchTime": datetime.fromtimestamp(EPOCH + self.launched_at, tz=UTC),
            "Tags": [{"Key": k, "Value": v} for k, v in sorted(self.tags.items())],
        }


class VirtualEc2:
    """``told`` is called with an instance's id and a time whenever its metadata will show something new then."""

    def __init__(self, timeline: Timeline, rng: random.Random, nodes: int) -> None:
        self._timeline, self._rng = timeline, rng
        self.machines: dict[str, Machine] = {}
        self.nics: dict[str, Nic] = {}
        self.subnets = make_subnets(nodes)
        self.calls: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.told: Callable[[str, float], None] = lambda _instance, _when: None
        self._buckets: dict[str, Bucket] = {}
        self._drawn_by: dict[tuple[str, bool, bool], Bucket] = {}
        self._tagged: dict[tuple[str, str], dict[str, Nic]] = {}
        self._held: dict[str, dict[str, Nic]] = {}
        self._tokens: dict[str, Nic] = {}
        self._loose: dict[str, Nic] = {}
        self._ids = itertools.count(1)
        self._operations: dict[str, Callable[[Mapping[str, Any], float], Mapping[str, Any]]] = {
            "DescribeInstances": self._describe_instances,
            "DescribeNetworkInterfaces": self._describe_interfaces,
            "DescribeInstanceTypes": self._describe_types,
            "DescribeSubnets": self._describe_subnets,
            "DescribeVpcs": self._describe_vpcs,
            "DescribeRouteTables": self._describe_routes,
            "DescribeSecurityGroups": self._describe_groups,
            "AssignPrivateIpAddresses": self._assign,
            "CreateNetworkInterface": self._create,
            "AttachNetworkInterface": self._attach,
            "DetachNetworkInterface": self._detach,
            "DeleteNetworkInterface": self._delete,
            "ModifyNetworkInterfaceAttribute": self._modify,
            "CreateTags": self._create_tags,
        }

    # ------------------------------------------------------------------------------------------------ the account

    def launch(self, number: int, tags: Mapping[str, str], prefixes: int = 0) -> Machine:
        """As RunInstances does; ``prefixes`` on the primary interface, as a launch template may ask for."""
        now = self._timeline.now
        subnet = self.subnets[number % len(self.subnets)]
        machine = Machine(f"i-{number:017x}", subnet, dict(tags), now)
        self.machines[machine.id] = machine
        nic = self._new(subnet, (GROUP,), {})
        nic.prefixes = [subnet.prefix() for _ in range(prefixes)]
        nic.metadata = dict.fromkeys(nic.prefixes, now)
        self._hold(nic, machine, 0, now)
        nic.status, nic.delete_on_termination = "attached", True
        nic.shown.add(now, nic.describe())
        machine.shown.add(now + self._lag() / 4, machine.describe())
        return machine

    def made_before(self, subnet: Subnet, prefixes: int, tags: Mapping[str, str]) -> Nic:
        """An interface that was made with its prefixes long before the run, by one call that is counted here."""
        self.calls["CreateNetworkInterface"] += 1
        nic = self._new(subnet, (GROUP,), tags)
        nic.prefixes = [subnet.prefix() for _ in range(prefixes)]
        nic.metadata = dict.fromkeys(nic.prefixes, 0.0)
        nic.shown.add(0.0, nic.describe())
        return nic

    def run(self, machine: Machine) -> None:
        """The instance is running now."""
        machine.state = "running"
        machine.shown.add(self._timeline.now + self._lag() / 4, machine.describe())

    def blocks(self, instance_id: str) -> dict[str, tuple[str, float]]:
        """Block → MAC of its interface and the time from which metadata shows it with its link."""
        nics = self.machines[instance_id].nics
        return {b: (n.mac, max(t, n.link_at)) for n in nics for b, t in n.metadata.items()}

    def answer(self, action: str, params: Mapping[str, Any]) -> Answer:
        """What EC2 answers to a request that arrives now."""
        now = self._timeline.now
        self.calls[action] += 1
        bucket = self._bucket(action, params)
        if not bucket.take(now):
            self.throttled[action] += 1
            return Answer(THROTTLED.draw(self._rng), {}, THROTTLE)
        seconds = api_seconds(action).draw(self._rng)
        try:
            return Answer(seconds, self._operations[action](params, now + seconds))
        except _RefusedError as refusal:
            self.refused[str(refusal)] += 1
            return Answer(seconds, {}, str(refusal))

    def _bucket(self, action: str, params: Mapping[str, Any]) -> Bucket:
        kind = (action, "Filters" in params, "MaxResults" in params)
        found = self._drawn_by.get(kind)
        if found is None:
            limit = limit_of(action, dict.fromkeys(_limiting(params)))
            found = self._buckets.setdefault(limit.name, Bucket(limit, self._timeline.now))
            self._drawn_by[kind] = found
        return found

    # ------------------------------------------------------------------------------------------------ describing

    def _describe_instances(self, params: Mapping[str, Any], _done: float) -> Mapping[str, Any]:
        now = self._timeline.now
        ids = params.get("InstanceIds") or next((f["Values"] for f in params.get("Filters", ())), ())
        shown = ((i, self.machines[i].shown.at(now)) for i in ids if i in self.machines)
        found = [{**s, "NetworkInterfaces": self._attached(i, now)} for i, s in shown if s is not None]
        return {"Reservations": [{"Instances": [s]} for s in found]}

    def _attached(self, instance_id: str, now: float) -> list[Mapping[str, Any]]:
        """As describing the interfaces shows them, with as much lag."""
        views = (n.shown.at(now) for n in self._held.get(instance_id, {}).values())
        return [v for v in views if v is not None and v.get("Attachment", {}).get("InstanceId") == instance_id]

    def _describe_interfaces(self, params: Mapping[str, Any], _done: float) -> Mapping[str, Any]:
        now = self._timeline.now
        filters = params.get("Filters", ())
        found = (n.shown.at(now) for n in self._candidates(params))
        return {"NetworkInterfaces": [s for s in found if s is not None and all(_matches(s, f) for f in filters)]}

    def _candidates(self, params: Mapping[str, Any]) -> Iterable[Nic]:
        """By an index where there is one: the largest runs have tens of thousands of interfaces."""
        if "NetworkInterfaceIds" in params:
            return [self.nics[i] for i in params["NetworkInterfaceIds"] if i in self.nics]
        filters = {f["Name"]: f["Values"] for f in params.get("Filters", ())}
        if filters.get("status") == ["available"]:
            return list(
                self._loose.values()
            )  # one that has only just become so, or no longer is, is shown late at most
        for name, values in filters.items():
            if name == "attachment.instance-id":
                return _unique(self._held.get(v, {}) for v in values)
            if name.startswith("tag:"):
                return _unique(self._tagged.get((name[4:], v), {}) for v in values)
            if name == "tag-key":
                return _unique(held for (key, _), held in self._tagged.items() if key in values)
        return list(self.nics.values())

    def _describe_types(self, params: Mapping[str, Any], _done: float) -> Mapping[str, Any]:
        network = {
            "MaximumNetworkInterfaces": INTERFACES,
            "Ipv4AddressesPerInterface": ADDRESSES_PER_INTERFACE,
            "DefaultNetworkCardIndex": 0,
            "NetworkCards": [{"NetworkCardIndex": 0, "MaximumNetworkInterfaces": INTERFACES}],
            "Ipv6Supported": True,
            "Ipv6AddressesPerInterface": ADDRESSES_PER_INTERFACE,
        }
        return {"InstanceTypes": [{"InstanceType": INSTANCE_TYPE, "Hypervisor": "nitro", "NetworkInfo": network}]}

    def _describe_subnets(self, params: Mapping[str, Any], _done: float) -> Mapping[str, Any]:
        return {"Subnets": [s.describe() for s in self.subnets]}

    def _describe_vpcs(self, params: Mapping[str, Any], _done: float) -> Mapping[str, Any]:
        cidrs = [s.cidr for s in self.subnets]
        return {
            "Vpcs": [
                {"VpcId": VPC, "CidrBlock": cidrs[0], "CidrBlockAssociationSet": [{"CidrBlock": c} for c in cidrs]}
            ]
        }

    def _describe_routes(self, _params: Mapping[str, Any], _done: float) -> Mapping[str, Any]:
        local = [{"DestinationCidrBlock": s.cidr, "GatewayId": "local", "State": "active"} for s in self.subnets]
        main = {"RouteTableId": "rtb-1", "VpcId": VPC, "Routes": local, "Associations": [{"Main": True}]}
        return {"RouteTables": [main]}

    def _describe_groups(self, params: Mapping[str, Any], _done: float) -> Mapping[str, Any]:
        tags = [{"Key": "berth:allowed", "Value": "true"}]
        return {"SecurityGroups": [{"GroupId": GROUP, "VpcId": VPC, "Tags": tags}]}

    # ------------------------------------------------------------------------------------------------ changing

    def _assign(self, params: Mapping[str, Any], done: float) -> Mapping[str, Any]:
        nic = self._find(params)
        prefixes, addresses = params.get("Ipv4PrefixCount", 0), params.get("SecondaryPrivateIpAddressCount", 0)
        new_prefixes, new_addresses = self._give(nic, prefixes, addresses, done)
        self._show(nic, done)
        return {
            "AssignedIpv4Prefixes": [{"Ipv4Prefix": p} for p in new_prefixes],
            "AssignedPrivateIpAddresses": [{"PrivateIpAddress": a} for a in new_addresses],
        }

    def _give(self, nic: Nic, prefixes: int, addresses: int, done: float) -> tuple[list[str], list[str]]:
        if nic.slots + prefixes + addresses > ADDRESSES_PER_INTERFACE:
            raise _RefusedError("PrivateIpAddressLimitExceeded")
        new_prefixes = [nic.subnet.prefix() for _ in range(prefixes)]
        new_addresses = [nic.subnet.address() for _ in range(addresses)]
        nic.prefixes += new_prefixes
        nic.addresses += new_addresses
        seen = done + METADATA.draw(self._rng)
        for block in (*new_prefixes, *(f"{a}/32" for a in new_addresses)):
            nic.metadata[block] = seen
        if nic.instance:
            self.told(nic.instance, seen)
        return new_prefixes, new_addresses

    def _create(self, params: Mapping[str, Any], done: float) -> Mapping[str, Any]:
        token = params.get("ClientToken", "")
        if token in self._tokens:
            return {"NetworkInterface": self._tokens[token].describe()}
        tags = {t["Key"]: t["Value"] for s in params.get("TagSpecifications", ()) for t in s["Tags"]}
        subnet = next(s for s in self.subnets if s.id == params["SubnetId"])
        nic = self._new(subnet, tuple(params["Groups"]), tags)
        self._give(nic, params.get("Ipv4PrefixCount", 0), params.get("SecondaryPrivateIpAddressCount", 0), done)
        self._show(nic, done)
        if token:
            self._tokens[token] = nic
        return {"NetworkInterface": nic.describe()}

    def _attach(self, params: Mapping[str, Any], done: float) -> Mapping[str, Any]:
        nic, machine = self._find(params), self.machines[params["InstanceId"]]
        if machine.state != "running":
            raise _RefusedError("IncorrectState")
        if len(machine.nics) >= INTERFACES:
            raise _RefusedError("AttachmentLimitExceeded")
        if nic.attachment:
            raise _RefusedError("InvalidNetworkInterface.InUse")
        if params["DeviceIndex"] in {n.index for n in machine.nics}:
            raise _RefusedError("InvalidParameterValue")
        link = done + ATTACHED.draw(self._rng)
        self._hold(nic, machine, params["DeviceIndex"], link)
        nic.status = "attaching"
        self._show(nic, done)
        nic.status = "attached"
        self._show(nic, link)
        self.told(machine.id, link)
        return {"AttachmentId": nic.attachment}

    def _detach(self, params: Mapping[str, Any], done: float) -> Mapping[str, Any]:
        nic = next((n for n in self.nics.values() if n.attachment == params["AttachmentId"]), None)
        if nic is None:
            raise _RefusedError("InvalidAttachmentID.NotFound")
        self.machines[nic.instance].nics.remove(nic)
        self._loose[nic.id] = nic
        nic.instance = nic.attachment = nic.status = ""
        nic.delete_on_termination = False
        self._show(nic, done)
        return {}

    def _delete(self, params: Mapping[str, Any], done: float) -> Mapping[str, Any]:
        nic = self._find(params)
        if nic.attachment:
            raise _RefusedError("InvalidNetworkInterface.InUse")
        nic.shown.add(done + self._lag(), None)
        del self.nics[nic.id], self._loose[nic.id]
        return {}

    def _modify(self, params: Mapping[str, Any], done: float) -> Mapping[str, Any]:
        nic = self._find(params)
        change = params.get("Attachment")
        if change is not None:
            if change["AttachmentId"] != nic.attachment:
                raise _RefusedError("InvalidAttachmentID.NotFound")
            nic.delete_on_termination = change["DeleteOnTermination"]
        nic.groups = tuple(params.get("Groups", nic.groups))
        self._show(nic, done)
        return {}

    def _create_tags(self, params: Mapping[str, Any], done: float) -> Mapping[str, Any]:
        for resource in params["Resources"]:
            nic = self._find({"NetworkInterfaceId": resource})
            self._tag(nic, {t["Key"]: t["Value"] for t in params["Tags"]})
            self._show(nic, done)
        return {}

    # ------------------------------------------------------------------------------------------------ plumbing

    def _lag(self) -> float:
        return DESCRIBE_LAG.draw(self._rng)

    def _show(self, nic: Nic, done: float) -> None:
        nic.shown.add(done + self._lag(), nic.describe())

    def _find(self, params: Mapping[str, Any]) -> Nic:
        nic = self.nics.get(params["NetworkInterfaceId"])
        if nic is None:
            raise _RefusedError("InvalidNetworkInterfaceID.NotFound")
        return nic

    def _new(self, subnet: Subnet, groups: tuple[str, ...], tags: Mapping[str, str]) -> Nic:
        number = next(self._ids)
        mac = ":".join(f"{b:02x}" for b in (0x06 << 40 | number).to_bytes(6, "big"))
        nic = Nic(f"eni-{number:017x}", mac, subnet, subnet.address(), groups, {})
        self.nics[nic.id] = self._loose[nic.id] = nic
        self._tag(nic, tags)
        return nic

    def _tag(self, nic: Nic, tags: Mapping[str, str]) -> None:
        nic.tags.update(tags)
        for pair in tags.items():
            self._tagged.setdefault(pair, {})[nic.id] = nic

    def _hold(self, nic: Nic, machine: Machine, index: int, link: float) -> None:
        nic.instance, nic.attachment, nic.index, nic.link_at = machine.id, f"eni-attach-{nic.id[4:]}", index, link
        machine.nics.append(nic)
        self._loose.pop(nic.id, None)
        self._held.setdefault(machine.id, {})[nic.id] = nic


def _limiting(params: Mapping[str, Any]) -> Iterator[str]:
    """What of a request decides which bucket it draws from, by its name in the query protocol."""
    if "Filters" in params:
        yield "Filter.1"
    if "MaxResults" in params:
        yield "MaxResults"


def _unique(groups: Iterable[Mapping[str, Nic]]) -> list[Nic]:
    found: dict[str, Nic] = {}
    for group in groups:
        found.update(group)
    return list(found.values())


def _matches(shown: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    name, values = wanted["Name"], wanted["Values"]
    tags = {t["Key"]: t["Value"] for t in shown["TagSet"]} if name.startswith("tag") else {}
    if name == "tag-key":
        return any(v in tags for v in values)
    if name.startswith("tag:"):
        return tags.get(name[4:]) in values
    if name == "attachment.instance-id":
        return shown.get("Attachment", {}).get("InstanceId") in values
    field_of = {
        "status": "Status",
        "vpc-id": "VpcId",
        "subnet-id": "SubnetId",
        "network-interface-id": "NetworkInterfaceId",
    }
    return shown[field_of[name]] in values
