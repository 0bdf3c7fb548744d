"""The phases of a sweep that look for nodes: each handles one page, and asks for looks at what it finds wrong."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from berth.chunks import chunks
from berth.contract import Record
from berth.findings import HOOK_SECONDS, LEASE_STUCK_SECONDS, SOON_SECONDS, Kind, Shown, is_old, judge
from berth.model import Instance, InterfaceView
from berth.overlay import OVERLAY_SECONDS
from berth.policy import parse_policy
from berth.public_store import may_use
from berth.records import usable_addresses
from berth.store import NodeState
from berth.survey import GROUP_IDS
from berth.sweep_run import OutOfTimeError, Run
from berth.sweep_store import Claim, TablePage

__all__ = ["nodes_page", "records_page", "unattached_page"]

logger = logging.getLogger(__name__)

_GROUP_TAG: Final = "aws:autoscaling:groupName"
_CLAIM_SECONDS: Final = 120.0
"""An Elastic IP address that was claimed more recently is being associated, or given back."""
_UNATTACHED_SECONDS: Final = 120.0
"""A living node's interface that is younger waits for the node to run, and a delayed look will attach it."""


# ------------------------------------------------------------------------------------------------ nodes


def nodes_page(run: Run, instances: Iterable[Instance]) -> set[str]:
    """Living nodes: no record, drift, hooks, neglect. Returns subnets in which one of them got no prefix."""
    nodes = [i for i in instances if run.is_node(i)]
    suspects: set[str] = set()
    run.each_chunk("nodes", nodes, lambda chunk: suspects.update(_nodes(run, chunk)))
    return suspects


def _nodes(run: Run, nodes: Sequence[Instance]) -> set[str]:
    run.counts["NodesSeen"] += len(nodes)
    states = run.edges.store.glance([n.arn for n in nodes])
    shown = _shown(run, nodes)
    found: list[Instance] = []
    suspects: set[str] = set()
    for node in nodes:
        state = states[node.arn]
        if state.broken:
            run.counts["RecordsBroken"] += 1
            logger.error("record cannot be read", extra={"node": node.id, "error": state.broken})
        elif _judged(run, node, state, shown[node.id], run.edges.clock()):
            found.append(node)
        run.counts["NodesInDeficit"] += state.notes.unmet > 0
        run.counts["DeficitAddresses"] += state.notes.unmet
        suspects |= _short_of_prefixes(node, state, shown[node.id])
    _in_hooks(run, [n for n in nodes if usable_addresses(_living(states[n.arn]))])
    _confirm_nodes(run, found, states, shown)
    return suspects


def _shown(run: Run, nodes: Sequence[Instance]) -> dict[str, Shown]:
    shown = {n.id: Shown() for n in nodes}
    for interface in run.all("DescribeNetworkInterfaces", run.edges.survey.attached, list(shown)):
        run.counts["InterfacesSeen"] += 1
        holder = interface.attachment.instance_id if interface.attachment else ""
        if holder in shown:
            shown[holder].add(interface, holder, run.edges.settings.clusters)
    return shown


def _living(state: NodeState) -> Record | None:
    return None if state.buried else state.record


def _judged(run: Run, node: Instance, state: NodeState, shown: Shown, now: float) -> Kind | None:
    settings = run.edges.settings
    policy = replace(parse_policy(dict(node.tags), settings.defaults), pod_groups=settings.pod_groups)
    return judge(node, _living(state), state.notes, shown, now, policy)


def _short_of_prefixes(node: Instance, state: NodeState, shown: Shown) -> set[str]:
    """Where a node that should have prefixes has single addresses, or has not all that it wants."""
    if state.record is None or state.record.policy.mode != "prefixes":
        return set()
    return shown.singles | ({node.subnet_id} if state.notes.unmet else set())


def _confirm_nodes(
    run: Run, found: Sequence[Instance], seen: Mapping[str, NodeState], shown: Mapping[str, Shown]
) -> None:
    """Read again, consistently, what looks wrong: a node that somebody works on is as it should be."""
    if not found:
        return
    arns = [n.arn for n in found]
    leased, states, now = run.edges.store.leased(arns), run.edges.store.load(arns), run.edges.clock()
    wrong: dict[Kind, list[Instance]] = defaultdict(list)
    for node in found:
        state = states[node.arn]
        revisions = [s.record.revision if s.record else 0 for s in (state, seen[node.arn])]
        kind = _judged(run, node, state, shown[node.id], now)
        if kind and revisions[0] == revisions[1] and not _in_work(state, leased.get(node.arn, 0.0), now):
            wrong[kind].append(node)
    _tell_lost(run, wrong[Kind.DRIFTED], states, shown)
    for kind, nodes in wrong.items():
        run.ask(kind, [n.id for n in nodes])


def _in_work(state: NodeState, leased_until: float, now: float) -> bool:
    """Somebody holds the lease, a look is due very soon, or a call is so young that describes may not show it yet."""
    young = any(now - max(i.at, i.done_at) < OVERLAY_SECONDS for i in state.intents)
    return leased_until >= now or young or now < state.notes.next_look <= now + SOON_SECONDS


def _tell_lost(
    run: Run, drifted: Sequence[Instance], states: Mapping[str, NodeState], shown: Mapping[str, Shown]
) -> None:
    """Say what became of interfaces that a record lists and its node has no more."""
    lost: dict[str, str] = {}
    for node in drifted:
        record = states[node.arn].record
        lost |= {i.id: node.id for i in (record.interfaces if record else ()) if i.id not in shown[node.id].held}
    found: dict[str, InterfaceView] = {}
    for chunk in chunks(sorted(lost), 200):
        found |= {i.id: i for i in run.all("DescribeNetworkInterfaces", run.edges.survey.interfaces_among, chunk)}
    for interface_id, node_id in sorted(lost.items()):
        view = found.get(interface_id)
        if view is None:
            fate, name = "deleted", "InterfacesDeleted"
        elif view.attachment is None or view.attachment.instance_id == node_id:
            fate, name = "detached", "InterfacesDetached"
        else:
            fate, name = f"moved to {view.attachment.instance_id}", "InterfacesMoved"
        run.counts[name] += 1
        logger.warning("interface lost", extra={"node": node_id, "interface": interface_id, "fate": fate})


def _in_hooks(run: Run, ready: Sequence[Instance]) -> None:
    """Ready nodes that their group still holds in our launch hook: whoever was to complete it did not."""
    name, now = run.edges.settings.launch_hook, run.edges.clock()
    young = [n.id for n in ready if _GROUP_TAG in dict(n.tags) and now - n.launched_at < HOOK_SECONDS]
    if not name:
        return
    waiting: dict[str, str] = {}
    try:
        for chunk in chunks(young, GROUP_IDS):
            run.check()
            waiting |= run.edges.survey.in_hooks(chunk)
        for group in sorted(set(waiting.values()) - run.hooked.keys()):
            run.hooked[group] = run.edges.survey.has_hook(group, name)
    except OutOfTimeError:
        raise
    except Exception:  # Auto Scaling refuses or is away: the rest of the page does not depend on it
        run.trouble("hooks")
    hooks = {i: (group, name, now) for i, group in waiting.items() if run.hooked.get(group)}
    run.ask(Kind.IN_HOOK, hooks, hooks)


# ------------------------------------------------------------------------------------------------ records and leases


def records_page(run: Run, page: TablePage) -> None:
    """Records whose node is gone, and leases that nobody holds any more."""
    now = run.edges.clock()
    run.counts["RecordsSeen"] += len(page.records)
    # one whose next look is still to come is being seen to: an absence is believed after ten minutes
    waiting = [r.arn for r in page.records if not r.buried and r.next_look <= now]
    run.each_chunk("records", waiting, lambda chunk: _records(run, chunk))
    # others keep leases of their own in the same table
    leases = [(arn, until) for arn, until in page.leases if arn.startswith(run.edges.settings.arn_prefix)]
    run.ask(Kind.STUCK, [_id(arn) for arn, until in leases if until < now - LEASE_STUCK_SECONDS])
    old = [c for c in page.claims if c.at < now - _CLAIM_SECONDS]
    run.each_chunk("claims", old, lambda chunk: _claims(run, chunk))


def _claims(run: Run, claims: Sequence[Claim]) -> None:
    """Elastic IP addresses whose node has no record, or one that does not grant them or know of their tags."""
    arns = {c.instance_id: run.edges.settings.arn(c.instance_id) for c in claims}
    states = run.edges.store.glance(sorted(set(arns.values())))
    ids = sorted(c.allocation_id for c in claims)
    pools = run.edges.settings.public_pools
    tagged = run.all("DescribeAddresses", run.edges.survey.pooled_among, ids)
    usable = {p.id for p in tagged if may_use(p, pools)}
    unused, untold = list[str](), list[str]()
    for claim in claims:
        record = _living(states[arns[claim.instance_id]])
        granted = {g.allocation_id: g for g in (record.grants if record else ())}
        grant = granted.get(claim.allocation_id)
        if grant is None:
            unused.append(claim.instance_id)
        elif bool(grant.problem) is (claim.allocation_id in usable):
            untold.append(claim.instance_id)
    run.ask(Kind.CLAIMED, unused)
    run.ask(Kind.TAGS, untold)


def _records(run: Run, arns: Sequence[str]) -> None:
    found = run.instances([_id(arn) for arn in arns])
    gone = [arn for arn in arns if _id(arn) not in found or found[_id(arn)].dead]
    leased = run.edges.store.leased(gone) if gone else {}
    now = run.edges.clock()
    run.ask(Kind.WITHOUT_NODE, [_id(arn) for arn in gone if leased.get(arn, 0.0) < now])


def _id(arn: str) -> str:
    return arn.rpartition("/")[2]


# ------------------------------------------------------------------------------------------------ unattached interfaces


def unattached_page(run: Run, interfaces: Iterable[InterfaceView]) -> None:
    """Interfaces tagged for a node and attached to nothing: of the dead, and of the living."""
    by_node: dict[str, list[InterfaceView]] = defaultdict(list)
    for interface in interfaces:
        if interface.cluster in run.edges.settings.clusters and interface.node:
            by_node[interface.node].append(interface)
    run.each_chunk("interfaces", sorted(by_node), lambda chunk: _unattached(run, {n: by_node[n] for n in chunk}))


def _unattached(run: Run, by_node: Mapping[str, Sequence[InterfaceView]]) -> None:
    found = run.instances(list(by_node))
    arns = {run.edges.settings.arn(n): n for n in by_node}
    states, leased, now = run.edges.store.load(list(arns)), run.edges.store.leased(list(arns)), run.edges.clock()
    asked: dict[Kind, list[str]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for arn, node in arns.items():
        kind = _loose(run, found.get(node), by_node[node], now)
        state = states[arn]
        if kind is None or leased.get(arn, 0.0) >= now or state.notes.next_look > now:
            continue
        asked[kind].append(node)
        counts["InterfacesOrphaned" if kind is Kind.ORPHANS else "InterfacesUnattached"] += len(by_node[node])
        ages = {i.id: round(now - i.created_at) if i.created_at else None for i in by_node[node]}
        logger.warning("interfaces attached to nothing", extra={"node": node, "kind": kind.value, "ages": ages})
    run.counts.update(counts)
    for kind, nodes in asked.items():
        run.ask(kind, nodes)


def _loose(run: Run, node: Instance | None, interfaces: Sequence[InterfaceView], now: float) -> Kind | None:
    if node is None:
        # a describe may lag behind: what is not shown is believed gone once the interface is old, by its tag
        return Kind.ORPHANS if any(is_old(i, now) for i in interfaces) else None
    if node.dead:
        return Kind.ORPHANS
    if not run.is_node(node):
        run.counts["InterfacesStranded"] += len(interfaces)
        return None
    waits = any(now - (i.created_at or 0.0) > _UNATTACHED_SECONDS for i in interfaces)
    return Kind.UNATTACHED if waits else None
