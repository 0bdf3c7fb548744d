"""The end of a schedule: bad luck ends, everybody goes on as ever until nothing changes any more, and then all that was
promised for quiet times is checked."""

from __future__ import annotations

from berth.brake import Level
from berth.calls import CreateInterface
from berth.contract import Record
from berth.history import Heartbeat
from berth.ingest import SentReport
from berth.model import InterfaceView

from tests.simulator.agent import Agent
from tests.simulator.happenings import change
from tests.simulator.leases import check_leases
from tests.simulator.promises import BrokenPromise, usable_mask
from tests.simulator.space import mask_of
from tests.simulator.table import Item
from tests.simulator.world import World

__all__ = ["check", "settle"]

TURNS = 80


def settle(world: World) -> None:
    """Raises :class:`BrokenPromise` if there is no end."""
    _end_bad_luck(world)
    _end_states(world)
    quiet = 0
    for turn in range(TURNS):
        before = (world.ec2.changes, world.table.revisions)
        _agents_go_on(world)
        _serve_all(world)
        if world.edges.settings.standby_pools:
            world.fill()
        idle = (world.ec2.changes, world.table.revisions) == before
        asked, swept = world.sweep() if turn % 4 == 2 or idle else (0, False)
        _serve_all(world)
        changed = (world.ec2.changes, world.table.revisions) != before
        busy = changed or bool(world.queues.messages) or _loose(world) or _unheard(world)
        # twice: the first sweep may only have ended what one that was killed had begun
        quiet = 0 if busy else quiet + swept
        if quiet >= 2:
            return
        # what nobody wants is deleted when it is ten minutes old
        world.kernel.advance(65 if changed or turn < 3 else 320 if asked or not swept or _loose(world) else 130)
    waiting = [f"{m.node}: {m.body}" for m in world.queues.messages]
    raise BrokenPromise(f"no end after {TURNS} turns; on the queues: {waiting}; loose: {_loose(world)}")


def _end_bad_luck(world: World) -> None:
    world.kernel.say("---- bad luck ends")
    world.end_background()
    faults = world.faults
    faults.lag = faults.dropped = faults.lost = faults.table = 0.0
    world.ec2.buckets.refill()
    world.ec2.left_out.clear()
    world.brake.move(Level.NORMAL)
    world.kernel.latency = 0.02
    world.kernel.advance(60)  # what was slow to attach or detach is done with


def _end_states(world: World) -> None:
    """Every instance runs, is stopped, or is gone."""
    for instance_id in list(world.cloud.instances):
        for _ in range(4):
            state = world.cloud.instances[instance_id].state
            following = {"pending": "running", "stopping": "stopped", "shutting-down": "terminated"}.get(state)
            if following is None:
                break
            change(world, instance_id, following)


def _loose(world: World) -> bool:
    """Whether an interface of ours is attached to nothing, or to another's node, or claimed and not settled."""
    return any(i.claimed_by and not i.settled_at for i in world.standby.by_id.values()) or any(
        i.node and (i.attachment is None or i.attachment.instance_id != i.node)
        for i in world.cloud.interfaces.values()
        if not _stolen(world, i)
    )


def _unheard(world: World) -> bool:
    """Whether an agent's reports are taken for older ones: one that has lost its files counts up from the record's."""
    for agent in world.agents.values():
        item = world.table.items.get(agent.arn)
        running = world.cloud.instances[agent.id].state == "running"
        if running and item and item.report and item.report.order != agent.order:
            return True
    return False


def _stolen(world: World, view: InterfaceView) -> bool:
    """Attached to another instance by hand: not ours to touch while it is."""
    return view.attachment is not None and view.attachment.instance_id != view.node and view.id in world.promises.moved


def _agents_go_on(world: World) -> None:
    for instance_id in world.living():
        if world.cloud.instances[instance_id].state == "running":
            agent = world.agents[instance_id]
            agent.look(world.cloud.attached(instance_id))
            agent.read(world.table.record(agent.arn))
            world.hear(agent)
            agent.retry()
            agent.serve(world.kernel.now)
            agent.balance()
            world.queues.put(SentReport(agent.id, agent.report()))


def _serve_all(world: World) -> None:
    for _ in range(200):
        if not world.queues.due():
            return
        world.invoke()
    raise BrokenPromise("the queue is never empty")


# ----------------------------------------------------------------------------------------------- checks


def check(world: World) -> None:
    """Raises :class:`BrokenPromise`."""
    for instance_id, instance in world.cloud.instances.items():
        item = world.table.items.get(instance.arn)
        if instance.dead:
            _gone(world, instance_id, item)
        else:
            _alive(world, world.agents[instance_id], item)
    _standby(world)
    _leases(world)
    waiting = [i for i in world.hooks.waiting if usable_mask_of(world, i)]
    if waiting:
        raise BrokenPromise(f"{waiting} are ready and still wait in their launch hook")
    # that of a function that died runs out by itself
    stuck = {arn: lease for arn, lease in world.table.leases.items() if lease[1] >= world.kernel.now}
    if stuck:
        raise BrokenPromise(f"leases are stuck: {stuck}")
    orphans = [i for i in world.cloud.interfaces.values() if i.node and i.node not in world.cloud.instances]
    if orphans:
        raise BrokenPromise(f"interfaces of nobody: {orphans}")


def _leases(world: World) -> None:
    """Every lease is in the ledger once, from when to when it was."""
    if world.ledger is None:
        return
    reports = {i: world.table.items[a.arn].report for i, a in world.agents.items() if a.arn in world.table.items}
    beats = {i: Heartbeat(r.epoch, r.leases_until) for i, r in reports.items() if r is not None}
    states = world.cloud.instances
    nodes = [(i, a.pods, states[i].state == "running") for i, a in world.agents.items()]
    check_leases(world.ledger, beats, nodes, lambda a: bool(world.promises.spoilt & mask_of(f"{a}/32")))


def usable_mask_of(world: World, instance_id: str) -> int:
    record = world.table.record(world.agents[instance_id].arn)
    running = world.cloud.instances[instance_id].state == "running"
    return usable_mask(record) if record and running else 0


def _standby(world: World) -> None:
    """Every standby interface is one that can be claimed, and the other way round; nobody's claim is left open."""
    loose = {i.id for i in world.cloud.interfaces.values() if i.standby and i.node is None and not i.attachment}
    items = world.standby.by_id.values()
    ready = {i.interface.id for i in items if not i.claimed_by}
    if loose != ready:
        raise BrokenPromise(f"standby interfaces: EC2 has {sorted(loose)}, the pool {sorted(ready)}")
    open_claims = [i for i in items if i.claimed_by and not i.settled_at]
    if open_claims:
        raise BrokenPromise(f"claims are not settled: {open_claims}")


def _gone(world: World, instance_id: str, item: Item | None) -> None:
    left = [i for i in world.cloud.interfaces.values() if i.node == instance_id and not _stolen(world, i)]
    if left:
        raise BrokenPromise(f"{instance_id} is gone and left {left}")
    if item is not None and (item.expires_at is None or item.report or item.intents):
        raise BrokenPromise(f"{instance_id} is gone and is no tombstone: {item}")


def _own(world: World, agent: Agent, ours: list[InterfaceView], record: Record) -> None:
    """Every pod that asks has an interface with its groups, or is told why not; nobody else has one."""
    if world.cloud.instances[agent.id].state != "running":
        return
    mine = {i.pod: i for i in ours if i.pod}
    if mine.keys() - agent.own.keys() or len(mine) < sum(bool(i.pod) for i in ours):
        raise BrokenPromise(f"{agent.id}: interfaces of no pod: {mine.keys() - agent.own.keys()}")
    told = {g.id: g for g in record.grants}
    for name, pod in agent.own.items():
        if name not in mine and not (name in told and told[name].problem):
            raise BrokenPromise(f"{agent.id}: {name} has no interface and is not told why")
        if name in mine and pod.groups and mine[name].groups != tuple(sorted(pod.groups.split(","))):
            raise BrokenPromise(f"{agent.id}: {name} asked for {pod.groups} and has {mine[name].groups}")


def _alive(world: World, agent: Agent, item: Item | None) -> None:
    cloud = world.cloud
    if item is None or item.record is None or item.expires_at is not None:
        raise BrokenPromise(f"{agent.id} lives and has no record")
    ours = [i for i in cloud.interfaces.values() if i.node == agent.id and not _stolen(world, i)]
    loose = [i for i in ours if not (i.attachment and i.attachment.delete_on_termination)]
    if loose:
        raise BrokenPromise(f"{agent.id}: {loose} are loose")
    managed = [*ours, *(i for i in cloud.interfaces.values() if i.is_primary_of(agent.id))]
    _own(world, agent, ours, item.record)
    shown = {(i.id, b) for i in managed if not i.pod for b in i.blocks}
    listed = {(i.id, a.cidr) for i in item.record.interfaces for a in i.assignments}
    if listed != shown:
        raise BrokenPromise(f"{agent.id}: the record lists {listed - shown} too much and {shown - listed} too little")
    running = cloud.instances[agent.id].state == "running"
    # a node that is stopped is looked at when it starts: a creation of which nobody knows what came may wait for that
    unfinished = [i for i in item.intents if i.outcome is None and (running or not isinstance(i.call, CreateInterface))]
    if unfinished:
        raise BrokenPromise(f"{agent.id}: intents are left: {unfinished}")
    primary = next(i for i in managed if i.is_primary_of(agent.id))
    apart = [i for i in ours if not i.pod and i.groups != primary.groups]
    if apart and cloud.instances[agent.id].state == "running":
        raise BrokenPromise(f"{agent.id}: security groups are not the primary's: {apart}")
    if cloud.instances[agent.id].state == "running":
        _served(world, agent, item, [i for i in managed if not i.pod])
        _stays(world, agent)


def _served(world: World, agent: Agent, item: Item, managed: list[InterfaceView]) -> None:
    """The node has what it wants, or its shortage is real and has been told of."""
    missing = agent.deficit()
    if missing <= 0:
        return
    if not item.notes.unmet:
        raise BrokenPromise(f"{agent.id} lacks {missing} addresses and nobody says so: {item}")
    where = _room(world, agent, managed)
    if where:
        raise BrokenPromise(f"{agent.id} lacks {missing} addresses, and there is room: {where}")
    told = [e for e in world.bus.events if e.detail_type == "Node Address Demand Unmet"]
    if not any(e.detail["instance-id"] == agent.id for e in told):
        raise BrokenPromise(f"{agent.id} lacks {missing} addresses and no event says so")


def _room(world: World, agent: Agent, managed: list[InterfaceView]) -> str:
    """Where the node could get another address, if anywhere."""
    cloud = world.cloud
    limits = cloud.types[cloud.instances[agent.id].type]
    for view in managed:
        free = limits.addresses_per_interface - view.slots
        if free > 0 and cloud.spaces[view.subnet_id].count > 0:
            return f"{view.id} takes {free} more, {view.subnet_id} has {cloud.spaces[view.subnet_id].count}"
    if cloud.free_position(agent.id) is None or limits.addresses_per_interface < 2:
        return ""
    zone = cloud.instances[agent.id].zone
    for subnet in cloud.subnets.values():
        if subnet.allowed and subnet.zone == zone and cloud.spaces[subnet.id].count > 1:
            return f"another interface in {subnet.id}"
    return ""


def _stays(world: World, agent: Agent) -> None:
    before = world.ec2.changes
    world.queues.ask([agent.id], "once more")
    _serve_all(world)
    if world.ec2.changes != before:
        raise BrokenPromise(f"{agent.id} is quiet and still being changed")
