"""The VPC that `make demo-vpc` shows Berth in: nodes in private and public subnets, pods in subnets of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.sandbox.account import WaitedError, wait_for
from tests.sandbox.demo.asking import settle, use_public_subnet
from tests.sandbox.demo.stages import PlacedPod, Scene, add_pods, deploy_stack, launch, start_agents
from tests.sandbox.demo.vpc.telling import Telling
from tests.sandbox.echo import tcp_echo
from tests.sandbox.landscape import (
    ON_PREMISES_CIDR,
    PARTNER_CIDR,
    NodeSpec,
    add_pod_subnets,
    allowed_group,
    private_routes,
)

__all__ = ["CLOSED_PORT", "OPEN_PORT", "Site", "make_site"]

_QUICK: Final = {"warm-addresses": "2", "cooldown-seconds": "2"}
_PODS: Final = {"mode": "prefixes", "subnets": "pods=yes", "primary-serves-pods": "false", **_QUICK}
SPECS: Final = (
    NodeSpec("alpha", "a", "m5.large", {"mode": "prefixes", "subnets": "Name=private-a", **_QUICK}),
    NodeSpec("beta", "b", "t3.medium", {"mode": "prefixes", "subnets": "Name=private-b", **_QUICK}),
    NodeSpec("gamma", "a", "t3.medium", _PODS),
    NodeSpec("delta", "b", "t3.medium", _PODS),
    NodeSpec("edge", "p", "t3.medium", {"mode": "prefixes", "subnets": "Name=public-a", **_QUICK}),
    # one address at a time, so that the next pod has that of the last one
    NodeSpec("tiny", "b", "t3.micro", {"mode": "addresses", "subnets": "Name=private-b", "max-pods": "1", **_QUICK}),
)
PARAMETERS: Final = {
    "WatchCloudTrail": "true",
    "FlowAttribution": "true",
    "VpcId": "{vpc}",
    "PodGroupNamespaces": "payments=*",
}
OPEN_PORT, CLOSED_PORT = 8080, 9090
"""What the pods' own group lets in, and what it does not."""


@dataclass(slots=True)
class Site:
    """What the sections share: the scene, the report, two pods on nodes of two zones, a security group for pods."""

    scene: Scene
    telling: Telling
    group: str = ""
    pods: dict[str, PlacedPod] = field(default_factory=dict)

    @property
    def ec2(self) -> Any:
        return self.scene.stack.client("ec2")

    def add(self, machine: str, name: str, count: int = 1) -> list[PlacedPod]:
        """ADD pods, which end up as ``name-00`` and so on."""
        return add_pods(self.scene, self.scene.machines[machine], count, name)

    def sees(self, what: str, client: PlacedPod, address: str, expected: str) -> None:
        """A TCP connection, of which the server tells whom it was called by: it must become ``expected``."""
        self.becomes(what, lambda: tcp_echo(client.pod.netns, address).told, expected)

    def becomes(self, what: str, ask: Callable[[], str], expected: str, seconds: float = 60) -> None:
        """Ask until the answer is the expected one, or the time is over; tell the last answer."""
        told = ""

        def now() -> bool:
            nonlocal told
            told = ask()
            return told == expected

        with contextlib.suppress(WaitedError):  # told below, with what came instead
            wait_for(what, now, seconds)
        self.telling.seen(what, told, expected)


def make_site(scene: Scene, telling: Telling) -> Site:
    """Deploy, add pods' own subnets, launch, start agents, and put a pod on the nodes that everything is shown with."""
    report, site = scene.report, Site(scene, telling)
    with report.stage("sam build and deploy of template.yaml"):
        deploy_stack(scene, PARAMETERS)
    assert scene.landscape is not None
    with report.stage(f"{len(SPECS)} nodes, and subnets of 100.64.0.0/16 for pods"):
        add_pod_subnets(scene.endpoint, scene.landscape)
        # before the functions first look for groups: they do so once a minute
        site.group = allowed_group(site.ec2, scene.landscape.vpc, "card-data", OPEN_PORT)
        use_public_subnet(scene)
        _lead_to_vpn(scene)
        launch(scene, SPECS)
        start_agents(scene)
    with report.stage("pods"):
        for machine, name in (("alpha", "web"), ("beta", "db")):
            (site.pods[name],) = site.add(machine, name)
        _hurry(site)
        settle(scene)
    return site


def _lead_to_vpn(scene: Scene) -> None:
    """Every subnet's route table leads to what is behind the VPN, so that answers go back as they came."""
    assert scene.landscape is not None
    ec2, of_vpc = scene.stack.client("ec2"), {"Name": "vpc-id", "Values": [scene.landscape.vpc]}
    vpn = private_routes(ec2, scene.landscape).vpn
    for table in ec2.describe_route_tables(Filters=[of_vpc])["RouteTables"]:
        known = {route.get("DestinationCidrBlock") for route in table["Routes"]}
        for cidr in {ON_PREMISES_CIDR, PARTNER_CIDR} - known if "0.0.0.0/0" in known else ():
            ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock=cidr, GatewayId=vpn)


def _hurry(site: Site) -> None:
    """Changes that a trail tells of are looked at after a second, where an account collects them for ten."""
    functions = site.scene.stack.client("lambda")
    for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
        if "RouteChange" in mapping["EventSourceArn"]:
            functions.update_event_source_mapping(UUID=mapping["UUID"], MaximumBatchingWindowInSeconds=1)
