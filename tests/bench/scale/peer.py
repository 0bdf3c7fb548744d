"""A MODEL of amazon-vpc-cni-k8s: its documented calls, loops, retries and pauses, not its code.

Each node runs on its own, as there: nobody coordinates. What is modelled is the path of a fresh node with IPv4, from
the start of its agent to a pool that holds what its pods ask for, in two configurations: the default one (secondary
addresses, WARM_ENI_TARGET 1), and the best-tuned one (prefix delegation, MINIMUM_IP_TARGET and WARM_IP_TARGET set to
the very figures that Berth's nodes are asked for). Source: aws/amazon-vpc-cni-k8s v1.23, pkg/ipamd/ipamd.go and
pkg/awsutils/awsutils.go; figures are named where they are used.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from tests.bench.scale.assumed import NETWORK_LEG, POD_START
from tests.bench.scale.ec2 import THROTTLE, Answer, Machine, VirtualEc2
from tests.bench.scale.subnets import GROUP, VPC
from tests.bench.scale.timeline import Timeline

__all__ = ["Settings", "VpcCniNode"]

_SDK_ATTEMPTS: Final = 3
"""The EC2 client comes of a second LoadDefaultConfig, so it has aws-sdk-go-v2's own 3 attempts ("standard")."""
_SDK_LONGEST: Final = 20.0
_API_TRIES: Final = 12  # maxENIEC2APIRetries
_BACKOFF_LONGEST: Final = 60.0  # maxENIBackoffDelay
_MOST_INDEXES: Final = 128  # maxENIs
_LOOP: Final = 5.0  # ipPoolMonitorInterval, in two halves
_RECONCILE: Final = 60.0  # nodeIPPoolReconcileInterval, skipped when the pool has changed since
_TAG_TRIES: Final = 5
_CRASH_FIRST, _CRASH_LONGEST = 10.0, 300.0  # kubelet's CrashLoopBackOff of a container that exits
_CONTAINER_START: Final = 1.0
_SWEEP_WITHIN: Final = 300.0  # the leaked-ENI sweep starts after a random 0 to 300 s

Steps: TypeAlias = "Generator[float, None, Any]"
"""Yields seconds to wait; returns what it is for."""


@dataclass(frozen=True, slots=True)
class Settings:
    """``prefixes``: ENABLE_PREFIX_DELEGATION. 0 means that a target is not set. ``max_pods`` is the kubelet's."""

    prefixes: bool
    minimum_ip_target: int
    warm_ip_target: int
    warm_eni_target: int
    max_pods: int
    interfaces: int
    slots: int

    @property
    def per_block(self) -> int:
        return 16 if self.prefixes else 1

    @property
    def capacity(self) -> int:
        return self.interfaces * self.slots * self.per_block


@dataclass(slots=True)
class _Eni:
    id: str
    blocks: int = 0


@dataclass(slots=True)
class VpcCniNode:
    """One node: ``aws-node`` and its pods. ``served`` is called once it holds an address for each of ``asked`` pods."""

    ec2: VirtualEc2
    timeline: Timeline
    rng: random.Random
    machine: Machine
    settings: Settings
    asked: int
    served: Callable[[], None]
    restarts: int = 0
    pods: int = 0
    _enis: list[_Eni] = field(default_factory=list)
    _tagged: bool = False
    _served: bool = False
    _acted: float = 0.0

    def start(self) -> None:
        """The node has booted: aws-node starts."""
        self._drive(self._life())

    def _drive(self, steps: Steps) -> None:
        try:
            pause = next(steps)
        except StopIteration:
            return
        self.timeline.after(pause, lambda: self._drive(steps))

    # ------------------------------------------------------------------------------------------------ its life

    def _life(self) -> Steps:
        while not (yield from self._node_init()):
            # ipamd.New failed: the process exits and the kubelet starts the container again, ever later
            yield min(_CRASH_LONGEST, _CRASH_FIRST * 2**self.restarts) + _CONTAINER_START
            self.restarts += 1
            self._enis.clear()
        self._drive(self._leaked_enis())
        self.timeline.after(POD_START.draw(self.rng), self._pods_come)
        while True:
            yield _LOOP / 2
            if self._too_low():
                yield from self._increase()
            elif self.pods:
                return  # nothing more will be asked of it in this run
            yield _LOOP / 2
            if self.timeline.now - self._acted > _RECONCILE:
                yield from self._reconcile()

    def _reconcile(self) -> Steps:
        """nodeIPPoolReconcile: an attached interface that the pool does not know is taken in: undoing it had failed."""
        self._acted = self.timeline.now
        known = {e.id for e in self._enis}
        new = [n for n in self.machine.nics if n.id not in known and n.link_at <= self.timeline.now]
        if new and (yield from self._describe_all_enis(*(n.id for n in self.machine.nics))):
            for nic in new:
                if (yield from self._tag(nic.id)):
                    self._enis.append(_Eni(nic.id, len(nic.prefixes) + len(nic.addresses)))
            self._check()

    def _pods_come(self) -> None:
        """Those that find an address run; the others' ADDs are tried again by the kubelet, with new sandboxes."""
        self.pods = self.asked

    def _node_init(self) -> Steps:
        """nodeInit: False where it returns an error."""
        primary = self.machine.nics[0].id
        found = yield from self._describe_all_enis(primary)
        if not found:
            return False
        if not self._tagged:
            if not (yield from self._tag(primary)):
                return False
            self._tagged = True
        # what EC2 gave before a restart is found in instance metadata again
        nic = self.machine.nics[0]
        self._enis = [_Eni(primary, len(nic.prefixes) if self.settings.prefixes else len(nic.addresses))]
        yield from self._call("DescribeSubnets", {"SubnetIds": [nic.subnet.id]})  # IsSubnetExcluded; errors are logged
        change = {"NetworkInterfaceId": primary, "Groups": [GROUP]}
        yield from self._call("ModifyNetworkInterfaceAttribute", change)  # RefreshSGIDs; errors are logged
        self._check()
        if self._too_low():
            return (yield from self._increase())
        return True

    def _describe_all_enis(self, *enis: str) -> Steps:
        for attempt in range(_API_TRIES):
            answer = yield from self._call("DescribeNetworkInterfaces", {"NetworkInterfaceIds": [*enis]})
            if not answer.code:
                return True
            yield attempt * 0.01
        return False

    def _tag(self, eni: str) -> Steps:
        tags = [{"Key": "node.k8s.amazonaws.com/instance_id", "Value": self.machine.id}]
        return (yield from self._with_backoff(_TAG_TRIES, 0.5, 0.3, "CreateTags", {"Resources": [eni], "Tags": tags}))

    def _leaked_enis(self) -> Steps:
        yield self.rng.uniform(0.0, _SWEEP_WITHIN)
        filters = [
            {"Name": "tag-key", "Values": ["node.k8s.amazonaws.com/instance_id"]},
            {"Name": "status", "Values": ["available"]},
            {"Name": "vpc-id", "Values": [VPC]},
        ]
        yield from self._call("DescribeNetworkInterfaces", {"Filters": filters, "MaxResults": 1000})

    # ------------------------------------------------------------------------------------------------ its pool

    @property
    def _total(self) -> int:
        return sum(e.blocks for e in self._enis) * self.settings.per_block

    def _short(self) -> int:
        """datastoreTargetState: what WARM_IP_TARGET and MINIMUM_IP_TARGET still miss."""
        available = self._total - min(self.pods, self._total)
        return max(self.settings.warm_ip_target - available, self.settings.minimum_ip_target - self._total, 0)

    def _too_low(self) -> bool:
        """isDatastorePoolTooLow."""
        s = self.settings
        if self._total >= s.max_pods:
            return False
        if s.warm_ip_target or s.minimum_ip_target:
            return self._short() > 0
        if len(self._enis) >= s.interfaces and all(e.blocks >= s.slots for e in self._enis):
            return False  # it stays low for ever; nothing can be done about it, and no call is made
        return self._total - min(self.pods, self._total) < s.slots * s.per_block * s.warm_eni_target

    def _increase(self) -> Steps:
        """increaseDatastorePool: existing interfaces first, else one new one. False: an error of assigning."""
        s = self.settings
        wanted = -(-self._short() // s.per_block) if s.warm_ip_target or s.minimum_ip_target else s.slots
        for eni in self._enis:
            if eni.blocks < s.slots:
                return (yield from self._assign(eni, min(s.slots - eni.blocks, wanted)))
        if len(self._enis) < s.interfaces:
            yield from self._allocate(min(s.slots, wanted))
        return True

    def _assign(self, eni: _Eni, count: int) -> Steps:
        kind = "Ipv4PrefixCount" if self.settings.prefixes else "SecondaryPrivateIpAddressCount"
        for blocks in (count, 1):  # refused, it asks for just one
            answer = yield from self._call("AssignPrivateIpAddresses", {"NetworkInterfaceId": eni.id, kind: blocks})
            if not answer.code:
                eni.blocks += blocks
                self._check()
                return True
        return False

    def _allocate(self, count: int) -> Steps:
        """tryAllocateENI: create, attach, mark, wait for metadata. What fails is undone; the next loop tries again."""
        kind = "Ipv4PrefixCount" if self.settings.prefixes else "SecondaryPrivateIpAddressCount"
        subnet = self.machine.subnet
        zone = [{"Name": "vpc-id", "Values": [VPC]}, {"Name": "availability-zone", "Values": [subnet.zone]}]
        for _ in range(2):
            yield from self._call("DescribeSubnets", {"Filters": zone})
        made = yield from self._call("CreateNetworkInterface", {"SubnetId": subnet.id, "Groups": [GROUP], kind: count})
        if made.code:
            return
        eni = made.body["NetworkInterface"]["NetworkInterfaceId"]
        if not (yield from self._attach(eni)):
            return
        # WaitForENIAndIPsAttached: 100 ms, doubling, 12 tries
        for attempt in range(_API_TRIES):
            shown = self.ec2.blocks(self.machine.id)
            mac = self.ec2.nics[eni].mac
            if all(since <= self.timeline.now for m, since in shown.values() if m == mac):
                break
            yield min(_BACKOFF_LONGEST, 0.1 * 2**attempt)
        self._enis.append(_Eni(eni, count))
        self._check()

    def _attach(self, eni: str) -> Steps:
        instance = {"InstanceIds": [self.machine.id]}
        found = yield from self._call("DescribeInstances", instance)
        index = next(n for n in range(_MOST_INDEXES) if n not in {i.index for i in self.machine.nics})
        at = {"NetworkInterfaceId": eni, "InstanceId": self.machine.id, "DeviceIndex": index}
        attached: Answer = found if found.code else (yield from self._call("AttachNetworkInterface", at))
        if attached.code:
            yield from self._delete(eni)
            return False
        mark = {"AttachmentId": attached.body["AttachmentId"], "DeleteOnTermination": True}
        change = {"NetworkInterfaceId": eni, "Attachment": mark}
        if not (yield from self._call("ModifyNetworkInterfaceAttribute", change)).code:
            return True
        # FreeENI: find the attachment, detach, wait 2 s, delete
        found = yield from self._call("DescribeNetworkInterfaces", {"NetworkInterfaceIds": [eni]})
        if not found.code:
            gone = {"AttachmentId": mark["AttachmentId"]}
            if (yield from self._with_backoff(_API_TRIES, 0.2, 0.15, "DetachNetworkInterface", gone)):
                yield 2.0
                yield from self._delete(eni)
        return False

    def _delete(self, eni: str) -> Steps:
        gone = {"NetworkInterfaceId": eni}
        return (yield from self._with_backoff(_API_TRIES, 0.5, 0.15, "DeleteNetworkInterface", gone))

    def _check(self) -> None:
        self._acted = self.timeline.now
        if not self._served and self._total >= self.asked:
            self._served = True
            self.served()

    # ------------------------------------------------------------------------------------------------ its calls

    def _with_backoff(self, tries: int, first: float, jitter: float, action: str, params: Mapping[str, Any]) -> Steps:
        """retry.NWithBackoff: doubling from ``first`` up to a minute, each longer by a random part of ``jitter``."""
        delay = first
        for attempt in range(tries):
            answer = yield from self._call(action, params)
            if not answer.code:
                return True
            if attempt + 1 < tries:
                yield delay * (1 + jitter * self.rng.random())
                delay = min(_BACKOFF_LONGEST, delay * 2)
        return False

    def _call(self, action: str, params: Mapping[str, Any]) -> Steps:
        """One call with the SDK's retries of throttled attempts: a random part of 1, 2, 4 ... seconds in between."""
        for attempt in range(_SDK_ATTEMPTS):
            yield NETWORK_LEG.draw(self.rng)
            answer = self.ec2.answer(action, params)
            yield answer.seconds
            if answer.code != THROTTLE or attempt + 1 == _SDK_ATTEMPTS:
                return answer
            yield min(_SDK_LONGEST, self.rng.random() * 2**attempt)
        return answer
