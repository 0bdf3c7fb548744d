"""The wire formats between the node and the Lambdas: the node record and the node report.

Both are JSON. The *record* (written by Lambdas alone) says what a node may use; the *report* (written by the
agent) is a full snapshot of what the node does with it. This is the only module of ``berth`` that the node agent
imports, so it and its helpers ``berth._reading`` and ``berth._pods`` depend on the standard library alone.

Evolution: a reader ignores fields it does not know and refuses a ``schema`` above its own. A field is added with a
default; a field's meaning never changes.

DynamoDB layout (shared with the node, which may ``GetItem`` its own key alone): partition key ``node`` = the instance
ARN exactly as IAM's ``ec2:SourceInstanceARN`` gives it, sort key ``kind`` = ``record``; the attribute ``body`` holds
the record's JSON as a string. Beside it, under ``kind`` = ``report``, the attribute ``leases`` says which leases of
pods the ledger has (:class:`Told`); it is written with each report that is accepted (docs/decisions/0020).
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal

from berth._pods import PodGrant, PodLease, PodRequest, read_epoch, read_grant, read_lease, read_request
from berth._reading import ContractError, Reader

__all__ = [
    "BODY",
    "HOLD_SECONDS",
    "KIND",
    "LEASES",
    "NODE",
    "RECORD_KIND",
    "REPORT_KIND",
    "SCHEMA",
    "Assignment",
    "ContractError",
    "Interface",
    "IpFamilies",
    "Mode",
    "Order",
    "PodGrant",
    "PodLease",
    "PodRequest",
    "Policy",
    "Record",
    "Report",
    "Surrender",
    "Told",
    "address_count",
    "decode_record",
    "decode_report",
    "encode_record",
    "encode_report",
]

SCHEMA: Final = 1
NODE: Final = "node"
KIND: Final = "kind"
BODY: Final = "body"
RECORD_KIND: Final = "record"
REPORT_KIND: Final = "report"
LEASES: Final = "leases"
HOLD_SECONDS: Final = 120.0
"""For so long at the most surrenders wait for leases to be told: a ledger that fails must not keep addresses."""

Mode = Literal["prefixes", "addresses"]
MODES: Final[tuple[Mode, ...]] = ("prefixes", "addresses")
IpFamilies = Literal["ipv4", "dual", "ipv6"]
IP_FAMILIES: Final[tuple[IpFamilies, ...]] = ("ipv4", "dual", "ipv6")


@dataclass(frozen=True, slots=True, order=True)
class Order:
    """The order of a node's reports: boot counter first, then the sequence within that boot.

    Both are counters kept in ``/var/lib/berth``. The kernel's boot id is random and has no order, so it cannot serve.
    """

    boot: int = 0
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Assignment:
    """A prefix (``10.0.1.16/28``) or a single address (``10.0.1.5/32``) that EC2 has shown on an interface.

    ``id`` names this assignment, not the block: the same block unassigned and assigned again gets a new id, so a stale
    surrender can never match it. ``releasing`` means that the agent must not lend an address of it.
    """

    cidr: str
    id: str
    releasing: bool = False


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of ours or the primary one. ``gateway`` is the subnet's first host address (VPC router).

    ``ipv6_assignments`` are its /80 prefixes. None is ever released while the interface lives. ``pod`` is the request
    (:class:`PodRequest`) that has the interface for itself: nothing of it is lent to others.
    """

    id: str
    mac: str
    device_index: int
    subnet_id: str
    subnet_cidr: str
    gateway: str
    primary_address: str
    network_card: int = 0
    assignments: tuple[Assignment, ...] = ()
    ipv6_assignments: tuple[Assignment, ...] = ()
    pod: str = ""

    @property
    def primary(self) -> bool:
        return (self.network_card, self.device_index) == (0, 0)


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy in force on a node, in addresses and seconds.

    ``spare_primary``: no pod is given an address of the primary interface (docs/decisions/0024).
    """

    mode: Mode = "prefixes"
    warm_addresses: int = 8
    minimum_addresses: int = 0
    max_pods: int = 110
    cooldown_seconds: int = 120
    ip_families: IpFamilies = "ipv4"
    spare_primary: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What a node may use. ``revision`` only ever grows; the agent ignores a lower one.

    ``accepted`` is the order of the last accepted report that was worth a look: its boot counter is always that of the
    last accepted one, so an agent that lost its files starts above all of them by taking the next boot.
    ``no_snat_cidrs`` are destinations that see the pod's own address. ``grants`` answer the reports' requests.
    """

    instance_arn: str
    revision: int
    policy: Policy = field(default_factory=Policy)
    interfaces: tuple[Interface, ...] = ()
    no_snat_cidrs: tuple[str, ...] = ()
    accepted: Order = field(default_factory=Order)
    grants: tuple[PodGrant, ...] = ()
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Surrender:
    """A prefix or address the agent has taken out of its pool and offers to give back."""

    mac: str
    cidr: str
    assignment: str


@dataclass(frozen=True, slots=True)
class Told:
    """Which leases the ledger has: those of ``epoch`` with ids up to ``id``. As text: ``epoch/id``."""

    epoch: str = ""
    id: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}/{self.id}"

    @classmethod
    def read(cls, text: str) -> Told:
        """Nothing, for a text that is none: then leases are told once more."""
        epoch, _, number = text.rpartition("/")
        return cls(epoch, int(number)) if number.isascii() and number.isdigit() else cls()


@dataclass(frozen=True, slots=True)
class Report:
    """A full snapshot from a node. Counts are in addresses; ``waiting`` holds the uid of each pod that waits.

    ``cooling`` counts cooling addresses outside surrendered blocks. ``unusable`` lists the blocks of the record that
    instance metadata does not show. A surrendered block counts neither as in use nor as cooling.

    ``epoch`` names a time through which the agent has known of every lease of its pods, "" for an agent that keeps
    none; a new one begins (``epoch_since``) when that knowledge was lost, as by a reboot, and then no lease of the one
    before goes on. ``leases`` are some of those that the ledger may not have, in the order of their ids; those up to
    ``leases_told`` are either among them or acknowledged. ``leases_until``: every begin and end before that time, by
    the node's clock, is told by this report or was acknowledged. So each report bounds all of its node's open leases.

    ``requests`` are all that its pods ask of the VPC now, those that were granted too. In the mode ``prefixes`` one for
    a public address that has no address yet asks for a single one, beside ``singles_taken`` that others cannot have.
    """

    order: Order
    acknowledged_revision: int
    in_use: int
    waiting: tuple[str, ...] = ()
    cooling: int = 0
    unusable: tuple[str, ...] = ()
    surrendered: tuple[Surrender, ...] = ()
    epoch: str = ""
    epoch_since: float = 0.0
    leases: tuple[PodLease, ...] = ()
    leases_told: int = 0
    leases_until: float = 0.0
    requests: tuple[PodRequest, ...] = ()
    singles_taken: int = 0
    schema: int = SCHEMA


@lru_cache(maxsize=4096)
def address_count(cidr: str) -> int:
    """How many pod addresses a block gives: all 16 of a /28 (EC2 reserves none inside a prefix), 1 of a /32."""
    return ipaddress.ip_network(cidr).num_addresses


# --------------------------------------------------------------------------------------------------- reading


def _parse(text: str, what: str) -> Reader:
    try:
        reader = Reader(json.loads(text), what)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of more than 4300 digits
        raise ContractError(what, f"is not JSON: {error}") from None
    schema = reader.count("schema")
    if schema != SCHEMA:
        raise ContractError(f"{what}.schema", f"this version reads schema {SCHEMA}, got {schema}; upgrade this side")
    return reader


def _order(r: Reader) -> Order:
    return Order(boot=r.count("boot", 0), sequence=r.count("sequence", 0))


def _assignment(r: Reader) -> Assignment:
    return Assignment(cidr=r.block("cidr"), id=r.text("id"), releasing=r.flag("releasing"))


def _ipv6_assignment(r: Reader) -> Assignment:
    return Assignment(cidr=r.ipv6_block("cidr"), id=r.text("id"), releasing=r.flag("releasing"))


def _interface(r: Reader) -> Interface:
    return Interface(
        id=r.text("id"),
        mac=r.text("mac").lower(),
        device_index=r.count("device_index"),
        network_card=r.count("network_card", 0),
        subnet_id=r.text("subnet_id"),
        subnet_cidr=r.block("subnet_cidr"),
        gateway=r.address("gateway"),
        primary_address=r.address("primary_address"),
        assignments=r.many("assignments", _assignment),
        ipv6_assignments=r.many("ipv6_assignments", _ipv6_assignment),
        pod=r.optional("pod"),
    )


def _policy(r: Reader) -> Policy:
    return Policy(
        mode=r.choice("mode", MODES),
        warm_addresses=r.count("warm_addresses"),
        minimum_addresses=r.count("minimum_addresses"),
        max_pods=r.count("max_pods"),
        cooldown_seconds=r.count("cooldown_seconds"),
        ip_families=r.choice("ip_families", IP_FAMILIES, "ipv4"),
        spare_primary=r.flag("spare_primary"),
    )


def decode_record(text: str) -> Record:
    """Read a record's JSON. Raises :class:`ContractError` naming the field."""
    r = _parse(text, "record")
    return Record(
        instance_arn=r.text("instance_arn"),
        revision=r.count("revision"),
        policy=_policy(r.child("policy")),
        interfaces=r.many("interfaces", _interface),
        no_snat_cidrs=r.blocks("no_snat_cidrs"),
        accepted=_order(r.child("accepted")),
        grants=r.many("grants", read_grant),
    )


def _surrender(r: Reader) -> Surrender:
    return Surrender(mac=r.text("mac").lower(), cidr=r.block("cidr"), assignment=r.text("assignment"))


def decode_report(text: str) -> Report:
    """Read a report's JSON. Raises :class:`ContractError` naming the field.

    Nothing in it says who sent it: identity is the message's SQS ``SenderId``, never the body.
    """
    r = _parse(text, "report")
    return Report(
        order=_order(r.child("order")),
        acknowledged_revision=r.count("acknowledged_revision"),
        in_use=r.count("in_use"),
        waiting=r.texts("waiting"),
        cooling=r.count("cooling", 0),
        unusable=r.blocks("unusable"),
        surrendered=r.many("surrendered", _surrender),
        epoch=read_epoch(r),
        epoch_since=r.time("epoch_since"),
        leases=r.many("leases", read_lease),
        leases_told=r.count("leases_told", 0),
        leases_until=r.time("leases_until"),
        requests=r.many("requests", read_request),
        singles_taken=r.count("singles_taken", 0),
    )


# --------------------------------------------------------------------------------------------------- writing


def _fields(value: Any) -> dict[str, Any]:
    """A dataclass as an object. The encoder itself writes tuples as arrays, and asks for nothing else."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _encode(value: Record | Report) -> str:
    return json.dumps(value, default=_fields, separators=(",", ":"), sort_keys=True)


def encode_record(record: Record) -> str:
    """The record as canonical JSON: equal records give equal text."""
    return _encode(record)


def encode_report(report: Report) -> str:
    """The report as canonical JSON."""
    return _encode(report)
