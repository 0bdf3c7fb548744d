"""The simulator's cloud, with the sandbox's EC2 behind it: it is looked at from inside and changed by API calls."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import moto.ec2.models.instances as moto_instances
import moto.ec2.models.security_groups as moto_groups
import moto.ec2.models.subnets as moto_subnets
from berth.model import Attachment, Instance, InterfaceView
from botocore.exceptions import ClientError

from tests.sandbox.cloud.ec2_addresses import ledger_of
from tests.sandbox.cloud.lock import API_LOCK
from tests.sandbox.cloud.snapshot import backend_of
from tests.simulator.cloud import TYPES, ZONE, Cloud, refusal
from tests.simulator.kernel import Kernel
from tests.simulator.space import Space
from tests.unit.control.fakes import GROUP

from .account import Account
from .truth import instance_view, interface_view, limits
from .virtual_time import ON_COMMAND

__all__ = ["WireCloud", "WireSpace"]

OTHERS = "eni-of-others"


class WireSpace(Space):
    """A subnet's addresses: read from the sandbox's ledger, taken and given back there in the name of others."""

    __slots__ = ("_ledger", "_names")

    def __init__(self, cidr: str, rng: random.Random, ledger: Any) -> None:
        self.cidr, self.rng, self._ledger = cidr, rng, ledger
        self._names = [str(a) for a in ipaddress.ip_network(cidr)]

    @property
    def free(self) -> int:
        usable = range(4, len(self._names) - 1)
        with API_LOCK:
            return sum(1 << n for n in usable if not self._ledger.holder(self._names[n]))

    @free.setter
    def free(self, value: int) -> None:
        changed = self.free ^ value
        with API_LOCK:
            for n, name in enumerate(self._names):
                if changed >> n & 1 and value >> n & 1:
                    self._ledger.give_back([name], [])
                elif changed >> n & 1:
                    self._ledger.take(OTHERS, [name])


class WireCloud(Cloud):
    """``instances`` and ``interfaces`` follow the sandbox; :meth:`look` is called whenever it has changed."""

    def __init__(self, kernel: Kernel, rng: random.Random, account: Account) -> None:
        super().__init__(kernel, rng)
        self.types = {kind: limits(kind) for kind in TYPES}
        self._account = account
        self._ec2 = account.client("ec2")
        self._transitions: dict[str, Callable[[], None]] = {}
        self._moving = ""
        self._vpc = ""
        self._image = ""
        self.wrong: list[BaseException] = []
        """Broken promises seen from a thread that must not fail."""

    def look(self) -> None:
        """Take in what is there now, and tell the watcher of every interface that differs. Never raises."""
        with API_LOCK:
            backend = backend_of()
            self.instances = {i.id: instance_view(backend, i) for i in backend.all_instances()}
            now = {e.id: interface_view(backend, e) for e in backend.enis.values() if e.vpc_id == self._vpc}
            before, self.interfaces = self.interfaces, now
            for name in sorted(before.keys() | now.keys()):
                if before.get(name) != now.get(name):
                    try:
                        self.watch(before.get(name), now.get(name))
                    except BaseException as error:  # the test's thread raises it
                        self.wrong.append(error)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """EC2 does something after a delay: an instance's next state comes when the schedule says so."""
        if seconds >= ON_COMMAND:
            self._transitions[self._moving] = callback
        else:
            self.kernel.after(self.rng.uniform(0, seconds * self.slow) if self.slow else 0.0, callback)

    # ------------------------------------------------------------------------------------------- scenery

    def begin(self, patch: Any) -> None:
        """The VPC and its groups. Ids are the simulator's."""
        self._vpc = self._ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        images = self._ec2.describe_images(Owners=["amazon"])["Images"]
        self._image = next(i["ImageId"] for i in images if i.get("Platform") != "windows")
        for group in sorted(self.groups):
            patch.setattr(moto_groups, "random_security_group_id", lambda name=group: name)
            self._ec2.create_security_group(
                VpcId=self._vpc,
                GroupName=group,
                Description="nodes",
                TagSpecifications=[
                    {"ResourceType": "security-group", "Tags": [{"Key": "berth:allowed", "Value": "true"}]}
                ],
            )
        patch.setattr(moto_instances, "random_instance_id", lambda: self._moving)
        patch.setattr(moto_subnets, "random_subnet_id", lambda: self._moving)

    def add_subnet(self, name: str, cidr: str, *, zone: str = ZONE, allowed: bool = True) -> None:
        super().add_subnet(name, cidr, zone=zone, allowed=allowed)
        self._moving = name
        tags = [{"Key": "berth:allowed", "Value": "true"}] if allowed else [{"Key": "Name", "Value": name}]
        self._ec2.create_subnet(
            VpcId=self._vpc,
            CidrBlock=cidr,
            AvailabilityZone=zone,
            TagSpecifications=[{"ResourceType": "subnet", "Tags": tags}],
        )
        with API_LOCK:
            self.spaces[name] = WireSpace(cidr, self.rng, ledger_of(backend_of().get_subnet(name)))

    # ------------------------------------------------------------------------------------------- instances

    def launch(self, instance_id: str, type: str, subnet: str, tags: dict[str, str], prefixes: int = 0) -> Instance:
        self._moving = instance_id
        interface: dict[str, Any] = {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [GROUP]}
        if prefixes:
            interface["Ipv4PrefixCount"] = prefixes
        named = {"kubernetes.io/cluster/demo": "owned"} | tags
        with self._refusals("RunInstances"):
            self._ec2.run_instances(
                ImageId=self._image,
                InstanceType=type,
                MinCount=1,
                MaxCount=1,
                NetworkInterfaces=[interface],
                TagSpecifications=[
                    {"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in named.items()]}
                ],
            )
        self.look()
        return self.instances[instance_id]

    def set_state(self, instance_id: str, state: str) -> None:
        self._moving = instance_id
        begin = {
            "pending": self._ec2.start_instances,
            "stopping": self._ec2.stop_instances,
            "shutting-down": self._ec2.terminate_instances,
        }.get(state)
        if begin is not None:
            begin(InstanceIds=[instance_id])
        else:
            self._transitions.pop(instance_id)()
        self.look()
        self.kernel.say(f"    {instance_id} is {self.instances[instance_id].state}")

    def put_instance(self, instance: Instance) -> None:
        if instance.type != self.instances[instance.id].type:
            self._ec2.modify_instance_attribute(InstanceId=instance.id, InstanceType={"Value": instance.type})
        self.look()

    # ------------------------------------------------------------------------------------------- interfaces

    def new_interface(self, subnet: str, prefixes: int = 0, addresses: int = 0, **more: object) -> InterfaceView:
        with self._refusals("CreateNetworkInterface"):
            made = self._ec2.create_network_interface(SubnetId=subnet, Groups=[GROUP])
        self.look()
        return self.interfaces[made["NetworkInterface"]["NetworkInterfaceId"]]

    def put(self, view: InterfaceView) -> InterfaceView:
        """Somebody changes its groups, or attaches it for good."""
        there = self.interfaces[view.id]
        if view.groups != there.groups:
            self._ec2.modify_network_interface_attribute(NetworkInterfaceId=view.id, Groups=list(view.groups))
        if view.attachment is not None and there.attachment is None:
            with self._at_once(), self._refusals("AttachNetworkInterface"):
                at = view.attachment
                made = self.attach(view, at.instance_id, at.device_index, at.network_card)
            if at.delete_on_termination:
                change = {"AttachmentId": made.id, "DeleteOnTermination": True}
                self._ec2.modify_network_interface_attribute(NetworkInterfaceId=view.id, Attachment=change)
        self.look()
        return self.interfaces[view.id]

    def attach(self, view: InterfaceView, instance_id: str, index: int, card: int = 0) -> Attachment:
        with self._refusals("AttachNetworkInterface"):
            self._ec2.attach_network_interface(
                NetworkInterfaceId=view.id, InstanceId=instance_id, DeviceIndex=index, NetworkCardIndex=card
            )
        self.look()
        at = self.interfaces[view.id].attachment
        assert at is not None
        return at

    def detach(self, view: InterfaceView) -> None:
        if view.attachment is not None:
            with self._refusals("DetachNetworkInterface"):
                self._ec2.detach_network_interface(AttachmentId=view.attachment.id, Force=True)
        self.look()

    def delete(self, view: InterfaceView) -> None:
        with self._refusals("DeleteNetworkInterface"):
            self._ec2.delete_network_interface(NetworkInterfaceId=view.id)
        self.look()

    def assign(self, view: InterfaceView, prefixes: int = 0, addresses: int = 0) -> tuple[str, ...]:
        with self._refusals("AssignPrivateIpAddresses"):
            self._ec2.assign_private_ip_addresses(NetworkInterfaceId=view.id, SecondaryPrivateIpAddressCount=addresses)
        self.look()
        return tuple(set(self.interfaces[view.id].blocks) - set(view.blocks))

    def unassign(self, view: InterfaceView, blocks: tuple[str, ...]) -> None:
        singles = [b.removesuffix("/32") for b in blocks if b.endswith("/32")]
        whole = [b for b in blocks if not b.endswith("/32")]
        asked = {"PrivateIpAddresses": singles} if singles else {"Ipv4Prefixes": whole}
        with self._refusals("UnassignPrivateIpAddresses"):
            self._ec2.unassign_private_ip_addresses(NetworkInterfaceId=view.id, **asked)
        self.look()

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        slow, self.slow = self.slow, 0.0
        try:
            yield
        finally:
            self.slow = slow

    @contextmanager
    def _refusals(self, action: str) -> Iterator[None]:
        """EC2's refusals as the simulator has them."""
        try:
            yield
        except ClientError as error:
            told = error.response["Error"]
            raise refusal(action, told["Code"], told["Message"]) from error
