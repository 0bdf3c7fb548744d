"""Elastic network interfaces: creating, deleting, addresses and prefixes, attributes.

Replaces the parts of moto's model that ignore prefixes, hand out taken addresses, know no limits and delete
interfaces that are in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from moto.ec2.exceptions import InvalidNetworkInterfaceIdError
from moto.ec2.models import vpcs
from moto.ec2.models.elastic_network_interfaces import NetworkInterface, NetworkInterfaceBackend
from moto.ec2.utils import random_mac_address

from .changes import notify
from .ec2_addresses import ledger_of
from .ec2_errors import error, invalid
from .ec2_limits import check_addresses, slots_used
from .ec2_public import dropped
from .patching import replace

__all__ = ["Wanted", "assign", "create", "delete", "give_back_all", "install", "remove", "unassign"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Addresses that a request asks for, by name or by count."""

    addresses: tuple[str, ...] = ()
    count: int = 0
    prefixes: tuple[str, ...] = ()
    prefix_count: int = 0

    def __post_init__(self) -> None:
        given = [bool(self.addresses), bool(self.count), bool(self.prefixes), bool(self.prefix_count)]
        if sum(given[2:]) > 1 or sum(given[:2]) > 1 or (any(given[:2]) and any(given[2:])):
            raise error(
                "InvalidParameterCombination",
                "Only one of private addresses, their count, prefixes and their count can be specified.",
            )

    @property
    def slots(self) -> int:
        return len(self.addresses) + self.count + len(self.prefixes) + self.prefix_count

    @property
    def prefix_slots(self) -> int:
        return len(self.prefixes) + self.prefix_count


@dataclass(slots=True)
class _Plan:
    primary: str
    secondaries: list[str] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)


def create(backend: Any, subnet: Any, wanted: Wanted, *, primary: str | None = None, **attributes: Any) -> Any:
    """Make an interface in moto's ``subnet`` (or its id) and return it.

    ``primary`` and ``wanted.addresses`` (secondaries) must be free in the subnet; what is not named is chosen.
    ``attributes`` are moto's (group_ids, description, tags, device_index, ...) and ``interface_type``.
    """
    if isinstance(subnet, str):
        subnet = backend.get_subnet(subnet)
    plan = _choose(subnet, wanted, primary)
    kind = attributes.pop("interface_type", None) or "interface"
    addresses = [{"Primary": n == 0, "PrivateIpAddress": a} for n, a in enumerate([plan.primary, *plan.secondaries])]
    made: Any = NetworkInterface  # moto's base class is abstract on paper only
    eni = made(backend, subnet, plan.primary, addresses, **attributes)
    taken = {other.mac_address for other in backend.enis.values()}
    while eni.mac_address in taken:
        eni.mac_address = random_mac_address()
    eni.interface_type = kind
    eni.ipv4_prefixes = [{"Ipv4Prefix": p} for p in plan.prefixes]
    if getattr(eni, "private_dns_name", None):
        eni.private_dns_name = f"ip-{plan.primary.replace('.', '-')}.{backend.region_name}.compute.internal"
    ledger_of(subnet).take(eni.id, [plan.primary, *plan.secondaries], plan.prefixes)
    backend.enis[eni.id] = eni
    notify()
    return eni


def _choose(subnet: Any, wanted: Wanted, primary: str | None) -> _Plan:
    ledger = ledger_of(subnet)
    named = [*([primary] if primary else []), *wanted.addresses]
    if len(set(named)) != len(named):
        raise invalid("The same private address is specified more than once.")
    ledger.check_range(named)
    if any(ledger.holder(address) for address in named):
        raise error("InvalidIPAddress.InUse", "The specified address is already in use.")
    ledger.check_prefixes(wanted.prefixes)
    check_addresses(1 + wanted.slots, wanted.prefix_slots, None)
    ledger.take("", named, wanted.prefixes)
    chosen: list[str] = []
    try:
        chosen = ledger.pick_addresses(wanted.count + (primary is None))
        ledger.take("", chosen)
        prefixes = [*wanted.prefixes, *ledger.pick_prefixes(wanted.prefix_count)]
    finally:
        ledger.give_back([*named, *chosen], wanted.prefixes)
    if primary is None:
        primary = chosen.pop()
    return _Plan(primary, [*wanted.addresses, *chosen], prefixes)


def delete(backend: Any, eni_id: str) -> None:
    """Delete an interface that is attached to nothing, and free its addresses."""
    eni = backend.get_network_interface(eni_id)
    if eni.attachment_id:
        raise invalid(f"Network interface '{eni_id}' is currently in use.")
    remove(backend, eni)


def remove(backend: Any, eni: Any) -> None:
    """Forget an interface, its addresses, tags and the public address that pointed to it, without asking."""
    backend.enis.pop(eni.id, None)
    give_back_all(eni)
    for elastic in backend.addresses:
        if elastic.eni is eni:
            elastic.eni = elastic.instance = elastic.association_id = elastic._private = None
    backend.tags.pop(eni.id, None)
    notify()


def give_back_all(eni: Any) -> None:
    ledger_of(eni.subnet).give_back(
        [a["PrivateIpAddress"] for a in eni.private_ip_addresses], [p["Ipv4Prefix"] for p in eni.ipv4_prefixes]
    )


def assign(backend: Any, eni_id: str, wanted: Wanted, reassign: bool = False) -> tuple[list[str], list[str]]:
    """AssignPrivateIpAddresses: the *new* addresses and prefixes, by name or by count."""
    eni = backend.get_network_interface(eni_id)
    if not wanted.slots:
        raise error(
            "MissingParameter", "Either privateIpAddress or secondaryPrivateIpAddressCount should be specified."
        )
    own = {a["PrivateIpAddress"] for a in eni.private_ip_addresses}
    named = [a for a in wanted.addresses if a not in own]
    check_addresses(
        slots_used(eni) + wanted.slots - len(wanted.addresses) + len(named),
        len(eni.ipv4_prefixes) + wanted.prefix_slots,
        eni.instance.instance_type if eni.instance else None,
    )
    ledger = ledger_of(eni.subnet)
    ledger.check_range(named)
    _move(backend, eni, named, reassign)
    ledger.check_prefixes(wanted.prefixes)
    addresses = [*named, *ledger.pick_addresses(wanted.count)]
    prefixes = [*wanted.prefixes, *ledger.pick_prefixes(wanted.prefix_count)]
    ledger.take(eni.id, addresses, prefixes)
    eni.private_ip_addresses = [
        *eni.private_ip_addresses,
        *({"Primary": False, "PrivateIpAddress": a} for a in addresses),
    ]
    eni.ipv4_prefixes = [*eni.ipv4_prefixes, *({"Ipv4Prefix": p} for p in prefixes)]
    notify()
    return addresses, prefixes


def _move(backend: Any, eni: Any, addresses: Sequence[str], reassign: bool) -> None:
    """Take addresses from other interfaces if that is allowed; a primary address never moves."""
    ledger = ledger_of(eni.subnet)
    held = [(address, ledger.holder(address)) for address in addresses]
    taken = [(address, backend.enis.get(holder)) for address, holder in held if holder]
    movable = [(address, other) for address, other in taken if other is not None and address in _secondaries(other)]
    if taken and (not reassign or len(movable) < len(taken)):
        raise invalid(f"[{', '.join(address for address, _ in taken)}] assigned, but move is not allowed.")
    for address, other in movable:
        _drop(other, [address], ())


def unassign(backend: Any, eni_id: str, addresses: Sequence[str], prefixes: Sequence[str]) -> None:
    """UnassignPrivateIpAddresses: all or nothing; neither a primary address nor one of another interface."""
    eni = backend.get_network_interface(eni_id)
    if not addresses and not prefixes:
        raise error("MissingParameter", "The request must contain the parameter privateIpAddress or ipv4Prefix")
    known = {p["Ipv4Prefix"] for p in eni.ipv4_prefixes}
    if not set(addresses) <= _secondaries(eni) or not set(prefixes) <= known:
        raise invalid(f"Some of the specified addresses are not assigned to interface {eni_id}")
    _drop(eni, addresses, prefixes)
    notify()


def _secondaries(eni: Any) -> set[str]:
    return {a["PrivateIpAddress"] for a in eni.private_ip_addresses if not a.get("Primary")}


def _drop(eni: Any, addresses: Iterable[str], prefixes: Iterable[str]) -> None:
    gone, gone_prefixes = set(addresses), set(prefixes)
    dropped(eni, gone)
    eni.private_ip_addresses = [a for a in eni.private_ip_addresses if a["PrivateIpAddress"] not in gone]
    eni.ipv4_prefixes = [p for p in eni.ipv4_prefixes if p["Ipv4Prefix"] not in gone_prefixes]
    ledger_of(eni.subnet).give_back(gone, gone_prefixes)


def _create_for_moto(
    backend: Any,
    subnet: Any,
    private_ip_address: Any = None,
    private_ip_addresses: Sequence[Any] | None = None,
    group_ids: list[str] | None = None,
    description: str | None = None,
    tags: dict[str, str] | None = None,
    delete_on_termination: bool | None = False,
    **more: Any,
) -> Any:
    """The signature by which the rest of moto (RunInstances, endpoints, CloudFormation) makes interfaces."""
    if isinstance(private_ip_address, list):
        private_ip_address = private_ip_address[0] if private_ip_address else None
    listed = [{"PrivateIpAddress": a} if isinstance(a, str) else a for a in private_ip_addresses or []]
    primary = private_ip_address or next((a["PrivateIpAddress"] for a in listed if a.get("Primary")), None)
    secondaries = tuple(a["PrivateIpAddress"] for a in listed if a["PrivateIpAddress"] != primary)
    count = int(more.pop("secondary_ips_count", None) or 0)
    return create(
        backend,
        subnet,
        Wanted(secondaries, count),
        primary=primary,
        group_ids=group_ids,
        description=description,
        tags=tags,
        delete_on_termination=delete_on_termination,
        **more,
    )


def _get(backend: Any, eni_id: str) -> Any:
    eni = backend.enis.get(eni_id)
    if eni is None:
        raise InvalidNetworkInterfaceIdError(eni_id)
    return eni


def install() -> None:
    """Put the model in place. The wire side is ``ec2_interface_api``, attaching is ``ec2_attachments``."""
    setattr(NetworkInterface, "ipv4_prefixes", [])  # noqa: B010 - of interfaces made before these additions
    replace(NetworkInterfaceBackend, "create_network_interface", _create_for_moto)
    replace(NetworkInterfaceBackend, "delete_network_interface", delete)
    replace(NetworkInterfaceBackend, "get_network_interface", _get)
    # EC2 gives an interface the groups it was created with; moto adds those of the instance it is attached to.
    replace(NetworkInterface, "group_set", property(lambda eni: eni._group_set))
    # Interface endpoints are given an address outside the subnet by moto; none means: choose one.
    replace(vpcs, "random_private_ip", lambda: None)
