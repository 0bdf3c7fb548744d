"""Service rules as kube-proxy writes them, in its iptables and in its nftables mode.

Only what decides where a packet goes and what address it has: marks for masquerading (0x4000), DNAT, masquerade with
``--random-fully``, rejects for Services without endpoints (kubernetes/pkg/proxy/{iptables,nftables}/proxier.go).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.sandbox import netns
from tests.sandbox.traffic import PORT

__all__ = ["MODES", "Service", "clear"]

_PROTOCOLS: Final = ("tcp", "udp")


@dataclass(frozen=True, slots=True)
class Service:
    """One Service, for TCP and UDP on :data:`PORT`. ``local``: externalTrafficPolicy Local (the client's address is
    kept). Without an endpoint it is rejected."""

    number: int
    endpoint: str
    local: bool = False

    @property
    def address(self) -> str:
        return f"10.100.0.{self.number}"

    @property
    def node_port(self) -> int:
        return 30000 + self.number


def iptables(where: str, services: Iterable[Service]) -> None:
    """Load them in iptables mode."""
    lines = ["*nat", *(f":KUBE-{name} -" for name in ("SERVICES", "NODEPORTS", "POSTROUTING", "MARK-MASQ"))]
    lines += [
        "-A PREROUTING -j KUBE-SERVICES",
        "-A OUTPUT -j KUBE-SERVICES",
        "-A POSTROUTING -j KUBE-POSTROUTING",
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
    ]
    rejects = ["*filter", ":KUBE-FORWARD -", "-A FORWARD -j KUBE-FORWARD"]
    rejects += [
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
        "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ]
    for service in services:
        for protocol in _PROTOCOLS:
            if service.endpoint:
                lines += _iptables_service(service, protocol)
            else:
                rejects += _iptables_reject(service, protocol)
    lines += ["-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS", "COMMIT", *rejects, "COMMIT", ""]
    netns.run(where, ["iptables-restore"], stdin="\n".join(lines))


def _iptables_service(service: Service, protocol: str) -> Iterator[str]:
    name = f"{service.number}-{protocol}"
    yield from (f":KUBE-{kind}-{name} -" for kind in ("SVC", "EXT", "SEP"))
    yield f"-A KUBE-SERVICES -d {service.address}/32 -p {protocol} --dport {PORT} -j KUBE-SVC-{name}"
    yield f"-A KUBE-NODEPORTS -p {protocol} --dport {service.node_port} -j KUBE-EXT-{name}"
    if not service.local:
        yield f"-A KUBE-EXT-{name} -j KUBE-MARK-MASQ"
    yield f"-A KUBE-EXT-{name} -j KUBE-SVC-{name}"
    yield f"-A KUBE-SVC-{name} -j KUBE-SEP-{name}"
    yield f"-A KUBE-SEP-{name} -s {service.endpoint}/32 -j KUBE-MARK-MASQ"
    yield f"-A KUBE-SEP-{name} -p {protocol} -j DNAT --to-destination {service.endpoint}:{PORT}"


def _iptables_reject(service: Service, protocol: str) -> Iterator[str]:
    for chain in ("FORWARD", "OUTPUT"):
        yield f"-A {chain} -d {service.address}/32 -p {protocol} --dport {PORT} -j REJECT"
    yield f"-A INPUT -p {protocol} -m addrtype --dst-type LOCAL --dport {service.node_port} -j REJECT"


def nftables(where: str, services: Iterable[Service]) -> None:
    """Load them in nftables mode."""
    chains: list[str] = []
    addresses: list[str] = []
    ports: list[str] = []
    rejected: list[str] = []
    rejected_ports: list[str] = []
    for service in services:
        for protocol in _PROTOCOLS:
            name = f"{service.number}-{protocol}"
            key = f"{service.address} . {protocol} . {PORT}"
            if not service.endpoint:
                rejected.append(f"{key} : goto reject-chain")
                rejected_ports.append(f"{protocol} . {service.node_port} : goto reject-chain")
                continue
            addresses.append(f"{key} : goto service-{name}")
            ports.append(f"{protocol} . {service.node_port} : goto external-{name}")
            chains += _nft_chains(service, name, protocol)
    text = _NFTABLES.format(
        chains="\n".join(chains),
        addresses=_elements(addresses),
        ports=_elements(ports),
        rejected=_elements(rejected),
        rejected_ports=_elements(rejected_ports),
    )
    netns.run(where, ["nft", "-f", "-"], stdin=text)


def _elements(entries: Sequence[str]) -> str:
    """nft takes no empty list."""
    return f"elements = {{ {', '.join(entries)} }}" if entries else ""


def _nft_chains(service: Service, name: str, protocol: str) -> Sequence[str]:
    masquerade = "" if service.local else "jump mark-for-masquerade"
    return (
        f"chain endpoint-{name} {{",
        f"  ip saddr {service.endpoint} jump mark-for-masquerade",
        f"  meta l4proto {protocol} dnat to {service.endpoint}:{PORT}",
        "}",
        f"chain service-{name} {{",
        f"  numgen random mod 1 vmap {{ 0 : goto endpoint-{name} }}",
        "}",
        f"chain external-{name} {{",
        f"  {masquerade}",
        f"  goto service-{name}",
        "}",
    )


_NFTABLES: Final = """
table ip kube-proxy {{
  chain mark-for-masquerade {{
    mark set mark or 0x4000
  }}
  chain masquerading {{
    mark and 0x4000 == 0 return
    mark set mark xor 0x4000
    masquerade fully-random
  }}
  chain reject-chain {{
    reject
  }}
  {chains}
  map service-ips {{
    type ipv4_addr . inet_proto . inet_service : verdict
    {addresses}
  }}
  map service-nodeports {{
    type inet_proto . inet_service : verdict
    {ports}
  }}
  map no-endpoint-services {{
    type ipv4_addr . inet_proto . inet_service : verdict
    {rejected}
  }}
  map no-endpoint-nodeports {{
    type inet_proto . inet_service : verdict
    {rejected_ports}
  }}
  chain services {{
    ip daddr . meta l4proto . th dport vmap @service-ips
    fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports
  }}
  chain service-endpoints-check {{
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services
  }}
  chain nodeport-endpoints-check {{
    fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @no-endpoint-nodeports
  }}
  chain filter-prerouting {{
    type filter hook prerouting priority -110; policy accept;
    ct state new jump nodeport-endpoints-check
  }}
  chain filter-forward {{
    type filter hook forward priority -110; policy accept;
    ct state new jump service-endpoints-check
  }}
  chain filter-output {{
    type filter hook output priority -110; policy accept;
    ct state new jump service-endpoints-check
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    jump masquerading
  }}
}}
"""

MODES: Final[dict[str, Callable[[str, Iterable[Service]], None]]] = {"iptables": iptables, "nftables": nftables}


def clear(where: str) -> None:
    """Unload whichever mode is loaded."""
    empty = "*nat\nCOMMIT\n*filter\nCOMMIT\n"
    netns.run(where, ["iptables-restore"], stdin=empty)
    netns.run(where, ["nft", "delete", "table", "ip", "kube-proxy"], check=False)
