"""Parts that fail: the agent, the control plane, single calls, and events that are lost, doubled or out of order."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from berth.contract import BODY, KIND, NODE, RECORD_KIND, Record, decode_record

from tests.e2e.scenes import (
    FunctionLog,
    assigned,
    blocks_shown,
    dead_letters,
    faults,
    mutations,
    new_scene,
    settle,
    tell,
)
from tests.sandbox.account import wait_for
from tests.sandbox.demo.connectivity import check_matrix
from tests.sandbox.demo.stages import Machine, Scene, add_pods, launch, remove_pods, start_agents
from tests.sandbox.landscape import REGION, NodeSpec, launch_node
from tests.sandbox.runtime import Pod
from tests.sandbox.stack import NETWORK_ENDPOINT

HOST: Final = NETWORK_ENDPOINT[0]
WIDE: Final = "wide"
"""A subnet with room for many prefixes: single addresses are taken anywhere, and each spoils a whole one."""
STATES: Final = ["pending", "running", "stopped", "shutting-down", "terminated"]
GROWING: Final = {"mode": "prefixes", "max-pods": "64", "warm-addresses": "4", "cooldown-seconds": "1"}
"""On a t3.medium: one prefix at first, and room for four more on the primary interface."""
TWO_LINKS: Final = {"mode": "prefixes", "max-pods": "32", "minimum-addresses": "20"}
"""On a t3.micro: one prefix on each of two interfaces."""


@dataclass(slots=True)
class Site:
    scene: Scene

    def record(self, machine: Machine) -> Record:
        record = self.scene.stack.record(machine.id)
        assert record is not None
        return record

    def node(self, name: str, tags: dict[str, str] | None = None, *, type_: str = "t3.medium") -> Machine:
        """A fresh node with its agent."""
        launch(self.scene, [NodeSpec(name, WIDE, type_, tags or GROWING)])
        machine = self.scene.machines[name]
        start_agents(self.scene, [machine])
        return machine

    def start_agent(self, machine: Machine, port: int = NETWORK_ENDPOINT[1]) -> None:
        """Start it again; with another port, nobody answers where it looks for AWS."""
        machine.node.start_agent({"AWS_ENDPOINT_URL": f"http://{HOST}:{port}"})
        wait_for(f"{machine.name}'s agent to answer", lambda: self.status(machine))

    def status(self, machine: Machine) -> dict[str, Any]:
        """What ``berth-node status`` says; empty while no agent answers."""
        return self.ask(machine, "status")

    def ask(self, machine: Machine, view: str) -> dict[str, Any]:
        done = machine.node.run([sys.executable, "-m", "berth_node", view, "--json"])
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return found

    def heard(self, machine: Machine) -> None:
        """Wait until a report that was built from now on has been accepted: what the node is now is known."""
        before = self.scene.stack.accepted(machine.id)
        # two, since the first may have been on its way already
        wait_for(
            f"two reports of {machine.name}",
            lambda: (
                self.scene.stack.accepted(machine.id).sequence >= before.sequence + 2
                or self.scene.stack.accepted(machine.id).boot > before.boot
            ),
            60,
        )
        settle(self.scene)

    @contextmanager
    def events_lost(self, *states: str) -> Iterator[None]:
        """No state change to one of ``states`` reaches Berth until the block ends."""
        events = self.scene.stack.client("events")
        rule = next(r for r in events.list_rules()["Rules"] if "State-change" in r.get("EventPattern", ""))
        pattern = json.loads(rule["EventPattern"])
        pattern["detail"]["state"] = [s for s in STATES if s not in states] or ["no such state"]
        events.put_rule(Name=rule["Name"], EventPattern=json.dumps(pattern))
        try:
            yield
        finally:
            events.put_rule(Name=rule["Name"], EventPattern=rule["EventPattern"])

    @contextmanager
    def functions_stopped(self) -> Iterator[None]:
        """Nothing reads the queues until the block ends."""
        functions = self.scene.stack.client("lambda")
        name = self.scene.stack.outputs["ReconcileFunctionName"]
        mappings = functions.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
        for mapping in mappings:
            functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
        try:
            yield
        finally:
            for mapping in mappings:
                functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True)

    def sweep(self) -> None:
        tell(self.scene, "fire", {"rule": "SweepRule"})

    def state_change(self, machine: Machine, state: str) -> None:
        detail = {"instance-id": machine.id, "state": state}
        tell(
            self.scene,
            "events",
            {"source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification", "detail": detail},
        )


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with new_scene(parameters={"ReconcileDelaySeconds": "2"}) as scene:
        _wide_subnet(scene)
        yield Site(scene)
        assert dead_letters(scene) == {}
        assert scene.stack.sandbox("fabric")["source_check_drops"] == 0


def _wide_subnet(scene: Scene) -> None:
    """Like the landscape's private subnets, and with their routes."""
    assert scene.landscape is not None
    ec2 = scene.stack.client("ec2")
    made = ec2.create_subnet(
        VpcId=scene.landscape.vpc,
        CidrBlock="10.0.16.0/20",
        AvailabilityZone=f"{REGION}a",
        TagSpecifications=[{"ResourceType": "subnet", "Tags": [{"Key": "berth:allowed", "Value": ""}]}],
    )
    scene.landscape.subnets[WIDE] = subnet = made["Subnet"]["SubnetId"]
    beside = [{"Name": "association.subnet-id", "Values": [scene.landscape.subnets["a"]]}]
    (table,) = ec2.describe_route_tables(Filters=beside)["RouteTables"]
    ec2.associate_route_table(RouteTableId=table["RouteTableId"], SubnetId=subnet)


@pytest.fixture(scope="module")
def alpha(site: Site) -> Machine:
    """A node with four pods, for tests that leave it as they found it."""
    machine = site.node("alpha")
    add_pods(site.scene, machine, 4, "alpha")
    return machine


def check_all(machine: Machine, site: Site) -> None:
    """CHECK finds every pod of the node as ADD left it."""
    for pod in site.scene.on(machine.name):
        machine.runtime.check(pod.pod)


class TestTheAgent:
    def test_pods_outlive_a_killed_agent_and_what_is_deleted_meanwhile_is_made_up_for(
        self, site: Site, alpha: Machine
    ) -> None:
        (gone,) = add_pods(site.scene, alpha, 1, "short-lived")
        alpha.node.stop_agent(signal.SIGKILL)
        assert all(check_matrix(site.scene).values())
        assert alpha.runtime.status() is None
        remove_pods(site.scene, alpha, [gone])
        assert len(list((alpha.node.dir / "run" / "spool").iterdir())) == 1
        site.start_agent(alpha)
        assert list((alpha.node.dir / "run" / "spool").iterdir()) == []
        kept = {p.pod.container_id: p.address for p in site.scene.on("alpha")}
        assert {p["container_id"]: p["address"] for p in site.ask(alpha, "pods")["pods"]} == kept
        check_all(alpha, site)
        assert all(check_matrix(site.scene).values())

    def test_an_add_that_meets_no_agent_waits_for_it(self, site: Site, alpha: Machine) -> None:
        alpha.node.stop_agent(signal.SIGKILL)
        with ThreadPoolExecutor(1) as threads:
            added = threads.submit(add_pods, site.scene, alpha, 1, "patient")
            site.start_agent(alpha)
            placed = added.result(60)
        remove_pods(site.scene, alpha, placed)

    def test_an_agent_that_starts_while_aws_is_unreachable_serves_from_its_copy_of_the_record(
        self, site: Site, alpha: Machine
    ) -> None:
        alpha.node.stop_agent()
        site.start_agent(alpha, port=9)
        assert alpha.runtime.status() is None
        placed = add_pods(site.scene, alpha, 2, "offline")
        check_all(alpha, site)
        assert all(check_matrix(site.scene).values())
        assert "refused" in wait_for("the trouble to be told", lambda: site.status(alpha)["trouble"])["record"].lower()
        remove_pods(site.scene, alpha, placed)
        alpha.node.stop_agent()
        boot = site.record(alpha).accepted.boot
        site.start_agent(alpha)
        wait_for("a report of the new agent", lambda: site.record(alpha).accepted.boot > boot)


class TestTheControlPlane:
    def test_without_functions_the_free_pool_serves_and_the_rest_waits_for_them(self, site: Site) -> None:
        machine = site.node("bravo")
        with ThreadPoolExecutor(1) as threads:
            with site.functions_stopped():
                add_pods(site.scene, machine, 16, "bravo")
                waiting = threads.submit(machine.runtime.add, Pod.new("bravo-more"))
                wait_for("the ADD to wait", lambda: site.status(machine)["waiting"] == 1)
                assert machine.runtime.status() is None
                check_all(machine, site)
                assert assigned(site.record(machine)) == 16
            assert waiting.result(60).ips
        assert assigned(site.record(machine)) == 32

    def test_a_node_stays_ready_while_table_and_queue_refuse_it(self, site: Site, alpha: Machine) -> None:
        refuse = [
            {"service": "dynamodb", "action": "GetItem", "times": None},
            {"service": "sqs", "action": "SendMessage", "times": None},
        ]
        with faults(site.scene, *refuse):
            placed = add_pods(site.scene, alpha, 3, "refused")
            wait_for("reports to fail", lambda: site.status(alpha)["report_failures"] > 0)
            assert alpha.runtime.status() is None
            check_all(alpha, site)
        site.heard(alpha)
        remove_pods(site.scene, alpha, placed)


class TestEvents:
    def test_a_lost_running_event_costs_a_delayed_look(self, site: Site) -> None:
        with site.events_lost("running"):
            launch(site.scene, [NodeSpec("charlie", WIDE, "t3.micro", TWO_LINKS)])
            machine = site.scene.machines["charlie"]
            both = wait_for("both interfaces", lambda: self.attached(site, machine, 2), 30)
        assert [len(i.assignments) for i in both.interfaces] == [1, 1]

    @staticmethod
    def attached(site: Site, machine: Machine, interfaces: int) -> Record | None:
        record = site.record(machine)
        return record if len(record.interfaces) == interfaces else None

    def test_a_node_of_which_no_event_told_is_found_by_the_sweep(self, site: Site) -> None:
        assert site.scene.landscape is not None
        with site.events_lost(*STATES):
            spec = NodeSpec("delta", WIDE, "t3.micro", TWO_LINKS)
            instance = launch_node(site.scene.endpoint, site.scene.landscape, spec)
            wait_for("it to run", lambda: site.scene.stack.state(instance) == "running")
            assert site.scene.stack.record(instance) is None
            site.sweep()
            wait_for("its addresses", lambda: assigned(site.scene.stack.record(instance)) == 32)

    def test_a_node_whose_end_no_event_told_is_cleaned_up_by_the_sweep(self, site: Site) -> None:
        """Its interface even outlives it here: the call that protects it was undone."""
        assert site.scene.landscape is not None
        subnet = site.scene.landscape.subnets[WIDE]
        free = site.scene.stack.free_addresses(subnet)
        launch(site.scene, [NodeSpec("echo", WIDE, "t3.micro", TWO_LINKS)])
        machine, stack = site.scene.machines["echo"], site.scene.stack
        wait_for("both interfaces", lambda: self.attached(site, machine, 2))
        settle(site.scene)
        ours = stack.interfaces(machine.id)[1]
        stack.client("ec2").modify_network_interface_attribute(
            NetworkInterfaceId=ours["NetworkInterfaceId"],
            Attachment={"AttachmentId": ours["Attachment"]["AttachmentId"], "DeleteOnTermination": False},
        )
        with site.events_lost(*STATES):
            stack.client("ec2").terminate_instances(InstanceIds=[machine.id])
            wait_for("it to be terminated", lambda: stack.state(machine.id) == "terminated")
            settle(site.scene)
            assert [i["Status"] for i in stack.interfaces_made_for(machine.id)] == ["available"]
            site.sweep()
            wait_for("its tombstone", lambda: self.buried(site, machine))
        assert stack.interfaces_made_for(machine.id) == []
        assert stack.free_addresses(subnet) == free

    @staticmethod
    def buried(site: Site, machine: Machine) -> bool:
        stack = site.scene.stack
        key = {NODE: {"S": stack.arn(machine.id)}, KIND: {"S": RECORD_KIND}}
        item = stack.client("dynamodb").get_item(TableName=stack.outputs["TableName"], Key=key)["Item"]
        return "expires_at" in item and decode_record(item[BODY]["S"]).interfaces == ()

    def test_events_that_come_twice_late_or_out_of_order_change_nothing(self, site: Site, alpha: Machine) -> None:
        """Even one that says the node is dead: EC2 is asked, and says that it runs."""
        settle(site.scene)
        before, record = mutations(site.scene), site.record(alpha)
        for state in ("running", "pending", "running", "terminated", "shutting-down", "stopped", "running", "pending"):
            site.state_change(alpha, state)
        settle(site.scene)
        assert mutations(site.scene) == before
        assert site.record(alpha).interfaces == record.interfaces
        check_all(alpha, site)


class TestCalls:
    def test_a_lost_answer_to_an_assignment_neither_leaks_nor_assigns_twice(self, site: Site) -> None:
        machine = site.node("foxtrot")
        with faults(site.scene, {"action": "AssignPrivateIpAddresses", "when": "after"}):
            add_pods(site.scene, machine, 18, "foxtrot", parallel=18)
        site.heard(machine)
        shown = blocks_shown(site.scene, machine)
        assert len(shown) == 2
        assert {a.cidr for i in site.record(machine).interfaces for a in i.assignments} == shown
        assert len({p.address for p in site.scene.on("foxtrot")}) == 18
        assert all(check_matrix(site.scene).values())

    @pytest.mark.parametrize("action", ["CreateNetworkInterface", "AttachNetworkInterface"])
    def test_a_lost_answer_on_the_way_to_an_interface_makes_no_second_one(self, site: Site, action: str) -> None:
        name = f"golf-{action[:6].lower()}"
        before = mutations(site.scene)
        with faults(site.scene, {"action": action, "when": "after"}):
            launch(site.scene, [NodeSpec(name, WIDE, "t3.micro", TWO_LINKS)])
            machine = site.scene.machines[name]
            wait_for("both interfaces", lambda: assigned(site.record(machine)) == 32)
        settle(site.scene)
        assert len(site.scene.stack.interfaces_made_for(machine.id)) == 1
        assert site.scene.stack.unattached_interfaces() == []
        assert (mutations(site.scene) - before)["AttachNetworkInterface"] <= 2

    @pytest.mark.parametrize(
        ("action", "metric"),
        [
            ("AssignPrivateIpAddresses", "AssignPrefixesFailed"),
            ("DescribeInstances", "DescribesDelayed"),
            ("DescribeNetworkInterfaces", "DescribesDelayed"),
        ],
    )
    def test_a_call_that_is_throttled_is_made_later_and_pods_wait_for_it(
        self, site: Site, action: str, metric: str
    ) -> None:
        machine, log = site.node(f"hotel-{action}"), FunctionLog(site.scene)
        throttled = {"action": action, "code": "RequestLimitExceeded", "status": 503, "times": None}
        with ThreadPoolExecutor(1) as threads:
            with faults(site.scene, throttled):
                added = threads.submit(add_pods, site.scene, machine, 18, action.lower(), 18)
                wait_for("EC2 to be out of tokens", lambda: log.metric(metric))
            assert len(added.result(60)) == 18
        site.heard(machine)
        assert len(blocks_shown(site.scene, machine)) == 2
        assert dead_letters(site.scene) == {}


@pytest.mark.long
class TestSpot:
    def test_a_node_that_is_taken_back_grows_for_pods_that_wait_but_not_to_stay_warm(self, site: Site) -> None:
        machine = site.node("india")
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        detail = {"instance-id": machine.id, "instance-action": "terminate", "time": now}
        warning = {"source": "aws.ec2", "detail-type": "EC2 Spot Instance Interruption Warning", "detail": detail}
        tell(site.scene, "events", warning)
        settle(site.scene)
        add_pods(site.scene, machine, 15, "india")
        site.heard(machine)
        assert assigned(site.record(machine)) == 16
        add_pods(site.scene, machine, 3, "india-late")
        assert assigned(site.record(machine)) == 32
