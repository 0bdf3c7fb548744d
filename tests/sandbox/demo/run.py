"""The demo inside its private world: every stage in order, then what was found."""

from __future__ import annotations

import os
import traceback
from typing import Any, Final, Protocol

from tests.sandbox.demo import keeping
from tests.sandbox.demo.connectivity import check_matrix, check_services, check_world_outside
from tests.sandbox.demo.machine import RunningSandbox, needing, start_sandbox
from tests.sandbox.demo.report import Report, table
from tests.sandbox.demo.stages import (
    ALPHA,
    BETA,
    Scene,
    add_pods,
    deploy_stack,
    grow,
    launch,
    pod_table,
    shrink,
    start_agents,
    terminate,
)
from tests.sandbox.stack import Settings
from tests.sandbox.world_ns import PID_VARIABLE

__all__ = ["Tour", "run", "show_path"]

MUTATING: Final = (
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
)


class Tour(Protocol):
    """What a demo shows, once the sandbox is up."""

    def __call__(self, scene: Scene, *, keep: bool) -> None: ...


def run(report: Report, host_fd: int, *, keep: bool, port: int, tour: Tour, settings: Settings) -> int:
    """All stages; a failing one ends the demo, and the report says so. Returns the exit status."""
    scene: Scene | None = None
    sandbox: RunningSandbox | None = None
    try:
        with report.stage("the sandbox"):
            sandbox = start_sandbox(settings, host_fd, tied=not keep)
            scene = Scene(report, sandbox.endpoint)
            report.note(f"account, fabric and metadata are up; the API is at http://127.0.0.1:{port} meanwhile")
        with needing(sandbox):
            tour(scene, keep=keep)
    except KeyboardInterrupt:
        report.fail("interrupted")
        return 130
    except Exception as error:
        if sandbox is not None and (words := sandbox.last_words()):
            report.fail(words)
        else:
            report.fail(f"{type(error).__name__}: {error}")
            report.say("".join(traceback.format_exc(limit=-6)))
            _name_dead_agents(scene)
    if keep and scene is not None and sandbox is not None and not sandbox.last_words():
        _keep(scene, port)
    return 0 if report.ok else 1


def _name_dead_agents(scene: Scene | None) -> None:
    """An agent that is gone is why a stage waited in vain."""
    if scene is None:
        return
    for machine in scene.machines.values():
        if machine.node.init_pid() is not None and not machine.node.agent_alive():
            words = machine.node.log(lines=5) or "nothing"
            scene.report.fail(f"{machine.name}'s agent is not running; its log ends with: {words}")


def show_path(scene: Scene, *, keep: bool) -> None:
    """`make demo`: nodes, pods, packets, growth, shrinking, the end; then the counters of the whole run."""
    _stages(scene, keep=keep)
    _figures(scene)


def _stages(scene: Scene, *, keep: bool) -> None:
    report = scene.report
    with report.stage("sam build and deploy of template.yaml"):
        deploy_stack(scene)
    with report.stage("two nodes in two subnets"):
        launch(scene, [ALPHA, BETA])
    with report.stage("node agents"):
        start_agents(scene)
    alpha, beta = scene.machines["alpha"], scene.machines["beta"]
    with report.stage("20 pods"):
        add_pods(scene, alpha, 18, "web")
        add_pods(scene, beta, 2, "db")
        _tell(report, pod_table(scene.pods))
    with report.stage("every pod to every pod, by ping and TCP"):
        check_matrix(scene)
    with report.stage("the world outside, Services and NodePorts"):
        check_world_outside(scene)
        check_services(scene)
    with report.stage("growth: 30 more pods on one node"):
        burst = grow(scene, beta, 30)
        _tell(report, pod_table(burst))
        check_matrix(scene)
    with report.stage("shrink: the 30 pods go, their addresses return"):
        before, after = shrink(scene, beta, burst)
        report.figures["shrink"] = {"addresses_before": before, "addresses_after": after}
    if keep:
        report.note("KEEP=1: both nodes stay, so nothing is terminated")
        return
    with report.stage("one node is terminated"):
        report.figures.update(terminate(scene, beta))
        report.note("nothing of the node is left: no interface, no address")


def _tell(report: Report, lines: list[str]) -> None:
    for line in lines:
        report.note(line)


def _figures(scene: Scene) -> None:
    """Counters that must hold over the whole run, and the calls that it took."""
    report, stack = scene.report, scene.stack
    drops = stack.sandbox("fabric")
    report.say("\nPackets the fabric dropped")
    _tell(report, table(("WHY", "PACKETS"), sorted(drops.items())))
    report.figures["source_check_drops"] = drops["source_check_drops"]
    report.expect(drops["source_check_drops"] == 0, "no packet left a node with an address that was not its own")
    calls: dict[str, Any] = stack.sandbox("calls").get("function", {})
    ec2 = {
        name.partition(":")[2]: sum(outcomes.values()) for name, outcomes in calls.items() if name.startswith("ec2:")
    }
    report.say("\nEC2 calls by Berth's functions")
    _tell(report, table(("ACTION", "CALLS"), sorted(ec2.items())))
    report.figures["ec2_calls"] = ec2
    report.figures["ec2_mutating_calls"] = sum(ec2.get(action, 0) for action in MUTATING)
    report.note(f"{report.figures['ec2_mutating_calls']} of them change something")
    node_calls = stack.sandbox("calls").get("node", {})
    report.figures["node_calls"] = {name: sum(outcomes.values()) for name, outcomes in node_calls.items()}
    report.expect(not any(name.startswith("ec2:") for name in node_calls), "no node made an EC2 call")
    dead = {n: d for n, d in stack.sandbox("queues").items() if "DeadLetter" in n and any(d.values())}
    report.expect(not dead, "the dead-letter queues are empty")


def _keep(scene: Scene, port: int) -> None:
    nodes = {name: machine.node.init_pid() or 0 for name, machine in scene.machines.items()}
    pods = {p.pod.name: p.pod.netns for p in scene.pods}
    kept = keeping.Kept(int(os.environ[PID_VARIABLE]), port, nodes, pods)
    keeping.save(kept)
    scene.report.say()
    for line in keeping.instructions(kept):
        scene.report.say(line)
