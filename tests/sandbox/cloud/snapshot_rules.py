"""What filters and joins networks in the simulated EC2: ACLs, security groups, VPCs and peerings, as frozen values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from tests.sandbox.world import AclRule, FlowLog, GroupRule, NetworkAcl, Peering, SecurityGroup, Vpc

__all__ = ["RULE_CALLS", "acl_of", "acls", "flow_logs", "groups", "peerings", "spaces"]

_PROTOCOLS: Final = {"-1": "any", "6": "tcp", "17": "udp", "1": "icmp"}
RULE_CALLS: Final = (
    "create_network_acl_entry",
    "replace_network_acl_entry",
    "delete_network_acl_entry",
    "replace_network_acl_association",
    "authorize_security_group_ingress",
    "authorize_security_group_egress",
    "revoke_security_group_ingress",
    "revoke_security_group_egress",
    "modify_security_group_rules",
    "accept_vpc_peering_connection",
    "delete_vpc_peering_connection",
    "create_flow_logs",
    "delete_flow_logs",
)
"""Calls on moto's EC2 that change what is here."""


def acls(backend: Any, vpcs: set[str]) -> tuple[NetworkAcl, ...]:
    shown = (a for a in backend.network_acls.values() if a.vpc_id in vpcs)
    made = (NetworkAcl(a.id, tuple(_acl_rule(e) for e in a.entries if e.cidr_block)) for a in shown)
    return tuple(sorted(made, key=lambda a: a.id))


def acl_of(backend: Any, subnet_id: str) -> str | None:
    """The ACL that the subnet is associated with."""
    shown = backend.network_acls.values()
    return next((a.id for a in shown if any(x.subnet_id == subnet_id for x in a.associations)), None)


def _acl_rule(entry: Any) -> AclRule:
    protocol = _PROTOCOLS.get(str(entry.protocol), str(entry.protocol))
    first, last, kind, code = entry.port_range_from, entry.port_range_to, entry.icmp_type, entry.icmp_code
    return AclRule(
        number=int(entry.rule_number),
        egress=str(entry.egress).lower() == "true",
        allow=entry.rule_action == "allow",
        protocol=protocol,
        cidr=entry.cidr_block,
        ports=(int(first), int(last)) if protocol in ("tcp", "udp") and first is not None else None,
        icmp=(int(kind), int(code)) if protocol == "icmp" and kind is not None and code is not None else None,
    )


def flow_logs(backend: Any) -> tuple[FlowLog, ...]:
    """Those that are delivered to S3."""
    return tuple(
        sorted((_flow_log(f) for f in backend.flow_logs.values() if f.log_destination_type == "s3"), key=lambda f: f.id)
    )


def _flow_log(made: Any) -> FlowLog:
    bucket, _, prefix = made.log_destination.split(":", 5)[5].partition("/")
    options = getattr(made, "destination_options", None) or {}
    return FlowLog(
        id=made.id,
        resource_id=made.resource_id,
        traffic=made.traffic_type,
        bucket=bucket,
        prefix=prefix.rstrip("/"),
        fields=tuple(re.findall(r"\$\{([a-z0-9-]+)\}", made.log_format)),
        parquet=options.get("FileFormat") == "parquet",
    )


def groups(backend: Any, vpcs: set[str]) -> tuple[SecurityGroup, ...]:
    shown = (g for by_id in backend.groups.values() for g in by_id.values() if g.vpc_id in vpcs)
    made = (
        SecurityGroup(
            g.id, tuple(r for rule in (*g.ingress_rules, *g.egress_rules) for r in _group_rules(backend, rule))
        )
        for g in shown
    )
    return tuple(sorted(made, key=lambda g: g.id))


def _group_rules(backend: Any, rule: Any) -> Iterator[GroupRule]:
    """One for each peer: moto keeps one CIDR, group or prefix list in each of its rules."""
    protocol = _PROTOCOLS.get(str(rule.ip_protocol), str(rule.ip_protocol))
    first, last = rule.from_port, rule.to_port
    some = protocol in ("tcp", "udp") and first not in (None, -1)
    for peer in _peers(backend, rule):
        yield GroupRule(
            egress=rule.is_egress,
            protocol=protocol,
            peer=peer,
            ports=(first, last) if some else None,
            icmp=(first, last) if protocol == "icmp" else None,
        )


def _peers(backend: Any, rule: Any) -> Iterator[str]:
    if rule.cidr_ipv4:
        yield rule.cidr_ipv4
    if rule.source_group and rule.source_group.get("GroupId"):
        yield rule.source_group["GroupId"]
    if rule.prefix_list_id and (found := backend.managed_prefix_lists.get(rule.prefix_list_id)):
        yield from (e["Cidr"] for e in found.entries.get(found.version, ()))


def spaces(backend: Any, shown: list[Any], cidrs: dict[str, tuple[str, ...]]) -> tuple[Vpc, ...]:
    """The VPCs, each with whether a VPN or transit gateway is attached."""
    outside = {vpc for g in backend.vpn_gateways.values() for vpc in g.attachments}
    outside |= {a.resource_id for a in backend.transit_gateway_attachments.values()}
    return tuple(sorted((Vpc(v.id, cidrs[v.id], v.id in outside) for v in shown), key=lambda v: v.id))


def peerings(backend: Any, vpcs: set[str]) -> tuple[Peering, ...]:
    active = (p for p in backend.vpc_pcxs.values() if p.status["Code"] == "active")
    made = (Peering(p.id, (p.vpc.id, p.peer_vpc.id)) for p in active if {p.vpc.id, p.peer_vpc.id} <= vpcs)
    return tuple(sorted(made, key=lambda p: p.id))
