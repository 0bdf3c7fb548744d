"""A node that lives: brought to its plan, and what changed beside EC2 is noted and told."""

from __future__ import annotations

from dataclasses import replace

from berth.bus import addresses_ready, demand_unmet, policy_invalid, public_address_unavailable
from berth.calls import GROWING
from berth.claims import offer
from berth.converge import Convergence
from berth.decision import Rules
from berth.launch import serve_hook
from berth.model import Instance, NodePolicy, PolicyProblem
from berth.plan import Plan, planner
from berth.policy import fingerprint, fit_policy, parse_policy
from berth.publics import untagged
from berth.records import pod_subnets, usable_addresses
from berth.store import NodeState
from berth.surroundings import fit_network, lacks_pod_subnet
from berth.unmet import note_unmet
from berth.visit import Visit
from berth.world import World

__all__ = ["bring"]


def bring(visit: Visit, instance: Instance, cluster: str, world: World) -> str:
    """Bring a living node to its plan. Returns what came of it, in words."""
    state = world.states[instance.id]
    settings = visit.edges.settings
    policy = parse_policy(dict(instance.tags), settings.defaults, settings.default_subnets)
    policy = replace(policy, pod_groups=settings.pod_groups)
    if policy.unmanaged:
        visit.counts["Unmanaged"] += 1
        return "unmanaged, by its tag"
    limits = world.limits.get(instance.type)
    if limits is None:
        return _skip(visit, instance, policy)
    policy = fit_policy(policy, instance.type, limits)
    view = visit.view(instance, cluster, world.interfaces.get(instance.id, ()), state)
    view = replace(view, allowed_groups=world.network.allowed_groups)
    visit.counts["NodesWithoutPodSubnet"] += lacks_pod_subnet(policy, view, world.network.subnets)
    policy = fit_network(policy, view, limits, world.network.subnets)
    view = offer(visit.edges, view, state.slots, policy, limits, world.network.subnets)
    convergence = visit.convergence(
        view,
        state,
        planner(policy, limits, world.network.subnets),
        world.network,
        Rules(policy, limits, world.network.subnets),
    )
    last = visit.run(convergence)
    note(visit, convergence, state, last, policy)
    unmet = f"{last.unmet} addresses unmet: {last.reason}" if last.unmet else ""
    later = convergence.again or last.waiting
    routes = _unread(world, convergence)
    return "; ".join(filter(None, (unmet, routes, later and f"looking again: {later}"))) or "as planned"


def _unread(world: World, done: Convergence) -> str:
    """What of the routes of a node's pods nobody knows, in words."""
    record = done.view.record
    subnets = pod_subnets(record.interfaces) if record else ()
    unread = world.network.routing(done.view.instance.vpc_id).unread(subnets)
    named = ", ".join(f"{name} (of {table})" for table, name in unread)
    return f"prefix lists of routes cannot be read, so what was listed stays: {named}" if named else ""


def _skip(visit: Visit, instance: Instance, policy: NodePolicy) -> str:
    message = "EC2 knows no such instance type in this region; the node is skipped"
    problem = PolicyProblem("instance-type", instance.type, message)
    visit.counts["UnknownInstanceType"] += 1
    visit.tell_now_and_then(instance, [*policy.problems, problem])
    return f"skipped: {instance.type}: {message}"


def note(visit: Visit, done: Convergence, state: NodeState, last: Plan, policy: NodePolicy) -> None:
    """Write what changed beside EC2, tell what is worth telling, and see to the next look."""
    arn, instance_id, notes = done.view.instance.arn, done.view.instance.id, done.view.notes
    record, marked = done.next_record()
    ready = usable_addresses(record)
    if ready and not usable_addresses(state.record):
        visit.events.append(addresses_ready(arn, instance_id, ready, record.revision))
    if last.unmet and not notes.unmet and not done.again:
        visit.events.append(demand_unmet(arn, instance_id, last.unmet, last.reason))
    if last.unmet:
        visit.counts["AddressesUnmet"] += last.unmet
    _tell_unavailable(visit, done, state)
    problems = fingerprint(policy.problems)
    if problems != notes.problems and policy.problems:
        visit.events.append(policy_invalid(arn, instance_id, policy.problems))
    unmet = notes.unmet if done.again else last.unmet
    more = ready > usable_addresses(state.record)
    since = _wanted_since(visit, done, last, more=more)
    new = replace(notes, unmet=unmet, problems=problems, absent_since=0.0, wanted_since=since)
    known, now = dict(notes.unwanted), visit.edges.clock()
    new = replace(new, unwanted=tuple((i, known.get(i, now)) for i in last.unwanted))
    new = replace(new, unmet_requests=note_unmet(notes.unmet_requests, done.view.report, record, instance_id, now))
    # the record as it is was written by the run: what is left to save is beside it
    hook = serve_hook(visit, done, record, last)
    reason, restless = done.again or last.waiting or hook, bool(done.restless or last.waiting or hook)
    new = visit.look_again(instance_id, new, reason, done.due, restless=restless)
    if (record, new) != (done.view.record, notes):
        if (new.unmet, new.problems) != (notes.unmet, notes.problems):
            visit.tell()  # once it is noted, nobody tells of it again
        visit.edges.store.save(arn, record, marked, new)


def _tell_unavailable(visit: Visit, done: Convergence, state: NodeState) -> None:
    """Tell of each request for a public address that cannot be met, once: a new attempt of the pod is a new one. And of
    one whose address lost its tag."""
    report, record = done.view.report, done.view.record
    refused = {g.id: g.problem for g in (record.grants if record else ()) if g.problem}
    met = {g.id for g in (record.grants if record else ()) if g.public_address}
    visit.counts.update({"PublicAddressesUntagged": lost} if (lost := untagged(done.view)) else {})
    known = {g.id for g in (state.record.grants if state.record else ()) if g.problem}
    for request in (r for r in (report.requests if report else ()) if r.public and r.id in refused):
        visit.counts["PublicAddressesUnmet"] += request.id not in met
        if request.id not in known:
            about, reason = done.view.instance, refused[request.id]
            visit.events.append(public_address_unavailable(about.arn, about.id, request, reason))


def _wanted_since(visit: Visit, done: Convergence, last: Plan, *, more: bool) -> float:
    """Since when addresses are missing, 0 if none are. If ``more`` have come, measures how long they took."""
    now, instance_id = visit.edges.clock(), done.view.instance.id
    told = [s.at for s in visit.signals if s.instance_id == instance_id and s.at]
    since = done.view.notes.wanted_since or min(told, default=now)
    if more:
        visit.edges.meters.took("AllocationTime", now - since)
    still = last.unmet or any(isinstance(call, GROWING) for call in last.calls)
    return since if still else 0.0
