"""The mutating EC2 calls that a plan is made of: frozen values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "MUTATING",
    "AssignAddresses",
    "AssignPrefixes",
    "Attach",
    "Call",
    "CreateInterface",
    "DeleteInterface",
    "Detach",
    "SetDeleteOnTermination",
    "Unassign",
]


@dataclass(frozen=True, slots=True)
class CreateInterface:
    """CreateNetworkInterface with our tags. Either ``prefixes`` or ``addresses`` is above zero, never both (EC2)."""

    subnet_id: str
    groups: tuple[str, ...]
    prefixes: int = 0
    addresses: int = 0


@dataclass(frozen=True, slots=True)
class Attach:
    interface_id: str
    device_index: int
    network_card: int = 0


@dataclass(frozen=True, slots=True)
class SetDeleteOnTermination:
    """AttachNetworkInterface has no such parameter, so it takes a call of its own."""

    interface_id: str
    attachment_id: str


@dataclass(frozen=True, slots=True)
class AssignPrefixes:
    interface_id: str
    count: int


@dataclass(frozen=True, slots=True)
class AssignAddresses:
    interface_id: str
    count: int


@dataclass(frozen=True, slots=True)
class Unassign:
    """One UnassignPrivateIpAddresses: prefixes and single addresses go in separate calls (EC2 takes one kind)."""

    interface_id: str
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Detach:
    interface_id: str
    attachment_id: str


@dataclass(frozen=True, slots=True)
class DeleteInterface:
    interface_id: str


Call = (
    CreateInterface
    | Attach
    | SetDeleteOnTermination
    | AssignPrefixes
    | AssignAddresses
    | Unassign
    | Detach
    | DeleteInterface
)

MUTATING: Final[tuple[type[Call], ...]] = (
    CreateInterface,
    Attach,
    SetDeleteOnTermination,
    AssignPrefixes,
    AssignAddresses,
    Unassign,
    Detach,
    DeleteInterface,
)
