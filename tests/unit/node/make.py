"""Short ways to make the values that the agent's tests need."""

from __future__ import annotations

from collections.abc import Iterable

from berth.contract import Assignment, Interface, Order, Policy, Record
from berth_node.usable import Block, MetadataInterface, blocks_of

from tests.unit.node.cloud import ARN

MACS = ("02:aa:00:00:00:01", "02:aa:00:00:00:02", "02:aa:00:00:00:03")


def block(cidr: str, device: int = 0, *, usable: bool = True, releasing: bool = False, shown: bool = True) -> Block:
    return Block(cidr, f"as-{cidr}", MACS[device], (0, device), usable and not releasing and shown, shown, releasing)


def interface(device: int, *cidrs: str, releasing: Iterable[str] = ()) -> Interface:
    """Interface ``device`` in subnet 10.0.<device>.0/24 with these blocks."""
    marked = set(releasing)
    assignments = tuple(Assignment(c, f"as-{c}", c in marked) for c in cidrs)
    net = f"10.0.{device}"
    return Interface(
        f"eni-{device}", MACS[device], device, f"subnet-{device}", f"{net}.0/24", f"{net}.1", f"{net}.5", 0, assignments
    )


def record(
    *interfaces: Interface, revision: int = 1, policy: Policy | None = None, accepted: Order | None = None
) -> Record:
    return Record(ARN, revision, policy or Policy(warm_addresses=0), interfaces, (), accepted or Order())


def metadata(record: Record) -> tuple[MetadataInterface, ...]:
    """Metadata that shows all that the record lists."""
    return tuple(
        MetadataInterface(
            i.mac,
            i.device_index,
            (i.primary_address, *(a.cidr[:-3] for a in i.assignments if a.cidr.endswith("/32"))),
            tuple(a.cidr for a in i.assignments if not a.cidr.endswith("/32")),
            tuple(a.cidr for a in i.ipv6_assignments),
        )
        for i in record.interfaces
    )


def all_blocks(record: Record) -> tuple[Block, ...]:
    """The record's blocks with everything shown and linked."""
    return blocks_of(record, metadata(record), set(MACS))
