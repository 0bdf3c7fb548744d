"""Which addresses of a subnet are taken, and the choice of free ones.

Stock moto draws addresses at random and never looks whether they are free. Here each subnet has a ledger, kept up to
date by whoever assigns, that knows EC2's rules: five addresses of a subnet are reserved (docs: VPC user guide, "Subnet
CIDR blocks"), a prefix is an aligned /28 and wholly free (docs: EC2 user guide, "Assign prefixes"), CIDR reservations
of type ``prefix`` hold prefixes only and lower the free count at once, those of type ``explicit`` hold what is asked
for by address (docs: VPC user guide, "Subnet CIDR reservations").
"""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from moto.ec2.models.subnets import Subnet, SubnetBackend

from .ec2_errors import error, invalid, no_addresses
from .patching import replace

__all__ = ["PREFIX_SIZE", "Ledger", "Reservation", "install", "ledger_of"]

PREFIX_SIZE: Final = 16
"""Addresses of an IPv4 prefix: always a /28."""

Reservation = tuple[ipaddress.IPv4Network, str]
"""A CIDR reservation: its block and ``prefix`` or ``explicit``."""

_random: Final = random.Random(28)


class Ledger:
    """One subnet's addresses. ``holder`` is the id of a network interface. Not thread-safe: hold the API lock."""

    def __init__(
        self,
        cidr: ipaddress.IPv4Network,
        reservations: Callable[[], Sequence[Reservation]] = tuple,
        rng: random.Random = _random,
    ) -> None:
        self._cidr, self._reservations, self._rng = cidr, reservations, rng
        self._first, self._size = int(cidr.network_address), cidr.num_addresses
        self._aws = frozenset((*range(self._first, self._first + 4), self._first + self._size - 1))
        self._addresses: dict[int, str] = {}
        self._prefixes: dict[int, str] = {}
        self._in_block: Counter[int] = Counter()

    @property
    def free(self) -> int:
        """``AvailableIpAddressCount``: without the reserved five, what is taken, and reservations for prefixes."""
        held = [_span(block) for block, kind in self._reservations() if kind == "prefix"]
        reserved = sum(len(span) - sum(a in span for a in self._aws) for span in held)
        addresses = sum(not _within(a, held) for a in self._addresses)
        prefixes = sum(not _within(p, held) for p in self._prefixes)
        return self._size - len(self._aws) - reserved - addresses - PREFIX_SIZE * prefixes

    def holder(self, address: str) -> str | None:
        """The interface that has the address, by itself or within a prefix."""
        number = int(ipaddress.IPv4Address(address))
        return self._addresses.get(number) or self._prefixes.get(_block(number))

    def check_range(self, addresses: Iterable[str]) -> None:
        """Refuse addresses outside the subnet or among the five that EC2 keeps for itself."""
        for address in addresses:
            number = int(ipaddress.IPv4Address(address))
            if not self._first <= number < self._first + self._size:
                raise invalid(f"Address {address} does not fall within the subnet's address range")
            if number in self._aws:
                raise invalid(f"Address {address} is in subnet's reserved address range")

    def check_prefixes(self, prefixes: Iterable[str]) -> None:
        """Refuse prefixes that are not an aligned /28 of this subnet, wholly free."""
        for prefix in prefixes:
            try:
                block = ipaddress.IPv4Network(prefix)
            except ValueError:
                raise invalid(f"Invalid value '{prefix}' for ipv4 prefix. Give an aligned /28 block.") from None
            if block.prefixlen != 28 or not block.subnet_of(self._cidr):
                raise invalid(f"The prefix {prefix} is not a /28 block within the subnet's address range")
            if not self._block_is_free(int(block.network_address)):
                raise error("InvalidIPAddress.InUse", f"The prefix {prefix} is not free.")

    def pick_addresses(self, count: int) -> list[str]:
        """Choose free addresses outside all reservations, without taking them. As EC2's, the choice looks random."""
        if count <= 0:
            return []
        held = [_span(block) for block, _kind in self._reservations()]
        chosen: set[int] = set()
        for _ in range(8 * count):  # drawing is cheap while there is room; a full subnet needs the list
            number = self._first + self._rng.randrange(self._size)
            if self._is_free(number, held):
                chosen.add(number)
                if len(chosen) == count:
                    return _texts(chosen)
        free = [n for n in range(self._first, self._first + self._size) if self._is_free(n, held)]
        if len(free) < count:
            raise no_addresses()
        return _texts(self._rng.sample(free, count))

    def pick_prefixes(self, count: int) -> list[str]:
        """Choose free /28 blocks, from a ``prefix`` reservation while one has room, else from the subnet.

        Two errors are seen in the wild: ``InsufficientCidrBlocks`` when addresses are free but no aligned block is
        (amazon-vpc-cni-k8s #1836), ``InvalidParameterValue`` when the addresses themselves do not suffice (#3105).
        """
        if count <= 0:
            return []
        preferred, others = self._free_blocks()
        self._rng.shuffle(preferred)
        self._rng.shuffle(others)
        chosen = (preferred + others)[:count]
        if len(chosen) < count:
            if self.free < PREFIX_SIZE * count:
                raise invalid("There aren't sufficient free Ipv4 addresses or prefixes")
            raise error(
                "InsufficientCidrBlocks",
                "The specified subnet does not have enough free cidr blocks to satisfy the request.",
            )
        return [f"{ipaddress.IPv4Address(block)}/28" for block in sorted(chosen)]

    def take(self, holder: str, addresses: Iterable[str] = (), prefixes: Iterable[str] = ()) -> None:
        """Book addresses and prefixes that were picked or checked."""
        for address in addresses:
            number = int(ipaddress.IPv4Address(address))
            self._addresses[number] = holder
            self._in_block[_block(number)] += 1
        for prefix in prefixes:
            self._prefixes[int(ipaddress.IPv4Network(prefix).network_address)] = holder

    def give_back(self, addresses: Iterable[str] = (), prefixes: Iterable[str] = ()) -> None:
        """Free them again. What is not taken is ignored."""
        for address in addresses:
            number = int(ipaddress.IPv4Address(address))
            if self._addresses.pop(number, None) is not None:
                self._in_block[_block(number)] -= 1
        for prefix in prefixes:
            self._prefixes.pop(int(ipaddress.IPv4Network(prefix).network_address), None)

    def _is_free(self, number: int, held: Sequence[range]) -> bool:
        return (
            number not in self._aws
            and number not in self._addresses
            and _block(number) not in self._prefixes
            and not _within(number, held)
        )

    def _block_is_free(self, block: int) -> bool:
        return not (
            block in self._prefixes
            or self._in_block[block]
            or any(block <= address < block + PREFIX_SIZE for address in self._aws)
        )

    def _free_blocks(self) -> tuple[list[int], list[int]]:
        reservations = self._reservations()
        for_prefixes = [_span(block) for block, kind in reservations if kind == "prefix"]
        explicit = [_span(block) for block, kind in reservations if kind == "explicit"]
        preferred: list[int] = []
        others: list[int] = []
        for block in range(self._first, self._first + self._size - PREFIX_SIZE + 1, PREFIX_SIZE):
            if not self._block_is_free(block) or any(
                s.start < block + PREFIX_SIZE and block < s.stop for s in explicit
            ):
                continue
            (preferred if _within(block, for_prefixes) else others).append(block)
        return preferred, others


def _block(number: int) -> int:
    return number & ~(PREFIX_SIZE - 1)


def _span(block: ipaddress.IPv4Network) -> range:
    return range(int(block.network_address), int(block.network_address) + block.num_addresses)


def _within(number: int, spans: Sequence[range]) -> bool:
    return any(number in span for span in spans)


def _texts(numbers: Iterable[int]) -> list[str]:
    return [str(ipaddress.IPv4Address(number)) for number in numbers]


def ledger_of(subnet: Any) -> Ledger:
    """The ledger of moto's subnet. It lives on the subnet, so resetting moto forgets it too."""
    ledger: Ledger | None = getattr(subnet, "_ledger", None)
    if ledger is None:

        def reservations() -> list[Reservation]:
            return [(r.cidr, r.reservation_type) for r in subnet._cidr_reservations if r.cidr.version == 4]

        ledger = subnet._ledger = Ledger(subnet.cidr, reservations)
    return ledger


def _available(subnet: Any) -> int:
    return ledger_of(subnet).free


def _available_subnet_ip(subnet: Any, instance: Any) -> str:
    return ledger_of(subnet).pick_addresses(1)[0]


def _request_ip(subnet: Any, address: str, instance: Any) -> None:
    ledger_of(subnet).check_range([address])
    if ledger_of(subnet).holder(address):
        raise error("InvalidIPAddress.InUse", "The specified address is already in use.")


def _delete_subnet(original: Callable[..., Any]) -> Callable[..., Any]:
    def delete_subnet(backend: Any, subnet_id: str) -> Any:
        if any(eni.subnet.id == subnet_id for eni in backend.enis.values()):
            raise error("DependencyViolation", f"The subnet '{subnet_id}' has dependencies and cannot be deleted.")
        return original(backend, subnet_id)

    return delete_subnet


def install() -> None:
    """Let moto's subnets count and choose by the ledger. Booking is done where interfaces are made and changed."""
    replace(Subnet, "available_ip_address_count", property(_available))
    replace(Subnet, "get_available_subnet_ip", _available_subnet_ip)
    replace(Subnet, "request_ip", _request_ip)
    replace(SubnetBackend, "delete_subnet", _delete_subnet(SubnetBackend.delete_subnet))
