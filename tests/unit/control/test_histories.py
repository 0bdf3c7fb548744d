"""Random histories: whatever happens, in whatever order, no address in use is taken, nothing foreign is touched, and
once it is quiet everything is as it should be. A failure prints its seed: ``HISTORY_SEED=n`` runs that one alone."""

from __future__ import annotations

import logging
import os

import pytest
from berth.contract import Policy
from berth.growth import deficit
from berth.ingest import SentReport
from berth.model import NodePolicy, NodeView

from tests.unit.control.fakes import ARN_PREFIX
from tests.unit.control.history import Agent, World

SEEDS = [int(os.environ["HISTORY_SEED"])] if "HISTORY_SEED" in os.environ else list(range(180))
GROUPS = 12
HAPPENINGS = 140


def happen(world: World) -> None:
    """One thing happens."""
    rng, ec2 = world.rng, world.ec2
    world.machine.now += rng.choice([0, 0.1, 1, 5, 20])
    agents = [world.agents[i] for i in world.living()]
    if not agents or (len(world.agents) < 3 and rng.random() < 0.03):
        world.launch()
        return
    agent = rng.choice(agents)
    state = ec2.all_instances[agent.id].state
    match rng.choice("rrrrrpppdddssssseeeeeeeeewcfhl"):
        case "r" if state == "running":
            agent.read()
        case "p" if state == "running":
            for _ in range(rng.randint(1, 25)):
                agent.add_pod()
        case "d":
            for address in rng.sample(sorted(agent.used), rng.choice([1, len(agent.used)]) if agent.used else 0):
                agent.used.discard(address)
        case "s" if state == "running":
            agent.balance()
            world.send(agent)
        case "e":
            world.machine.dies_at = world.machine.steps + rng.randint(0, 25) if rng.random() < 0.15 else None
            world.invoke()
            world.machine.dies_at = None
        case "w":
            world.sweep()
        case "c":
            until = world.machine.now + 90
            world.tell(agent.id, "request", requested=30, requested_until=until, requested_at=world.machine.now)
        case "f" if state == "running":
            agent.lose_files()
        case "h":
            following = {"pending": "running", "running": rng.choice(["stopped", "shutting-down"])}
            world.change(agent.id, following.get(state, "pending" if state == "stopped" else "terminated"))
            if ec2.all_instances[agent.id].state == "stopped":
                agent.used.clear()
        case "l":
            ec2.add_foreign(agent.id)
        case _:
            world.change(agent.id, "running") if state == "pending" else None


def settle(world: World) -> None:
    """Quiet: every fault ends, every node runs or is gone, messages get through; agents go on as ever."""
    ec2 = world.ec2
    ec2.lag = ec2.lost = world.overlap = 0.0
    for instance_id, instance in list(ec2.all_instances.items()):
        if instance.state != "terminated":
            world.change(instance_id, "terminated" if instance.dead else "running")
    for turn in range(16):
        for instance_id in world.living():
            agent = world.agents[instance_id]
            agent.read()
            agent.balance()
            world.queue.put(SentReport(agent.id, agent.report()))
        if turn % 5 == 1:
            world.sweep()
        world.machine.now += 65
        while world.queue.due():
            world.invoke()


def check(world: World) -> None:
    ec2, store = world.ec2, world.store
    for instance_id, instance in ec2.all_instances.items():
        if instance.dead:
            left = [i for i in ec2.all_interfaces.values() if i.node == instance_id]
            item = store.items.get(instance.arn)
            assert not left, f"{instance_id} is gone and left {left}"
            assert item is None or (item.expires_at and not item.report and not item.intents), "no tombstone"
        else:
            alive(world, world.agents[instance_id])
    revisions: dict[str, int] = {}
    for record in store.history:
        assert record.revision >= revisions.get(record.instance_arn, 0)
        revisions[record.instance_arn] = record.revision
    assert not store.leases


def alive(world: World, agent: Agent) -> None:
    ec2 = world.ec2
    record = world.store.record(ARN_PREFIX + agent.id)
    assert record is not None
    ours = [i for i in ec2.all_interfaces.values() if i.node == agent.id]
    assert all(i.attachment and i.attachment.delete_on_termination for i in ours), "an interface is loose"
    shown = {(i.id, b) for i in (ec2.primary(agent.id), *ours) for b in i.blocks}
    listed = {(i.id, a.cidr) for i in record.interfaces for a in i.assignments}
    assert listed == shown
    before = list(ec2.calls)
    world.queue.ask([agent.id], "once more")
    world.invoke()
    assert ec2.calls == before, "a quiet node is still being changed"
    policy = NodePolicy(Policy(record.policy.mode, record.policy.warm_addresses, 0, record.policy.max_pods))
    instance = ec2.all_instances[agent.id]
    view = NodeView(instance, "demo", (ec2.primary(agent.id), *ours), record, report=agent.report())
    unmet = world.store.items[agent.arn].notes.unmet
    assert deficit(view, policy) <= 0 or unmet, "addresses are missing and nobody says so"


def run(seed: int) -> None:
    world = World(seed)
    world.ec2.lag = world.rng.choice([0, 2, 20])
    world.ec2.lost = world.rng.choice([0, 0.05, 0.2])
    world.overlap = world.rng.choice([0, 0.02, 0.1])
    for _ in range(HAPPENINGS):
        happen(world)
    settle(world)
    check(world)


@pytest.mark.parametrize("group", range(GROUPS))
def test_whatever_happens_the_promises_hold(group: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "berth")
    for seed in SEEDS[group::GROUPS]:
        try:
            run(seed)
        except BaseException:
            print(f"HISTORY_SEED={seed}")
            raise
