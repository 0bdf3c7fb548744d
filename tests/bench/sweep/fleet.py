"""A fleet of any size that takes no memory: each node, interface and record is made when it is asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from berth.contract import Assignment, Interface, Policy, Record, encode_record
from berth.model import Attachment, Instance, InterfaceView

__all__ = ["ARN_PREFIX", "CLUSTER", "Fleet"]

ARN_PREFIX = "arn:aws:ec2:eu-west-1:123456789012:instance/"
CLUSTER = "demo"
LAUNCHED = 1_700_000_000.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """``prefixes`` or ``addresses`` on each of ``interfaces`` of each node, as its record says too."""

    nodes: int
    interfaces: int = 20
    prefixes: int = 15
    addresses: int = 0

    def ids(self, start: int, size: int) -> list[str]:
        return [f"i-{n:017x}" for n in range(start, min(start + size, self.nodes))]

    def instance(self, instance_id: str) -> Instance:
        return Instance(
            id=instance_id,
            arn=ARN_PREFIX + instance_id,
            state="running",
            type="m6i.32xlarge",
            subnet_id="subnet-0123456789abcdef0",
            vpc_id="vpc-0123456789abcdef0",
            zone="eu-west-1a",
            launched_at=LAUNCHED,
            tags=(("Name", f"node of {CLUSTER}"), (f"kubernetes.io/cluster/{CLUSTER}", "owned")),
        )

    def views(self, instance_id: str) -> tuple[InterfaceView, ...]:
        """Interface 0 is the primary one, which carries no tag of ours."""
        return _views(self, instance_id)

    def record(self, instance_id: str) -> Record:
        return Record(
            instance_arn=ARN_PREFIX + instance_id,
            revision=3,
            policy=Policy(mode="prefixes" if self.prefixes else "addresses"),
            interfaces=tuple(
                Interface(
                    id=view.id,
                    mac=view.mac,
                    device_index=view.attachment.device_index if view.attachment else 0,
                    subnet_id=view.subnet_id,
                    subnet_cidr="10.0.0.0/8",
                    gateway="10.0.0.1",
                    primary_address=view.primary_address,
                    assignments=tuple(Assignment(b, f"3:{b}") for b in view.blocks),
                )
                for view in self.views(instance_id)
            ),
        )

    def body(self, instance_id: str) -> str:
        return encode_record(self.record(instance_id))


@functools.lru_cache(256)
def _views(fleet: Fleet, instance_id: str) -> tuple[InterfaceView, ...]:
    return tuple(_make_views(fleet, instance_id))


def _make_views(fleet: Fleet, instance_id: str) -> Iterator[InterfaceView]:
    n = int(instance_id[2:], 16)
    for j in range(fleet.interfaces):
        eni = f"eni-{n:09x}{j:08x}"
        base = (n * fleet.interfaces + j) % 65536
        yield InterfaceView(
            id=eni,
            mac=f"06:{n >> 16 & 255:02x}:{n >> 8 & 255:02x}:{n & 255:02x}:00:{j:02x}",
            subnet_id="subnet-0123456789abcdef0",
            vpc_id="vpc-0123456789abcdef0",
            zone="eu-west-1a",
            primary_address=f"10.{base >> 8}.{base & 255}.1",
            addresses=tuple(sorted(f"10.{base >> 8}.{base & 255}.{k + 2}" for k in range(fleet.addresses))),
            prefixes=tuple(sorted(f"10.{base >> 8}.{base & 255}.{16 * k}/28" for k in range(fleet.prefixes))),
            groups=("sg-0123456789abcdef0",),
            attachment=Attachment(f"eni-attach-{n:09x}{j:08x}", instance_id, j, 0, "attached", True),
            cluster=CLUSTER if j else None,
            node=instance_id if j else None,
            created_at=LAUNCHED if j else None,
        )
