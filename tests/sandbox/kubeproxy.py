"""Services in a node's network namespace, written as kube-proxy writes them, in its iptables and nftables modes.

Chains, names, order, marks and comments are those of kubernetes/pkg/proxy/{iptables,nftables}/proxier.go for IPv4
without session affinity, external or load balancer addresses. As there, rules are loaded by ``iptables-restore
--noflush`` or one nft transaction, so that other rules in the namespace stay, and applying is a full sync: Services
that are no longer given go.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tests.sandbox import kubeproxy_nft, netns

__all__ = ["MODES", "KubeProxy", "Mode", "ServicePort"]

Mode = Literal["iptables", "nftables"]
MODES: Final[tuple[Mode, ...]] = ("iptables", "nftables")
_NEW: Final = "-m conntrack --ctstate NEW"
_JUMPS: Final = (
    ("filter", "INPUT", _NEW, "kubernetes externally-visible service portals", "EXTERNAL-SERVICES"),
    ("filter", "FORWARD", _NEW, "kubernetes externally-visible service portals", "EXTERNAL-SERVICES"),
    ("filter", "INPUT", "", "kubernetes health check service ports", "NODEPORTS"),
    ("filter", "FORWARD", _NEW, "kubernetes service portals", "SERVICES"),
    ("filter", "OUTPUT", _NEW, "kubernetes service portals", "SERVICES"),
    ("filter", "FORWARD", "", "kubernetes forwarding rules", "FORWARD"),
    ("filter", "INPUT", _NEW, "kubernetes load balancer firewall", "PROXY-FIREWALL"),
    ("filter", "OUTPUT", _NEW, "kubernetes load balancer firewall", "PROXY-FIREWALL"),
    ("filter", "FORWARD", _NEW, "kubernetes load balancer firewall", "PROXY-FIREWALL"),
    ("nat", "OUTPUT", "", "kubernetes service portals", "SERVICES"),
    ("nat", "PREROUTING", "", "kubernetes service portals", "SERVICES"),
    ("nat", "POSTROUTING", "", "kubernetes postrouting rules", "POSTROUTING"),
)
"""(table, built-in chain, match, comment, our chain): each is put first in its chain, one after the other."""
_BASE: Final = {
    "filter": ("SERVICES", "EXTERNAL-SERVICES", "FORWARD", "NODEPORTS", "PROXY-FIREWALL"),
    "nat": ("SERVICES", "NODEPORTS", "POSTROUTING", "MARK-MASQ"),
}
_FORWARD: Final = (
    "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
    '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT',
    '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule"'
    " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
)
_MASQUERADE: Final = (
    "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
    '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
    "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
)
_NODEPORTS_LAST: Final = (
    '-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this'
    ' chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS'
)


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service. ``endpoints`` are ``address:port``; ``node_port`` 0 means ClusterIP only.

    ``local_endpoints`` set means externalTrafficPolicy Local: these are the ones on the node that is written to.
    Without endpoints the Service is rejected.
    """

    name: str
    cluster_ip: str
    port: int
    endpoints: tuple[str, ...]
    protocol: Literal["tcp", "udp"] = "tcp"
    namespace: str = "default"
    port_name: str = ""
    node_port: int = 0
    local_endpoints: tuple[str, ...] | None = None

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}{self.port_name and f':{self.port_name}'}"


class KubeProxy:
    """kube-proxy for one network namespace. ``cluster_cidr`` is its --cluster-cidr: other clients of a ClusterIP are
    masqueraded; without it (EKS sets none) nobody is."""

    def __init__(self, where: str, mode: Mode = "iptables", *, cluster_cidr: str | None = None) -> None:
        self.where = where
        self.mode = mode
        self._cluster_cidr = cluster_cidr

    def apply(self, services: Iterable[ServicePort]) -> None:
        """Make the rules match exactly these Services. Raises netns.CommandError with what the tool said."""
        ports = sorted(services, key=lambda s: (s.full_name, s.protocol))
        if self.mode == "nftables":
            netns.nft(self.where, kubeproxy_nft.ruleset(ports, self._cluster_cidr))
            return
        self._restore(ruleset(ports, self._cluster_cidr, stale=self._chains()))
        for table, chain, match, comment, target in reversed(_JUMPS):
            rule = [*match.split(), "-m", "comment", "--comment", comment, "-j", f"KUBE-{target}"]
            if netns.run(self.where, ["iptables", "-t", table, "-C", chain, *rule], check=False).returncode:
                netns.run(self.where, ["iptables", "-t", table, "-I", chain, *rule])

    def remove(self) -> None:
        """Remove everything of kube-proxy, in this mode, and nothing else. Nothing there is fine."""
        if self.mode == "nftables":
            netns.nft(self.where, "add table ip kube-proxy\ndelete table ip kube-proxy\n")
            return
        saved = netns.run(self.where, ["iptables-save"]).stdout
        lines: list[str] = []
        for table, rules in _tables(saved):
            chains = [rule.split()[0][1:] for rule in rules if rule.startswith(":KUBE-")]
            jumps = [rule for rule in rules if re.match(r"-A (?!KUBE-)\S+ .*-j KUBE-", rule)]
            lines += [f"*{table}", *(f":{chain} - [0:0]" for chain in chains)]
            lines += [f"-D{jump[2:]}" for jump in jumps]
            lines += [*(f"-X {chain}" for chain in chains), "COMMIT"]
        self._restore("\n".join([*lines, ""]))

    def _chains(self) -> frozenset[str]:
        saved = netns.run(self.where, ["iptables-save", "-t", "nat"]).stdout
        return frozenset(re.findall(r"^:(KUBE-(?:SVC|SVL|EXT|SEP)-\S+)", saved, re.MULTILINE))

    def _restore(self, text: str) -> None:
        netns.run(self.where, ["iptables-restore", "--noflush"], stdin=text)


def _tables(saved: str) -> Iterator[tuple[str, list[str]]]:
    """iptables-save's output by table."""
    for block in saved.split("\n*")[1:] if not saved.startswith("*") else f"\n{saved}".split("\n*")[1:]:
        name, *rules = block.splitlines()
        yield name, rules


def ruleset(services: Sequence[ServicePort], cluster_cidr: str | None, stale: frozenset[str] = frozenset()) -> str:
    """The input for ``iptables-restore --noflush``. A chain that is declared is emptied first; ``stale`` ones go."""
    rejects: list[str] = []
    chains: dict[str, None] = {}
    dispatch: list[str] = []
    node_ports: list[str] = []
    rules: list[str] = []
    for service in services:
        if not service.endpoints:
            rejects += _rejects(service)
            continue
        written = _Written(service, cluster_cidr)
        chains |= dict.fromkeys(written.chains)
        dispatch.append(written.dispatch)
        node_ports += written.node_port
        rules += written.rules
    gone = sorted(stale - chains.keys())
    filters = [f":KUBE-{chain} - [0:0]" for chain in _BASE["filter"]]
    nats = [f":KUBE-{chain} - [0:0]" for chain in _BASE["nat"]]
    nats += [f":{chain} - [0:0]" for chain in (*chains, *gone)]
    return "\n".join(
        [
            *("*filter", *filters, *rejects, *_FORWARD, "COMMIT"),
            *("*nat", *nats, *_MASQUERADE, *node_ports, *dispatch, _NODEPORTS_LAST, *rules),
            *(f"-X {chain}" for chain in gone),
            "COMMIT\n",
        ]
    )


def _rejects(service: ServicePort) -> Iterator[str]:
    what = f'-m comment --comment "{service.full_name} has no endpoints" -m {service.protocol} -p {service.protocol}'
    yield f"-A KUBE-SERVICES {what} -d {service.cluster_ip} --dport {service.port} -j REJECT"
    if service.node_port:
        yield f"-A KUBE-EXTERNAL-SERVICES {what} -m addrtype --dst-type LOCAL --dport {service.node_port} -j REJECT"


class _Written:
    """One Service's chains and rules in the nat table."""

    def __init__(self, service: ServicePort, cluster_cidr: str | None) -> None:
        self._service = service
        name, protocol = service.full_name, service.protocol
        mark = _hash(name + protocol)
        cluster, external, local = f"KUBE-SVC-{mark}", f"KUBE-EXT-{mark}", f"KUBE-SVL-{mark}"
        matched = f"-m {protocol} -p {protocol}"
        to_cluster_ip = (
            f'-m comment --comment "{name} cluster IP" {matched} -d {service.cluster_ip} --dport {service.port}'
        )
        self.chains = [cluster]
        self.dispatch = f"-A KUBE-SERVICES {to_cluster_ip} -j {cluster}"
        self.node_port: list[str] = []
        self.rules: list[str] = []
        if service.node_port:
            self.chains.append(external)
            comment = f"-m comment --comment {name}"
            self.node_port = [f"-A KUBE-NODEPORTS {comment} {matched} --dport {service.node_port} -j {external}"]
            self._external(external, cluster, local, cluster_cidr)
        if cluster_cidr:
            self.rules.append(f"-A {cluster} {to_cluster_ip} ! -s {cluster_cidr} -j KUBE-MARK-MASQ")
        self._balance(cluster, service.endpoints)
        for endpoint in service.endpoints:
            self._endpoint(endpoint)

    def _external(self, external: str, cluster: str, local: str, cluster_cidr: str | None) -> None:
        name = self._service.full_name
        if self._service.local_endpoints is None:
            comment = f'-m comment --comment "masquerade traffic for {name} external destinations"'
            self.rules += [f"-A {external} {comment} -j KUBE-MARK-MASQ", f"-A {external} -j {cluster}"]
            return
        if cluster_cidr:
            comment = f'-m comment --comment "pod traffic for {name} external destinations"'
            self.rules.append(f"-A {external} {comment} -s {cluster_cidr} -j {cluster}")
        from_node = "-m addrtype --src-type LOCAL"
        comment = f'-m comment --comment "masquerade LOCAL traffic for {name} external destinations"'
        self.rules.append(f"-A {external} {comment} {from_node} -j KUBE-MARK-MASQ")
        comment = f'-m comment --comment "route LOCAL traffic for {name} external destinations"'
        self.rules.append(f"-A {external} {comment} {from_node} -j {cluster}")
        if self._service.local_endpoints:
            self.chains.append(local)
            self.rules.append(f"-A {external} -j {local}")
            self._balance(local, self._service.local_endpoints)

    def _balance(self, chain: str, endpoints: Sequence[str]) -> None:
        """Each rule takes its share of what the rules before it left: 1/n, 1/(n-1), ..., all."""
        for index, endpoint in enumerate(endpoints):
            left = len(endpoints) - index
            share = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
            comment = f'-m comment --comment "{self._service.full_name} -> {endpoint}"'
            self.rules.append(f"-A {chain} {comment} {share}-j {self._chain_of(endpoint)}")

    def _endpoint(self, endpoint: str) -> None:
        chain, protocol = self._chain_of(endpoint), self._service.protocol
        comment = f"-m comment --comment {self._service.full_name}"
        self.chains.append(chain)
        self.rules += [
            f"-A {chain} {comment} -s {endpoint.partition(':')[0]} -j KUBE-MARK-MASQ",
            f"-A {chain} {comment} -m {protocol} -p {protocol} -j DNAT --to-destination {endpoint}",
        ]

    def _chain_of(self, endpoint: str) -> str:
        return f"KUBE-SEP-{_hash(self._service.full_name + self._service.protocol + endpoint)}"


def _hash(text: str) -> str:
    """kube-proxy's: 16 characters of the SHA-256 in base 32, since a chain's name has 28 at most."""
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:16]
