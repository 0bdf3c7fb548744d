"""Host ports: what a runtime asks for with the capability ``portMappings``, and the text in which it is kept.

The shape is the one of CNI's ``portmap`` plugin (CONVENTIONS.md, *Well-known capabilities*): ``runtimeConfig`` has a
list of ``{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "10.0.1.10"}``; without ``hostIP``, or
with ``0.0.0.0`` or ``::``, the port is lent on every address of the node, of each family that the pod has. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["PROTOCOLS", "PortMapping", "clash", "decode", "encode", "of_family", "read"]

PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
"""IANA's numbers."""
_ANY: Final = ("0.0.0.0", "::")  # noqa: S104 -- nothing is bound
_WRITTEN: Final = re.compile(r"(\w+):(?:\[([0-9a-f:.]+)\]:|([0-9.]+):)?(\d+):(\d+)").fullmatch


@dataclass(frozen=True, slots=True, order=True)
class PortMapping:
    """A port of the node that leads to a port of a pod. ``host_ip`` "" is every address of the node."""

    protocol: str
    host_port: int
    container_port: int
    host_ip: str = ""

    def __str__(self) -> str:
        return f"{self.protocol}:{self._where}{self.host_port}:{self.container_port}"

    @property
    def asked(self) -> str:
        """What of the node it takes, for people: ``8080/tcp`` or ``10.0.1.10:8080/tcp``."""
        return f"{self._where}{self.host_port}/{self.protocol}"

    @property
    def _where(self) -> str:
        return f"[{self.host_ip}]:" if ":" in self.host_ip else f"{self.host_ip}:" if self.host_ip else ""


def read(config: Mapping[str, Any]) -> tuple[PortMapping, ...]:
    """The mappings of a network configuration, sorted. Raises ``ValueError`` in words that name the field."""
    given = config.get("runtimeConfig")
    if given is not None and not isinstance(given, dict):
        raise ValueError(f"'runtimeConfig' must be an object, got {given!r:.80}")
    listed = (given or {}).get("portMappings")
    if listed is not None and not isinstance(listed, list):
        raise ValueError(f"'runtimeConfig.portMappings' must be a list, got {listed!r:.80}")
    found: dict[tuple[str, str, int], PortMapping] = {}
    for place, item in enumerate(listed or ()):
        mapping = _mapping(f"'runtimeConfig.portMappings[{place}]", item)
        slot = mapping.host_ip, mapping.protocol, mapping.host_port
        if found.setdefault(slot, mapping) != mapping:
            raise ValueError(f"'runtimeConfig.portMappings' gives host port {mapping.asked} to two container ports")
    return tuple(sorted(found.values()))


def _mapping(where: str, item: object) -> PortMapping:
    # containerd's structure has no JSON names, so it writes HostPort; Go reads names in any case, and so must this
    fields = {str(name).lower(): value for name, value in item.items()} if isinstance(item, dict) else None
    if fields is None:
        raise ValueError(f"{where}' must be an object, got {item!r:.80}")
    protocol = fields.get("protocol", "tcp")
    if not isinstance(protocol, str) or protocol.lower() not in PROTOCOLS:
        raise ValueError(f"{where}.protocol' must be one of {', '.join(PROTOCOLS)}, got {protocol!r:.80}")
    host_ip = fields.get("hostip") or ""
    try:
        # as text, since a number would be taken for an address; without the scope that an IPv6 one may have
        host_ip = "" if host_ip in ("", *_ANY) else _address(str(host_ip).replace("%", "/"))
    except ValueError:
        raise ValueError(
            f"{where}.hostIP' must be an address of the node (not ::1), or empty, got {host_ip!r:.80}"
        ) from None
    host, container = (_port(where, name, fields.get(name.lower())) for name in ("hostPort", "containerPort"))
    return PortMapping(protocol.lower(), host, container, host_ip)


def _address(text: str) -> str:
    address = ipaddress.ip_address(text)
    if address.version == 6 and address.is_loopback:
        raise ValueError("no packet from ::1 leaves a host, so it cannot lead to a pod")
    return str(address)


def _port(where: str, name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ValueError(f"{where}.{name}' must be 1 to 65535, got {value!r:.80}")
    return value


def encode(mappings: Iterable[PortMapping]) -> str:
    """Mappings as one short text, "" for none."""
    return ",".join(map(str, mappings))


def decode(text: str) -> tuple[PortMapping, ...]:
    """What :func:`encode` made. Raises ``ValueError`` for anything else."""
    found = []
    for part in text.split(",") if text else ():
        words = _WRITTEN(part)
        if words is None or words[1] not in PROTOCOLS:
            raise ValueError(f"no port mapping: {part!r:.80}")
        address = words[2] or words[3] or ""
        if address:
            ipaddress.ip_address(address)
        found.append(PortMapping(words[1], int(words[4]), int(words[5]), address))
    return tuple(found)


def of_family(mappings: Iterable[PortMapping], *, ipv6: bool) -> tuple[PortMapping, ...]:
    """Those that lend a port on addresses of this family."""
    return tuple(m for m in mappings if not m.host_ip or (":" in m.host_ip) == ipv6)


def clash(one: PortMapping, other: PortMapping) -> bool:
    """Whether two pods cannot have both: as with bind(2), a port on every address takes it on each."""
    if (one.protocol, one.host_port) != (other.protocol, other.host_port):
        return False
    return not (one.host_ip and other.host_ip) or one.host_ip == other.host_ip
