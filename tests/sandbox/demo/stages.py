"""What the demo does, stage by stage. Each function does one thing, says it, and gives what it found.

The end-to-end tests run the same functions in the same order and assert on what they give.
"""

from __future__ import annotations

import ipaddress
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from berth.contract import Record, address_count

from tests.sandbox.account import Account, wait_for
from tests.sandbox.cloud.deploy import deploy, this_runtime
from tests.sandbox.demo.report import Report, table
from tests.sandbox.landscape import (
    CLUSTER,
    PARTNER_CIDR,
    Landscape,
    NodeSpec,
    attach_node_policy,
    build_landscape,
    launch_node,
)
from tests.sandbox.node import Node
from tests.sandbox.runtime import Pod, Result, Runtime
from tests.sandbox.stack import NETWORK_ENDPOINT

__all__ = ["Machine", "PlacedPod", "Scene", "add_pods", "deploy_stack", "launch", "remove_pods", "start_agents"]

REPOSITORY: Final = Path(__file__).resolve().parents[3]
ALPHA: Final = NodeSpec(
    "alpha",
    "a",
    "m5.large",
    # 3 interfaces of 10 addresses: 18 pods need two of them
    {
        "mode": "addresses",
        "max-pods": "27",
        "warm-addresses": "2",
        "minimum-addresses": "18",
        "cooldown-seconds": "5",
    },
)
BETA: Final = NodeSpec(
    "beta",
    "b",
    "t3.micro",
    # 2 interfaces of 2 addresses, so one prefix each: more than 16 pods need both
    {"mode": "prefixes", "max-pods": "32", "warm-addresses": "4", "cooldown-seconds": "5"},
)


@dataclass(slots=True)
class Machine:
    """One launched instance and what the demo needs of it."""

    spec: NodeSpec
    id: str
    node: Node
    runtime: Runtime

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(frozen=True, slots=True)
class PlacedPod:
    """A pod that has its address, which is of IPv6 if it has no other. ``interface`` is the device index of the EC2
    interface that has it, or -1 if EC2 does not know it; ``ipv6`` is its IPv6 address, if it has one."""

    pod: Pod
    address: str
    machine: str
    interface: int
    seconds: float
    device: str = ""
    ipv6: str = ""


@dataclass(slots=True)
class Scene:
    """Everything that later stages need from earlier ones."""

    report: Report
    endpoint: str
    account: Account | None = None
    landscape: Landscape | None = None
    machines: dict[str, Machine] = field(default_factory=dict)
    pods: list[PlacedPod] = field(default_factory=list)
    free_before: dict[str, int] = field(default_factory=dict)

    @property
    def stack(self) -> Account:
        assert self.account is not None, "deploy_stack comes first"
        return self.account

    def on(self, machine: str) -> list[PlacedPod]:
        return [p for p in self.pods if p.machine == machine]


def deploy_stack(scene: Scene, parameters: Mapping[str, str] | None = None) -> dict[str, str]:
    """Make the VPC, deploy ``template.yaml``, and give the node role the stack's policy. Returns the outputs.

    ``parameters`` of the stack are added to those that the sandbox needs; "{vpc}" in one stands for the VPC's id.
    """
    scene.landscape = build_landscape(scene.endpoint)
    scene.report.note(f"VPC {scene.landscape.vpc}: a public subnet with a NAT gateway, two private ones, a VPN")
    outputs = deploy(
        scene.endpoint,
        REPOSITORY / "template.yaml",
        "berth",
        {
            "ClusterNames": CLUSTER,
            "LambdaRuntime": this_runtime(),
            "Architecture": "arm64" if platform.machine() == "aarch64" else "x86_64",
            # its route leads to the VPN, as that of on-premises does: all the same it is to see nodes
            "SnatCidrs": PARTNER_CIDR,
            **{name: value.replace("{vpc}", scene.landscape.vpc) for name, value in (parameters or {}).items()},
        },
        progress=scene.report.note,
    )
    attach_node_policy(scene.endpoint, outputs["NodePolicyArn"])
    scene.account = Account(scene.endpoint, outputs)
    subnets = scene.landscape.subnets
    scene.free_before = {zone: scene.stack.free_addresses(subnet) for zone, subnet in subnets.items()}
    return outputs


def launch(scene: Scene, specs: Sequence[NodeSpec]) -> dict[str, Record]:
    """RunInstances for each, then wait until each one's record holds what its policy asks for."""
    assert scene.landscape is not None, "deploy_stack comes first"
    for spec in specs:
        instance_id = launch_node(scene.endpoint, scene.landscape, spec)
        node = Node(instance_id)
        scene.machines[spec.name] = Machine(spec, instance_id, node, Runtime(node))
        scene.report.note(f"RunInstances: {spec.name} is {instance_id}, {spec.type}, {spec.tags['mode']}")
    records: dict[str, Record] = {}
    for spec in specs:
        machine = scene.machines[spec.name]
        wanted = int(spec.tags.get("minimum-addresses", "1"))
        records[spec.name] = wait_for(
            f"{spec.name} to have {wanted} addresses", partial(_with, scene, machine.id, wanted), 60
        )
        blocks = [a.cidr for i in records[spec.name].interfaces for a in i.assignments]
        count = len(records[spec.name].interfaces)
        scene.report.note(
            f"{spec.name}: {'1 interface' if count == 1 else f'{count} interfaces'}, "
            f"{sum(map(address_count, blocks))} addresses before any pod"
        )
    return records


def _with(scene: Scene, instance_id: str, addresses: int) -> Record | None:
    record = scene.stack.record(instance_id)
    if record is None:
        return None
    assigned = sum(address_count(a.cidr) for i in record.interfaces for a in i.assignments)
    return record if assigned >= addresses else None


def start_agents(scene: Scene, machines: Iterable[Machine] | None = None) -> None:
    """Plugin and settings as an installer leaves them, the agent started; wait until STATUS says that pods can come."""
    outputs = scene.stack.outputs
    host, port = NETWORK_ENDPOINT
    plugin = REPOSITORY / "build" / "plugin" / platform.machine() / "berth"
    for machine in machines or scene.machines.values():
        wait_for(f"{machine.name} to boot", machine.node.init_pid)
        machine.node.install_plugin(plugin)
        machine.node.write_agent_config(
            outputs["TableName"],
            outputs["NodeReportsQueueUrl"],
            surrender_hold_seconds=2.0,  # a demo should not take minutes to shrink
            report_interval_seconds=5.0,
        )
        machine.node.start_agent({"AWS_ENDPOINT_URL": f"http://{host}:{port}"})
    for machine in machines or scene.machines.values():
        names = wait_for(f"{machine.name}'s CNI configuration", partial(_configs, machine), 60)
        wait_for(f"{machine.name}'s STATUS", partial(_ready, machine))
        scene.report.note(f"{machine.name}: {names[0]} written, STATUS is ready")


def _configs(machine: Machine) -> tuple[str, ...]:
    return machine.node.status().cni_configs


def _ready(machine: Machine) -> bool:
    return machine.runtime.status() is None


def add_pods(scene: Scene, machine: Machine, count: int, prefix: str, parallel: int = 8) -> list[PlacedPod]:
    """ADD ``count`` pods, some at a time as a kubelet does. Raises the first failure, with the agent's log."""
    pods = [Pod.new(f"{prefix}-{n:02d}") for n in range(count)]
    try:
        with ThreadPoolExecutor(parallel) as threads:
            results = list(threads.map(machine.runtime.add, pods))
    except Exception:
        scene.report.note(machine.node.log(lines=10))
        raise
    placed = place(scene, machine, zip(pods, results, strict=True))
    scene.pods.extend(placed)
    spent = sorted(p.seconds * 1000 for p in placed)
    scene.report.note(
        f"{machine.name}: {count} pods, ADD p50 {spent[len(spent) // 2]:.0f} ms, slowest {spent[-1]:.0f} ms"
    )
    return placed


def place(scene: Scene, machine: Machine, made: Iterable[tuple[Pod, Result]]) -> list[PlacedPod]:
    """Where EC2 says that each address is: the pod's interface is what the account shows, not what the agent says."""
    interfaces = scene.stack.interfaces(machine.id)
    placed = []
    for pod, result in made:
        addresses = [ip.address.partition("/")[0] for ip in result.ips]
        holder = next((i for i in interfaces if _holds(i, addresses[0])), None)
        index = int(holder["Attachment"]["DeviceIndex"]) if holder else -1
        device = str(holder["NetworkInterfaceId"]) if holder else "nobody"
        ipv6 = next((address for address in addresses if ":" in address), "")
        placed.append(PlacedPod(pod, addresses[0], machine.name, index, result.seconds, device, ipv6))
    return placed


def _holds(interface: Mapping[str, Any], address: str) -> bool:
    """Whether it is a secondary address of the interface or in one of its prefixes."""
    single = {a["PrivateIpAddress"] for a in interface["PrivateIpAddresses"] if not a["Primary"]}
    prefixes = [p["Ipv4Prefix"] for p in interface.get("Ipv4Prefixes", [])]
    prefixes += [p["Ipv6Prefix"] for p in interface.get("Ipv6Prefixes", [])]
    return address in single or any(ipaddress.ip_address(address) in ipaddress.ip_network(p) for p in prefixes)


def pod_table(pods: Iterable[PlacedPod]) -> list[str]:
    """Pod → address → interface → node."""
    rows = [(p.pod.name, p.address, f"eth{p.interface}", p.device, p.machine) for p in pods]
    return table(("POD", "ADDRESS", "LINK", "INTERFACE", "NODE"), rows)


def remove_pods(scene: Scene, machine: Machine, pods: Sequence[PlacedPod], parallel: int = 8) -> None:
    """DEL each pod."""
    with ThreadPoolExecutor(parallel) as threads:
        list(threads.map(lambda p: machine.runtime.delete(p.pod), pods))
    gone = {p.pod.uid for p in pods}
    scene.pods = [p for p in scene.pods if p.pod.uid not in gone]


def grow(scene: Scene, machine: Machine, count: int) -> list[PlacedPod]:
    """More pods than the pool holds, all at once: the ADDs wait until the function has assigned more."""
    before = _assigned(scene, machine)
    begun = time.monotonic()
    placed = add_pods(scene, machine, count, "burst", parallel=count)
    scene.report.note(
        f"{machine.name}: from {before} to {_assigned(scene, machine)} addresses, "
        f"{count} pods in {time.monotonic() - begun:.1f} s"
    )
    return placed


def _assigned(scene: Scene, machine: Machine) -> int:
    record = scene.stack.record(machine.id)
    return sum(address_count(a.cidr) for i in record.interfaces for a in i.assignments) if record else 0


def shrink(scene: Scene, machine: Machine, pods: Sequence[PlacedPod]) -> tuple[int, int]:
    """The pods go; wait until the agent has surrendered and EC2 has unassigned what the target does not need.

    Returns the addresses that the record held before and after. Fails if a block in use was ever touched.
    """
    before = _assigned(scene, machine)
    remove_pods(scene, machine, pods)
    scene.report.note(f"{len(pods)} pods deleted; their addresses cool down, then the agent surrenders whole blocks")
    marked: set[str] = set()

    def smaller() -> int | None:
        record = scene.stack.record(machine.id)
        assert record is not None
        marked.update(a.cidr for i in record.interfaces for a in i.assignments if a.releasing)
        now = _assigned(scene, machine)
        return now if now < before and not any(a.releasing for i in record.interfaces for a in i.assignments) else None

    after = wait_for(f"{machine.name} to give addresses back", smaller, 90, every=0.05)
    scene.report.note(f"marked releasing, acknowledged, then unassigned: {', '.join(sorted(marked)) or 'nothing seen'}")
    scene.report.note(f"{machine.name}: from {before} to {after} addresses")
    return before, after


def terminate(scene: Scene, machine: Machine) -> dict[str, int]:
    """TerminateInstances, then wait until nothing of the node is left. Returns what was left at the end."""
    assert scene.landscape is not None
    subnet, zone = scene.landscape.subnets[machine.spec.subnet], machine.spec.subnet
    scene.stack.client("ec2").terminate_instances(InstanceIds=[machine.id])
    scene.pods = [p for p in scene.pods if p.machine != machine.name]

    def left() -> dict[str, int]:
        return {
            "interfaces_left": len(scene.stack.interfaces_made_for(machine.id))
            + len(scene.stack.interfaces(machine.id)),
            "unattached_left": len(scene.stack.unattached_interfaces()),
            "addresses_left": scene.free_before[zone] - scene.stack.free_addresses(subnet),
        }

    wait_for("the instance to be terminated", lambda: scene.stack.state(machine.id) == "terminated")
    wait_for("its interfaces and addresses to be given back", lambda: not any(left().values()), 60)
    return left()
