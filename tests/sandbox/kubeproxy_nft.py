"""kube-proxy's nftables mode: the content of its table ``ip kube-proxy`` (kubernetes/pkg/proxy/nftables/proxier.go)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.sandbox.kubeproxy import ServicePort

__all__ = ["ruleset"]

_SETS: Final = """\
set cluster-ips { type ipv4_addr ; comment "Active ClusterIPs" ; }
map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
map no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }
map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
map service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
map service-nodeports { type inet_proto . inet_service : verdict ; }
"""
_CHAINS: Final = """\
cluster-ips-check
filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
filter-output-pre-dnat { type filter hook output priority -110 ; }
filter-forward { type filter hook forward priority 0 ; }
filter-input { type filter hook input priority 0 ; }
filter-output { type filter hook output priority 0 ; }
firewall-check
mark-for-masquerade
masquerading
nat-output { type nat hook output priority -100 ; }
nat-postrouting { type nat hook postrouting priority 100 ; }
nat-prerouting { type nat hook prerouting priority -100 ; }
nodeport-endpoints-check
reject-chain
services
service-endpoints-check
"""
_RULES: Final = """\
cluster-ips-check ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
filter-prerouting-pre-dnat ct state new jump firewall-check
filter-forward ct state new jump service-endpoints-check
filter-forward ct state new jump cluster-ips-check
filter-input ct state new jump nodeport-endpoints-check
filter-input ct state new jump service-endpoints-check
filter-output ct state new jump service-endpoints-check
filter-output-pre-dnat ct state new jump firewall-check
filter-output ct state new jump cluster-ips-check
firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
mark-for-masquerade mark set mark or 0x4000
masquerading mark and 0x4000 == 0 return
masquerading mark set mark xor 0x4000
masquerading masquerade fully-random
nat-output jump services
nat-postrouting jump masquerading
nat-prerouting jump services
nodeport-endpoints-check {local} meta l4proto . th dport vmap @no-endpoint-nodeports
reject-chain reject
services ip daddr . meta l4proto . th dport vmap @service-ips
services {local} meta l4proto . th dport vmap @service-nodeports
service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
"""
_LOCAL: Final = "fib daddr type local ip daddr != 127.0.0.0/8"
"""NodePorts on every address of the node, which is --nodeport-addresses=0.0.0.0/0."""


def ruleset(services: Sequence[ServicePort], cluster_cidr: str | None) -> str:
    """One transaction that replaces the table."""
    lines = ["add table ip kube-proxy", "delete table ip kube-proxy", "add table ip kube-proxy"]
    for line in _SETS.splitlines():
        kind, _, rest = line.partition(" ")
        lines.append(f"add {kind} ip kube-proxy {rest}")
    lines += [f"add chain ip kube-proxy {chain}" for chain in _CHAINS.splitlines()]
    lines += [f"add rule ip kube-proxy {rule}" for rule in _RULES.format(local=_LOCAL).splitlines()]
    for service in services:
        lines += _service(service, cluster_cidr) if service.endpoints else _without_endpoints(service)
    for address in sorted({service.cluster_ip for service in services}):
        lines.append(f"add element ip kube-proxy cluster-ips {{ {address} }}")
    return "\n".join([*lines, ""])


def _without_endpoints(service: ServicePort) -> Iterator[str]:
    key = f'{service.protocol} . {{port}} comment "{service.full_name}" : goto reject-chain'
    to_service = f"{service.cluster_ip} . {key.format(port=service.port)}"
    yield f"add element ip kube-proxy no-endpoint-services {{ {to_service} }}"
    if service.node_port:
        yield f"add element ip kube-proxy no-endpoint-nodeports {{ {key.format(port=service.node_port)} }}"


def _service(service: ServicePort, cluster_cidr: str | None) -> Iterator[str]:
    name = _name(_base(service))
    cluster, external, local = f"service-{name}", f"external-{name}", f"local-{name}"
    for endpoint in service.endpoints:
        yield from _endpoint(service, endpoint)
    yield f"add chain ip kube-proxy {cluster}"
    if cluster_cidr:
        masquerade = f"ip daddr {service.cluster_ip} ip saddr != {cluster_cidr} jump mark-for-masquerade"
        yield f"add rule ip kube-proxy {cluster} {masquerade}"
    yield _balance(cluster, service, service.endpoints)
    key = f"{service.cluster_ip} . {service.protocol} . {service.port}"
    yield f"add element ip kube-proxy service-ips {{ {key} : goto {cluster} }}"
    if not service.node_port:
        return
    yield f"add chain ip kube-proxy {external}"
    if service.local_endpoints:
        yield f"add chain ip kube-proxy {local}"
        yield _balance(local, service, service.local_endpoints)
    yield from (
        f"add rule ip kube-proxy {external} {rule}" for rule in _external(service, cluster, local, cluster_cidr)
    )
    key = f"{service.protocol} . {service.node_port}"
    yield f"add element ip kube-proxy service-nodeports {{ {key} : goto {external} }}"
    if service.local_endpoints == ():
        key = f'{key} comment "{service.full_name}"'
        yield f"add element ip kube-proxy no-endpoint-nodeports {{ {key} : drop }}"


def _external(service: ServicePort, cluster: str, local: str, cluster_cidr: str | None) -> Iterable[str]:
    if service.local_endpoints is None:
        return ["jump mark-for-masquerade", f"goto {cluster}"]
    pods = [f'ip saddr {cluster_cidr} goto {cluster} comment "short-circuit pod traffic"'] if cluster_cidr else []
    node = [
        'fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"',
        f'fib saddr type local goto {cluster} comment "short-circuit local traffic"',
    ]
    return [*pods, *node, *([f"goto {local}"] if service.local_endpoints else [])]


def _endpoint(service: ServicePort, endpoint: str) -> Iterator[str]:
    chain = _endpoint_chain(service, endpoint)
    yield f"add chain ip kube-proxy {chain}"
    yield f"add rule ip kube-proxy {chain} ip saddr {endpoint.partition(':')[0]} jump mark-for-masquerade"
    yield f"add rule ip kube-proxy {chain} meta l4proto {service.protocol} dnat to {endpoint}"


def _balance(chain: str, service: ServicePort, endpoints: Sequence[str]) -> str:
    chosen = " , ".join(f"{n} : goto {_endpoint_chain(service, endpoint)}" for n, endpoint in enumerate(endpoints))
    return f"add rule ip kube-proxy {chain} numgen random mod {len(endpoints)} vmap {{ {chosen} }}"


def _endpoint_chain(service: ServicePort, endpoint: str) -> str:
    address, _, port = endpoint.partition(":")
    return f"endpoint-{_name(f'{_base(service)}__{address}/{port}')}"


def _base(service: ServicePort) -> str:
    return f"{service.namespace}/{service.name}/{service.protocol}/{service.port_name}"


def _name(text: str) -> str:
    """kube-proxy's: 8 characters of the SHA-256 in base 32, then the text."""
    return f"{base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:8]}-{text}"
