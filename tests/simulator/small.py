"""Small scenes, each with one function about to act: for trying every crash and every interleaving in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from berth.events import Signal
from berth.ingest import SentReport
from berth.model import Attachment

from tests.simulator.agent import Agent
from tests.simulator.happenings import SUBNET_A
from tests.simulator.world import World

__all__ = ["SCENES", "go_on", "knock", "lend_by_old_metadata", "node"]

NODE: Final = "i-00000000"
OTHER: Final = "i-00000001"


def _world(trace: Callable[[str], None] | None, cidr: str = "10.0.1.0/24") -> World:
    world = World(seed=1, trace=trace)
    world.cloud.add_subnet(SUBNET_A, cidr)
    return world


def _launched(world: World, kind: str = "m5.large", id: str = NODE, **tags: str) -> Agent:
    named = {f"berth:{k.replace('_', '-')}": v for k, v in {"warm_addresses": "4", **tags}.items()}
    world.cloud.launch(id, kind, SUBNET_A, named)
    world.cloud.set_state(id, "running")
    agent = world.agents[id] = Agent(id, world.rng, lent=world.promises.lent, took=world.promises.took)
    return agent


def node(world: World) -> Agent:
    return world.agents[NODE]


def knock(world: World, reason: str = "an event") -> None:
    """Something is heard of every node."""
    for instance_id in world.agents:
        world.queues.put(Signal(instance_id, reason))


def report(world: World) -> None:
    world.queues.put(SentReport(NODE, node(world).report()))


def see(world: World) -> Agent:
    """The agent reads the record and instance metadata."""
    agent = node(world)
    agent.look(world.cloud.attached(NODE))
    agent.read(world.table.record(agent.arn))
    agent.serve(world.kernel.now)
    return agent


def served(world: World) -> None:
    """The functions do whatever is due."""
    while world.queues.due():
        world.invoke()


def go_on(world: World, pods: int = 20, *, forgets: bool = False) -> None:
    """What happens on a node meanwhile: it takes back what it may, starts pods wherever there is room, wants more, and
    gets it. ``forgets``: it has lost its files, so that it does not know what it has surrendered."""
    if world.cloud.instances[NODE].state != "running":
        return
    if forgets:
        agent = node(world)
        agent.lose_files(world.table.record(agent.arn), world.kernel.now)
        agent.cooling.clear()
    for _ in range(3):
        agent = see(world)
        for surrender in sorted(agent.surrendered, key=lambda s: s.cidr):
            agent.take_back(surrender)
        for _ in range(pods - len(agent.used)):
            agent.add_pod()
        report(world)
        served(world)
        world.kernel.advance(5)


def lend_by_old_metadata(world: World, pods: int = 60) -> None:
    """The agent reads its record again and not instance metadata, and starts pods wherever there is room."""
    agent = node(world)
    if world.cloud.instances[NODE].state == "running":
        agent.read(world.table.record(agent.arn))
        for _ in range(pods - len(agent.used)):
            agent.add_pod()
        agent.waiting = 0


# ------------------------------------------------------------------------------------------------ the scenes


def launch(trace: Callable[[str], None] | None = None) -> World:
    """A node runs, and one prefix is all that it wants."""
    world = _world(trace)
    _launched(world)
    knock(world)
    return world


def second_interface(trace: Callable[[str], None] | None = None) -> World:
    """A node wants more than its primary interface holds: create, attach, DeleteOnTermination."""
    world = _world(trace)
    _launched(world, kind="t3.medium", minimum_addresses="90", max_pods="110")
    knock(world)
    return world


def surrender(trace: Callable[[str], None] | None = None) -> World:
    """A node has surrendered one of its two prefixes and has acknowledged the mark. No other prefix is free."""
    world = _world(trace, "10.0.1.0/26")
    _launched(world, warm_addresses="17")
    knock(world)
    served(world)
    agent = see(world)
    agent.give_up(agent.lendable()[-1])
    world.cloud.put_instance(
        replace(
            world.cloud.instances[NODE], tags=(("berth:warm-addresses", "4"), ("kubernetes.io/cluster/demo", "owned"))
        )
    )
    report(world)
    served(world)
    see(world)
    world.kernel.advance(70)
    report(world)
    return world


def death_during_creation(trace: Callable[[str], None] | None = None) -> World:
    """The function that creates an interface is killed after EC2 has done so, and the node dies."""
    world = second_interface(trace)
    while not any(i.node == NODE for i in world.cloud.interfaces.values()):
        world.invoke(dies_at=_steps_until_created())
        world.kernel.advance(130)
    world.cloud.set_state(NODE, "shutting-down")
    world.cloud.set_state(NODE, "terminated")
    knock(world, "terminated")
    return world


def _steps_until_created() -> int:
    """Steps a function makes in :func:`second_interface` up to and with its CreateNetworkInterface."""
    world = second_interface()
    process = world.invoke(steps=0)
    while not any(i.node == NODE for i in world.cloud.interfaces.values()):
        world.advance_background(world.background[0], 1)
    steps = process.steps
    world.end_background(kill=True)
    return steps


def death(trace: Callable[[str], None] | None = None) -> World:
    """A node with an attached interface whose DeleteOnTermination was taken away begins to shut down."""
    world = second_interface(trace)
    served(world)
    for view in world.cloud.attached(NODE):
        if view.node and view.attachment:
            world.cloud.put(replace(view, attachment=replace(view.attachment, delete_on_termination=False)))
    world.cloud.set_state(NODE, "shutting-down")
    knock(world, "shutting-down")
    return world


def changed_type(trace: Callable[[str], None] | None = None) -> World:
    """A stopped node's type is changed to one that allows fewer interfaces."""
    world = _world(trace)
    _launched(world, kind="m6i.xlarge", mode="addresses", minimum_addresses="50", max_pods="110")
    knock(world)
    served(world)
    world.cloud.set_state(NODE, "stopped")
    world.cloud.put_instance(replace(world.cloud.instances[NODE], type="m5.large"))
    knock(world, "stopped")
    return world


def foreign(trace: Callable[[str], None] | None = None) -> World:
    """Somebody else's interface takes the place that a new one would need."""
    world = second_interface(trace)
    for index in (1, 2):
        view = world.cloud.new_interface(SUBNET_A)
        world.promises.foreign.add(view.id)
        world.cloud.put(replace(view, attachment=Attachment(f"foreign-{index}", NODE, index, 0, "attached", True)))
    return world


def race(trace: Callable[[str], None] | None = None) -> World:
    """Two nodes want more than their primary interfaces hold, and one interface stands by."""
    world = _world(trace)
    world.keep_standby(SUBNET_A, prefixes=3, count=1)
    world.fill()
    _launched(world, kind="t3.small", minimum_addresses="90", max_pods="90")
    knock(world)
    _launched(world, kind="t3.small", id=OTHER, minimum_addresses="90", max_pods="90")
    return world


SCENES: Final[dict[str, Callable[..., World]]] = {
    scene.__name__: scene
    for scene in (launch, second_interface, surrender, death_during_creation, death, changed_type, foreign, race)
}
