"""What operators see of a running agent: pure functions from a snapshot to JSON-ready values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from berth.contract import Record, Report, address_count

from berth_node import pod_annotations
from berth_node.asking import Requests
from berth_node.ipv6 import Prefix, Prefixes, prefix_of
from berth_node.journal import Entry
from berth_node.pool import Pool
from berth_node.seams import Attachment, Problem
from berth_node.usable import Block, addresses_of

__all__ = ["Snapshot", "answer"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a view is made from."""

    instance: str
    ready: bool
    why: str
    now: float
    pool: Pool
    entries: tuple[Entry, ...]
    record: Record | None
    boot: int
    reported: Report | None
    report_failures: int
    trouble: Mapping[str, str]
    problems: tuple[Problem, ...]
    prefixes: Prefixes = field(default_factory=Prefixes)
    requests: Requests = field(default_factory=Requests)
    read_at: Mapping[str, float] = field(default_factory=dict)
    """When record and metadata were last read, by the clock of ``now``."""


def answer(snapshot: Snapshot, request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Answer ``{"view": status|pods|interfaces|explain, "subject": …}``."""
    match request["view"]:
        case "status":
            return _status(snapshot)
        case "pods":
            return {"pods": _pods(snapshot)}
        case "interfaces":
            return {"interfaces": _interfaces(snapshot)}
        case "explain":
            return {"lines": _explain(snapshot, request.get("subject"))}
        case other:
            return {"error": f"no such view: {other}"}


def _status(s: Snapshot) -> dict[str, Any]:
    pool = s.pool
    return {
        "instance": s.instance,
        "ready": s.ready,
        "why": s.why,
        "mode": pool.policy.mode,
        "assigned": sum(address_count(b.cidr) for b in pool.blocks),
        "in_use": len(pool.lent),
        "pods": len(s.entries),
        "waiting": len(pool.asking),
        "free": pool.free,
        "cooling": len(pool.cooling),
        "surrendered": [x.cidr for x in pool.surrendered],
        "unusable": [b.cidr for b in pool.blocks if not b.usable],
        "wanted": pool.wanted,
        "deficit": pool.deficit,
        "warm_addresses": pool.policy.warm_addresses,
        "max_pods": pool.policy.max_pods,
        "ip_families": s.prefixes.families,
        "ipv6_prefixes": [p.cidr for p in s.prefixes.listed if p.usable],
        "ipv6_problem": s.prefixes.why,
        "requests_unmet": _unmet(s),
        "record_revision": s.record.revision if s.record else None,
        "last_report": {"boot": s.reported.order.boot, "sequence": s.reported.order.sequence} if s.reported else None,
        "report_failures": s.report_failures,
        "trouble": dict(s.trouble),
        "problems": [f"{p.where}: {p.message}" for p in s.problems],
    }


def _pods(s: Snapshot) -> list[dict[str, Any]]:
    interfaces = {i.mac: i for i in s.record.interfaces} if s.record else {}
    rows = []
    for entry in s.entries:
        a = entry.attachment
        interface = interfaces.get(_mac_of(s, a))
        request = s.requests.of.get(a.key)
        grant = s.requests.grants.get(request.id) if request else None
        rows.append(
            {
                "namespace": a.namespace,
                "name": a.name,
                "address": a.address,
                "address6": a.address6,
                "interface": interface.id if interface else None,
                "device_index": interface.device_index if interface else None,
                "host_ifname": a.host_ifname,
                "container_id": a.container_id,
                "ifname": a.ifname,
                "host_ports": a.ports.split(",") if a.ports else [],
                "annotations": pod_annotations.decode(a.annotations),
                "public_address": grant.public_address if grant else "",
                "missing": s.requests.missing(request) if request else "",
                "wired": entry.wired is not None,
                "age_seconds": round(max(0.0, s.now - a.attached_at), 1),
            }
        )
    return sorted(rows, key=lambda r: (r["namespace"], r["name"], r["container_id"]))


def _unmet(s: Snapshot) -> list[str]:
    """What pods ask of the VPC and have not got, pods that still wait included."""
    return [
        f"{r.namespace}/{r.name or r.id}: {r.public or r.groups}: {missing}"
        for r in s.requests.listed
        if (missing := s.requests.missing(r))
    ]


def _mac_of(s: Snapshot, a: Attachment) -> str:
    """The interface that the pod's address is on; of one that has both families, the IPv4 one."""
    if ":" in a.address:
        prefix = prefix_of(a.address)
        return next((p.mac for p in s.prefixes.listed if p.bytes == prefix), "")
    if a.table:
        own = (i.mac for i in (s.record.interfaces if s.record else ()) if i.pod and i.primary_address == a.address)
        return next(own, "")
    block = s.pool.block_of(a.address)
    return block.mac if block else ""


def _block(s: Snapshot, block: Block) -> dict[str, Any]:
    used = set(s.pool.lent.values())
    addresses = addresses_of(block.cidr)
    given_up = any(x.assignment == block.assignment for x in s.pool.surrendered)
    state = "usable" if block.usable else "releasing" if block.releasing else "unusable" if block.shown else "not shown"
    state = "spared" if block.spared and state == "unusable" else state
    return {
        "cidr": block.cidr,
        "assignment": block.assignment,
        "state": "surrendered" if given_up and state == "usable" else state,
        "in_use": sum(a in used for a in addresses),
        "cooling": sum(a in s.pool.cooling for a in addresses),
        "addresses": len(addresses),
    }


def _prefix(s: Snapshot, prefix: Prefix) -> dict[str, Any]:
    held = [address for e in s.entries for address in e.attachment.addresses if ":" in address]
    return {
        "cidr": prefix.cidr,
        "state": "usable" if prefix.usable else "unusable",
        "in_use": sum(prefix_of(address) == prefix.bytes for address in held),
    }


def _interfaces(s: Snapshot) -> list[dict[str, Any]]:
    return [
        {
            "id": i.id,
            "device_index": i.device_index,
            "mac": i.mac,
            "primary_address": i.primary_address,
            "subnet": f"{i.subnet_id} {i.subnet_cidr}",
            "pod": i.pod,
            "blocks": [_block(s, b) for b in s.pool.blocks if b.mac == i.mac],
            "ipv6_prefixes": [_prefix(s, p) for p in s.prefixes.listed if p.mac == i.mac],
        }
        for i in (s.record.interfaces if s.record else ())
    ]


def _explain(s: Snapshot, subject: Any) -> list[str]:
    if subject:
        return _explain_subject(s, str(subject))
    pool = s.pool
    lines = [f"node {s.instance} is {'ready' if s.ready else 'not ready'}: {s.why}"]
    lines += [f"trouble with {what}: {why}" for what, why in s.trouble.items()]
    lines += [f"kernel: {p.where}: {p.message}" for p in s.problems]
    lines += [f"IPv6: {s.prefixes.why}"] if s.prefixes.why else []
    warm = pool.policy.warm_addresses
    lines.append(
        f"wanted: {pool.wanted} = {len(pool.lent)} in use + {len(pool.demand)} waiting + {warm} warm, "
        f"at most {pool.policy.max_pods} (max-pods); supply: {pool.supply}; missing: {pool.deficit}"
    )
    if pool.surplus_since is not None:
        lines.append(f"more than wanted for {s.now - pool.surplus_since:.0f} s; idle blocks are given back if it lasts")
    lines += [f"pod {line}" for line in _unmet(s)]
    lines += _unknown_annotations(s)
    if s.record:
        lines.append(f"pods keep their addresses for: {', '.join(s.record.no_snat_cidrs) or 'nobody'}")
    for interface in _interfaces(s):
        if interface["pod"]:
            lines.append(f"{interface['id']} is {_pod_name(s, interface['pod'])}'s own: {interface['primary_address']}")
        for b in interface["blocks"]:
            lines.append(
                f"{interface['id']} {b['cidr']}: {b['state']}, {b['in_use']} in use, {b['cooling']} cooling, "
                f"of {b['addresses']}"
            )
        lines += [
            f"{interface['id']} {p['cidr']}: {p['state']}, {p['in_use']} in use" for p in interface["ipv6_prefixes"]
        ]
    return lines


def _pod_name(s: Snapshot, request_id: str) -> str:
    named = (f"{r.namespace}/{r.name}" for r in s.requests.listed if r.id == request_id and r.name)
    return next(named, request_id)


def _unknown_annotations(s: Snapshot) -> list[str]:
    pods: dict[str, int] = {}
    for entry in s.entries:
        for key in pod_annotations.unknown(entry.attachment.annotations):
            pods[key] = pods.get(key, 0) + 1
    return [f"annotation {key!r} means nothing to this version; pods that have it: {pods[key]}" for key in sorted(pods)]


def _explain_subject(s: Snapshot, subject: str) -> list[str]:
    """One address, container or namespace/pod."""
    for row in _pods(s):
        addresses = [row["address"], *([row["address6"]] if row["address6"] else [])]
        if subject in (*addresses, row["container_id"], row["name"], f"{row['namespace']}/{row['name']}"):
            who = f"{row['namespace']}/{row['name']}" if row["name"] else row["container_id"]
            noted = row["annotations"].items()
            return [
                f"{' and '.join(addresses)} is lent to {who} since {row['age_seconds']:.0f} s, "
                f"by {row['host_ifname']}, on {row['interface'] or 'no interface of the record'}"
                + "".join(f"; host port {mapping}" for mapping in row["host_ports"]),
                *([f"its public address is {row['public_address']}"] if row["public_address"] else []),
                *([f"it has not got all that it asks for: {row['missing']}"] if row["missing"] else []),
                *(
                    f"annotation {k!r}: {v!r}{'' if k in pod_annotations.KNOWN else ' (unknown here)'}"
                    for k, v in noted
                ),
            ]
    for request in s.requests.listed:
        if subject in (request.name, f"{request.namespace}/{request.name}", request.id.partition("/")[0]):
            return [f"{subject} waits: {s.requests.missing(request)}"]
    block = s.pool.block_of(subject)
    if subject in s.pool.cooling:
        return [f"{subject} cools down for another {s.pool.cooling[subject] - s.now:.0f} s"]
    if block is None:
        return [f"{subject}: neither a pod nor an address of this node"]
    return [f"{subject} is not lent; its block {block.cidr} is {_block(s, block)['state']}"]
