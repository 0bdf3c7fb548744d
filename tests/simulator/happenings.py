"""What may happen: to instances, to agents, to events, by hand, and to the functions themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from berth.brake import Level
from berth.ec2_wire import Ec2Error
from berth.events import Signal
from berth.model import Attachment, InterfaceView

from tests.simulator.agent import Agent
from tests.simulator.cloud import ZONE
from tests.simulator.ec2 import ACTIONS
from tests.simulator.world import HOOK, World

__all__ = ["Profile", "draw_profile", "happen", "prepare"]

SUBNET_A, SUBNET_B, SUBNET_C = "subnet-0000000a", "subnet-0000000b", "subnet-0000000c"
_SWAPS = {
    "m5.large": ("m6i.xlarge", "t3.nano", "t3.medium"),
    "m6i.xlarge": ("m5.large", "t3.medium", "c6in.32xlarge"),
    "c6in.32xlarge": ("m6i.xlarge", "t3.medium"),
}
"""What an instance's type may be changed to while it is stopped."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How bad the luck is. ``happenings`` in all, at most ``nodes`` nodes; rates are per happening."""

    happenings: int
    nodes: int
    types: tuple[str, ...]
    crash: float = 0.0
    held_up: float = 0.0
    by_hand: float = 0.0
    scale: float = 1.0
    latency: float = 0.02
    hooks: bool = False
    standby: int = 0
    brake: float = 0.0
    rush: bool = False
    """All nodes want more than their primary interface holds, at once."""


def draw_profile(world: World) -> Profile:
    """Most schedules are short and have one or two kinds of bad luck, some are long and have many."""
    rng = world.rng
    long, rush = rng.random() < 0.12, rng.random() < 0.1
    world.faults.lag = rng.choice([0, 0, 5, 20, 45])
    world.faults.dropped = rng.choice([0, 0, 0.05])
    world.faults.lost = rng.choice([0, 0, 0.05, 0.2])
    world.faults.table = rng.choice([0, 0, 0, 0.03])
    world.cloud.slow = rng.choice([0, 0, 1, 4])
    return Profile(
        happenings=rng.randint(60, 120) if long else rng.randint(10, 35),
        nodes=rng.randint(2, 4) if long or rush else rng.randint(1, 3),
        types=tuple(rng.sample(sorted(world.cloud.types), 2)) if not rush else ("t3.small", "t3.medium"),
        crash=rng.choice([0, 0, 0.1, 0.3]),
        held_up=rng.choice([0, 0, 0.1, 0.3]),
        by_hand=rng.choice([0, 0, 0.05, 0.1]),
        scale=rng.choice([1, 1, 1, 0.1, 0.02]),
        latency=rng.choice([0.02, 0.02, 0.3, 2.5]),
        hooks=rng.random() < 0.3,
        standby=rng.choice([0, 0, 1, 3]) if not rush else 2,
        rush=rush,
        brake=rng.choice([0, 0, 0, 0.03]),
    )


def prepare(world: World, profile: Profile) -> None:
    """Subnets, which may be tiny or fragmented."""
    rng = world.rng
    world.ec2.buckets.scale = profile.scale
    world.kernel.latency = profile.latency
    world.cloud.add_subnet(
        SUBNET_A,
        rng.choice(
            ["10.0.1.0/24", "10.0.1.0/25", "10.0.1.0/26", "10.0.1.0/27"] if not profile.rush else ["10.0.1.0/24"]
        ),
    )
    world.cloud.add_subnet(SUBNET_B, rng.choice(["10.0.2.0/25", "10.0.2.0/27"]), allowed=rng.random() < 0.8)
    world.cloud.add_subnet(SUBNET_C, "10.0.3.0/25", zone="eu-west-1b")
    if profile.standby:
        world.keep_standby(SUBNET_A, prefixes=rng.choice([1, 3]), count=profile.standby)
        world.fill()
    if rng.random() < 0.25:
        fragment(world)
    for _ in range(profile.nodes if profile.rush else rng.randint(1, profile.nodes)):
        launch(world, profile)
    if rng.random() < (0.1 if profile.rush else 0.6):
        _calm_start(world)


def _calm_start(world: World) -> None:
    """The nodes run and have what they want before the first bad luck."""
    kept, latency = replace(world.faults), world.kernel.latency
    world.faults.lag = world.faults.dropped = world.faults.lost = world.faults.table = 0.0
    world.kernel.latency = 0.02
    for agent in world.agents.values():
        change(world, agent.id, "running")
        world.queues.put(Signal(agent.id, "running"))
    for _ in range(12):
        if world.queues.due():
            world.invoke()
    world.kernel.advance(world.rng.choice([0, 70]))
    world.faults.lag, world.faults.dropped = kept.lag, kept.dropped
    world.faults.lost, world.faults.table = kept.lost, kept.table
    world.kernel.latency = latency


def happen(world: World, profile: Profile) -> None:
    """One thing happens."""
    rng = world.rng
    world.kernel.advance(rng.choice([0, 0.1, 1, 5, 20]))
    agents = [world.agents[i] for i in world.living()]
    if not agents or (len(world.agents) < profile.nodes and rng.random() < 0.05):
        launch(world, profile)
        return
    if rng.random() < profile.by_hand:
        by_hand(world, rng.choice(agents))
        return
    agent = rng.choice(agents)
    rng.choice(_USUAL)(world, profile, agent)


# ----------------------------------------------------------------------------------------------- instances


def launch(world: World, profile: Profile) -> None:
    rng, cloud = world.rng, world.cloud
    instance_id = f"i-{len(world.agents):08x}"
    kind = rng.choice(profile.types)
    tags = {"berth:mode": rng.choice(["prefixes", "addresses"])}
    tags["berth:max-pods"] = rng.choice(["8", "30", "60", "110"]) if not profile.rush else "110"
    tags["berth:warm-addresses"] = rng.choice(["0", "0", "4", "8"])
    tags["berth:minimum-addresses"] = rng.choice(["0", "0", "20"]) if not profile.rush else "90"
    tags["berth:cooldown-seconds"] = rng.choice(["0", "0", "30"])
    if profile.hooks:
        tags["aws:autoscaling:groupName"] = HOOK.group
    room = cloud.types[kind].prefixes and cloud.types[kind].addresses_per_interface > 1
    prefixes = rng.choice([0, 0, 0, 1]) if room else 0
    try:
        cloud.launch(instance_id, kind, SUBNET_A, tags, prefixes)
    except Ec2Error:
        world.kernel.say("    a launch fails: the subnet is too full")
        world.kernel.advance(20)
        return
    world.kernel.say(f"    {instance_id} is launched: {kind}, {tags}, {prefixes} prefixes")
    agent = Agent(instance_id, rng, skew=rng.choice([0, -300, 300]), lent=world.promises.lent, took=world.promises.took)
    agent.pods.clock = lambda: world.kernel.now
    world.agents[instance_id] = agent
    world.tell(instance_id, "pending")
    if profile.hooks:
        wait_in_hook(world, instance_id)


def wait_in_hook(world: World, instance_id: str) -> None:
    """Auto Scaling waits for the launch hook to be completed, and says so once."""
    world.hooks.waiting[instance_id] = HOOK
    at = world.kernel.now
    world.tell(instance_id, "launch hook", hook_group=HOOK.group, hook_name=HOOK.name, hook_at=at)


def change(world: World, instance_id: str, state: str) -> None:
    """The instance goes to another state, and perhaps somebody hears of it."""
    if state == "pending" and not world.cloud.can_start(instance_id):
        world.kernel.say(f"    {instance_id} cannot start: its type allows less")
        return
    world.cloud.set_state(instance_id, state)
    agent = world.agents[instance_id]
    if state in ("shutting-down", "terminated"):
        agent.pods.die()
        agent.evict(set(agent.used))
        world.hooks.waiting.pop(instance_id, None)
    if state == "stopped" and not agent.asleep:
        agent.reboot()
        _change_type(world, instance_id)
    if state == "running":
        agent.asleep = False
    world.tell(instance_id, state)


def _change_type(world: World, instance_id: str) -> None:
    instance = world.cloud.instances[instance_id]
    swaps = _SWAPS.get(instance.type, ())
    if swaps and world.rng.random() < 0.3:
        kind = world.rng.choice(swaps)
        world.kernel.say(f"    {instance_id} becomes {kind}")
        world.cloud.put_instance(replace(instance, type=kind))
        world.agents[instance_id].pods.forgive()


def _move_on(world: World, _profile: Profile, agent: Agent) -> None:
    state = world.cloud.instances[agent.id].state
    if state == "running":
        following = world.rng.choice(["stopping", "stopping", "shutting-down", "running", "running"])
        if following == "running":
            world.kernel.say(f"    {agent.id} reboots")
            agent.reboot()
            return
        agent.asleep = following == "stopping" and world.rng.random() < 0.3
    else:
        following = {"pending": "running", "stopping": "stopped", "stopped": "pending"}.get(state, "terminated")
        if world.rng.random() < 0.15:
            following = "shutting-down"
    change(world, agent.id, following)


def _boot(world: World, _profile: Profile, agent: Agent) -> None:
    if world.cloud.instances[agent.id].state == "pending":
        change(world, agent.id, "running")


# ----------------------------------------------------------------------------------------------- agents


def _running(world: World, agent: Agent) -> bool:
    return world.cloud.instances[agent.id].state == "running"


def _read(world: World, _profile: Profile, agent: Agent) -> None:
    if _running(world, agent):
        agent.read(world.table.record(agent.arn))
        world.hear(agent)
        agent.serve(world.kernel.now)


def _see(world: World, _profile: Profile, agent: Agent) -> None:
    if _running(world, agent):
        agent.look(world.cloud.attached(agent.id))
        agent.read(world.table.record(agent.arn))
        world.hear(agent)
        agent.serve(world.kernel.now)


def _pods(world: World, _profile: Profile, agent: Agent) -> None:
    if _running(world, agent):
        most = agent.policy.max_pods - len(agent.used) - agent.waiting
        for _ in range(min(world.rng.choice([1, 5, 20, 60]), most)):
            agent.add_pod()
        world.kernel.say(f"    {agent.id}: {len(agent.used)} pods, {agent.waiting} wait")


def _pods_end(world: World, _profile: Profile, agent: Agent) -> None:
    if _running(world, agent) and agent.used:
        for address in world.rng.sample(sorted(agent.used), world.rng.choice([1, len(agent.used)])):
            agent.end_pod(address, world.kernel.now)
        world.kernel.say(f"    {agent.id}: {len(agent.used)} pods are left")
    agent.waiting = world.rng.choice([agent.waiting, 0])


def _report(world: World, _profile: Profile, agent: Agent) -> None:
    if _running(world, agent):
        if world.rng.random() < 0.2:
            agent.fidget()
        else:
            agent.balance()
        world.send(agent)


def _clock(world: World, _profile: Profile, agent: Agent) -> None:
    agent.skew += world.rng.choice([-120, 120, -agent.skew])


def _lose_files(world: World, _profile: Profile, agent: Agent) -> None:
    if _running(world, agent):
        world.kernel.say(f"    {agent.id} loses its files")
        agent.lose_files(world.table.record(agent.arn), world.kernel.now)


def _surge(world: World, profile: Profile, agent: Agent) -> None:
    """Pods come, the node asks for more, and somebody hears it."""
    _pods(world, profile, agent)
    _cycle(world, profile, agent)
    _see(world, profile, agent)


def _shrink(world: World, profile: Profile, agent: Agent) -> None:
    """Pods end, and what they had is given back, as far as that comes."""
    if _running(world, agent):
        for address in sorted(agent.used):
            if world.rng.random() < 0.8:
                agent.end_pod(address, world.kernel.now)
        agent.cooling.clear()
        agent.waiting = 0
    for _ in range(world.rng.randint(1, 3)):
        _cycle(world, profile, agent)


def _cycle(world: World, profile: Profile, agent: Agent) -> None:
    """An agent's usual round, and a function that takes its report in."""
    _see(world, profile, agent)
    _report(world, profile, agent)
    world.kernel.advance(world.rng.choice([0, 0, 1, 30]))
    _serve(world, profile, agent)


def _own_pods(world: World, _profile: Profile, agent: Agent) -> None:
    """Pods with security groups of their own come and go, and agents restart while they wait."""
    if not _running(world, agent):
        return
    rng = world.rng
    agent.retry()
    if agent.own and rng.random() < 0.4:
        agent.own.pop(rng.choice(sorted(agent.own)))
    elif rng.random() < 0.2:
        agent.hiccup()
    else:
        agent.add_own(rng.choice([*sorted(world.cloud.groups), ",".join(sorted(world.cloud.groups)), "nobody"]))


def _request(world: World, _profile: Profile, agent: Agent) -> None:
    now = world.kernel.now
    if world.rng.random() < 0.5:
        world.tell(agent.id, "request", requested=30, requested_until=now + 90, requested_at=now)
    else:
        world.tell(agent.id, "spot", draining_until=now + 120)


# ----------------------------------------------------------------------------------------------- functions


def _serve(world: World, profile: Profile, _agent: Agent) -> None:
    rng = world.rng
    if world.background and rng.random() < 0.5:
        world.advance_background(rng.choice(world.background), rng.randint(1, 6))
    elif rng.random() < profile.held_up and len(world.background) < 2:
        world.invoke(steps=rng.randint(0, 12), runaway=rng.random() < 0.5)
    elif rng.random() < profile.crash:
        world.invoke(dies_at=rng.randint(0, 25))
    else:
        world.invoke()


def _sweep(world: World, profile: Profile, _agent: Agent) -> None:
    world.sweep(dies_at=world.rng.randint(0, 8) if world.rng.random() < profile.crash else None)


def _pause(world: World, _profile: Profile, _agent: Agent) -> None:
    """For a while nothing happens: leases run out, messages come back."""
    world.kernel.advance(world.rng.choice([60, 130, 700]))


def _brake(world: World, profile: Profile, _agent: Agent) -> None:
    if world.rng.random() < profile.brake * 10:
        world.brake.move(world.rng.choice(list(Level)))


def _fill(world: World, profile: Profile, _agent: Agent) -> None:
    if profile.standby:
        world.fill(dies_at=world.rng.randint(0, 12) if world.rng.random() < profile.crash else None)


def _groups(world: World, _profile: Profile, agent: Agent) -> None:
    """A person changes the primary interface's security groups: ours are kept in step."""
    primary = next(i for i in world.cloud.attached(agent.id) if i.is_primary_of(agent.id))
    groups = tuple(sorted(world.rng.sample(sorted(world.cloud.groups), world.rng.randint(1, 2))))
    world.kernel.say(f"    {agent.id}'s primary interface is in {groups}")
    world.cloud.put(replace(primary, groups=groups))


def _throttle(world: World, _profile: Profile, _agent: Agent) -> None:
    world.ec2.buckets.drain(world.rng.choice(sorted({*ACTIONS.values(), "DescribeInstances"})), world.kernel.now)


# ----------------------------------------------------------------------------------------------- others


def foreign(world: World, agent: Agent) -> None:
    """Somebody else's interface is attached."""
    cloud = world.cloud
    where = cloud.free_position(agent.id)
    if where is None or cloud.instances[agent.id].state not in ("running", "stopped"):
        return
    try:
        view = cloud.new_interface(SUBNET_A)
    except Ec2Error:
        return
    world.promises.foreign.add(view.id)
    at = Attachment(f"foreign-{view.id}", agent.id, where[1], where[0], "attached", True)
    world.kernel.say(f"    {view.id}, a foreign one, is attached to {agent.id} at {where}")
    cloud.put(replace(view, attachment=at))


def fragment(world: World) -> None:
    """Others take single addresses all over a subnet, or give them back."""
    rng = world.rng
    space = world.cloud.spaces[rng.choice([SUBNET_A, SUBNET_B])]
    taken = world.others.setdefault(space.cidr, [])
    if taken and rng.random() < 0.5:
        for address in taken:
            space.give(address)
        taken.clear()
        world.kernel.say(f"    others give back what they had of {space.cidr}")
        return
    for offset in space.whole()[:: rng.choice([1, 2])]:
        space.free &= ~(1 << offset)
        taken.append(space.name(offset))
    if rng.random() < 0.3:
        taken += space.take(space.count)
    world.kernel.say(f"    others take from {space.cidr}: {space.count} are left, {len(space.whole())} prefixes")


def by_hand(world: World, agent: Agent) -> None:
    """A person moves interfaces and addresses of ours."""
    rng, cloud = world.rng, world.cloud
    ours = [i for i in cloud.interfaces.values() if i.node and i.id not in world.promises.foreign]
    kind = rng.choice(["foreign", "detach", "steal", "delete", "unassign", "assign", "fragment"])
    if kind == "foreign" or not ours:
        foreign(world, agent)
        return
    if kind == "fragment":
        fragment(world)
        return
    world.promises.by_hand = True
    view = rng.choice(ours)
    try:
        _touch(world, kind, view, agent)
    except Ec2Error as error:
        world.kernel.say(f"    by hand: {kind} {view.id}: {error}")
    finally:
        world.promises.by_hand = False


def _touch(world: World, kind: str, view: InterfaceView, agent: Agent) -> None:
    rng, cloud = world.rng, world.cloud
    world.kernel.say(f"    by hand: {kind} {view.id}")
    world.promises.moved[view.id] = world.kernel.now
    if kind == "detach" and view.attachment:
        cloud.detach(view)
    elif kind == "steal" and cloud.instances[agent.id].state == "running":
        slow, cloud.slow = cloud.slow, 0.0
        if view.attachment:
            cloud.detach(view)
        attach_by_hand(world, cloud.interfaces[view.id], agent)
        cloud.slow = slow
    elif kind == "delete" and view.attachment is None:
        cloud.delete(view)
    elif kind == "unassign" and view.blocks:
        cloud.unassign(view, (rng.choice(view.blocks),))
    elif kind == "assign" and view.attachment:
        limits = cloud.types[cloud.instances[view.attachment.instance_id].type]
        if view.slots < limits.addresses_per_interface:
            cloud.assign(view, addresses=1)


def attach_by_hand(world: World, view: InterfaceView, agent: Agent) -> None:
    """Attach an interface of ours to some node, at its last free place."""
    cloud = world.cloud
    where = cloud.free_position(agent.id)
    limits = cloud.types[cloud.instances[agent.id].type]
    fits = view.slots <= limits.addresses_per_interface and (limits.prefixes or not view.prefixes)
    if where is not None and fits and view.zone == ZONE:
        cloud.attach(view, agent.id, where[1], where[0])


_USUAL: list[Callable[[World, Profile, Agent], None]] = [
    function
    for function, weight in {
        _serve: 7,
        _cycle: 3,
        _surge: 4,
        _shrink: 5,
        _report: 3,
        _see: 2,
        _read: 2,
        _pods: 2,
        _pods_end: 2,
        _boot: 2,
        _move_on: 3,
        _sweep: 1,
        _request: 1,
        _lose_files: 1,
        _clock: 1,
        _pause: 1,
        _throttle: 1,
        _brake: 1,
        _fill: 1,
        _groups: 1,
        _own_pods: 4,
    }.items()
    for _ in range(weight)
]
