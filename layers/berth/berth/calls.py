"""The mutating EC2 calls that a plan is made of: frozen values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

__all__ = [
    "GROWING",
    "GROWING_ACTIONS",
    "MUTATING",
    "AssignAddresses",
    "AssignIpv6Prefixes",
    "AssignPrefixes",
    "AssociatePublic",
    "Attach",
    "Call",
    "ClaimPublic",
    "ClaimStandby",
    "CreateInterface",
    "DeleteInterface",
    "Detach",
    "DisassociatePublic",
    "PublicCall",
    "SetDeleteOnTermination",
    "SetGroups",
    "TagForNode",
    "Unassign",
    "UnclaimPublic",
    "action_of",
]


@dataclass(frozen=True, slots=True)
class CreateInterface:
    """CreateNetworkInterface with our tags. Either ``prefixes`` or ``addresses`` is above zero, never both (EC2).

    ``ipv6_prefixes`` may come with either: EC2 takes counts of both families in one call. Of an interface for one
    ``pod`` (the id of its request) all are zero: its first address is the pod's. ``pod_asks`` is what was asked for.
    """

    subnet_id: str
    groups: tuple[str, ...]
    prefixes: int = 0
    addresses: int = 0
    ipv6_prefixes: int = 0
    pod: str = ""
    pod_asks: str = ""


@dataclass(frozen=True, slots=True)
class Attach:
    interface_id: str
    device_index: int
    network_card: int = 0


@dataclass(frozen=True, slots=True)
class ClaimStandby:
    """No EC2 call: a conditional write makes a standby interface the node's own, to be attached like any of its own."""

    interface_id: str


@dataclass(frozen=True, slots=True)
class TagForNode:
    """CreateTags with our instance tag: a claimed standby interface becomes the node's own by its tag too."""

    interface_id: str


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
class AssignIpv6Prefixes:
    """AssignIpv6Addresses: /80 prefixes, the only size that EC2 assigns. A call of another name, so another bucket."""

    interface_id: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class SetGroups:
    """ModifyNetworkInterfaceAttribute: the security groups to have instead of the present ones, sorted."""

    interface_id: str
    groups: tuple[str, ...]


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


@dataclass(frozen=True, slots=True)
class ClaimPublic:
    """No EC2 call: a conditional write makes an Elastic IP address one pod's, to be associated with ``address``."""

    interface_id: ClassVar[str] = ""
    allocation_id: str
    request: str
    address: str


@dataclass(frozen=True, slots=True)
class UnclaimPublic:
    """No EC2 call: nobody has the Elastic IP address any more, and others may claim it."""

    interface_id: ClassVar[str] = ""
    allocation_id: str


@dataclass(frozen=True, slots=True)
class AssociatePublic:
    """AssociateAddress with a private address. EC2 would take it from where it is, which is never asked for."""

    interface_id: str
    allocation_id: str
    address: str


@dataclass(frozen=True, slots=True)
class DisassociatePublic:
    """DisassociateAddress. ``address`` is the private one."""

    interface_id: str
    allocation_id: str
    association_id: str
    address: str


PublicCall = ClaimPublic | UnclaimPublic | AssociatePublic | DisassociatePublic
Call = (
    CreateInterface
    | Attach
    | ClaimStandby
    | TagForNode
    | SetDeleteOnTermination
    | AssignPrefixes
    | AssignAddresses
    | AssignIpv6Prefixes
    | SetGroups
    | Unassign
    | Detach
    | DeleteInterface
    | ClaimPublic
    | UnclaimPublic
    | AssociatePublic
    | DisassociatePublic
)

GROWING: Final[tuple[type[Call], ...]] = (CreateInterface, Attach, ClaimStandby, AssignPrefixes, AssignAddresses)
"""Those that bring a node addresses."""

MUTATING: Final[tuple[type[Call], ...]] = (
    CreateInterface,
    Attach,
    TagForNode,
    SetDeleteOnTermination,
    AssignPrefixes,
    AssignAddresses,
    AssignIpv6Prefixes,
    SetGroups,
    Unassign,
    Detach,
    DeleteInterface,
    AssociatePublic,
    DisassociatePublic,
)

_ACTIONS: Final[dict[type[Call], str]] = {
    CreateInterface: "CreateNetworkInterface",
    Attach: "AttachNetworkInterface",
    ClaimStandby: "",
    TagForNode: "CreateTags",
    SetDeleteOnTermination: "ModifyNetworkInterfaceAttribute",
    AssignPrefixes: "AssignPrivateIpAddresses",
    AssignAddresses: "AssignPrivateIpAddresses",
    AssignIpv6Prefixes: "AssignIpv6Addresses",
    SetGroups: "ModifyNetworkInterfaceAttribute",
    Unassign: "UnassignPrivateIpAddresses",
    Detach: "DetachNetworkInterface",
    DeleteInterface: "DeleteNetworkInterface",
    ClaimPublic: "",
    UnclaimPublic: "",
    AssociatePublic: "AssociateAddress",
    DisassociatePublic: "DisassociateAddress",
}


GROWING_ACTIONS: Final = frozenset(filter(None, (_ACTIONS[kind] for kind in GROWING)))
"""EC2's names of the actions that bring a node addresses."""


def action_of(call: Call) -> str:
    """EC2's name of the action, each of which has a bucket of its own; "" for what is no EC2 call."""
    return _ACTIONS[type(call)]
