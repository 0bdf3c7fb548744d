"""Pod subnets, routes beyond the VPC, the flat-network check, and the plan: what the VPC's layout does to packets."""

from __future__ import annotations

import ipaddress
from collections import Counter
from functools import partial
from typing import Any, Final

from tests.sandbox.demo.asking import berth, found, pings_stopped, primary, trail_tells
from tests.sandbox.demo.connectivity import INTERNET, ON_PREMISES, PARTNER
from tests.sandbox.demo.stages import PlacedPod, launch, start_agents
from tests.sandbox.demo.vpc.site import Site
from tests.sandbox.echo import EchoServers, tcp_echo
from tests.sandbox.landscape import ON_PREMISES_CIDR, PARTNER_CIDR, POD_SUBNETS, NodeSpec, pod_routes, private_routes
from tests.sandbox.ping import ping
from tests.sandbox.probe import Prober, Target

__all__ = ["show_check", "show_plan", "show_pod_subnets", "show_routes"]

_FULL: Final = 20
"""Pods on each node of the planned group."""
_GROUP: Final = tuple(
    NodeSpec(f"group-{zone}", zone, "t3.micro", {
        "mode": "prefixes", "max-pods": str(_FULL), "minimum-addresses": str(_FULL), "warm-addresses": "0",
        "subnets": f"Name=private-{zone}",
    })
    for zone in ("a", "b")
)  # fmt: skip
_CHECK: Final = ("check", "--stack", "berth")
_CHANGES: Final = (
    "AssignPrivateIpAddresses",
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
)


def show_pod_subnets(site: Site) -> None:
    """Pods in 100.64.0.0/16, by the zone of their node, while the nodes themselves stay in 10.0.0.0/16."""
    telling = site.telling
    with telling.section(3, "Pod subnets", "docs/pod-subnets.md"):
        telling.did("nodes gamma and delta carry berth:subnets = pods=yes and berth:primary-serves-pods = false")
        for machine, zone in (("gamma", "a"), ("delta", "b")):
            pods = site.add(machine, f"own-{zone}", 2)
            inside = [ipaddress.ip_address(p.address) in ipaddress.ip_network(POD_SUBNETS[zone]) for p in pods]
            names = ", ".join(f"{p.pod.name} {p.address}" for p in pods)
            telling.holds(f"pods of {machine} have addresses of {POD_SUBNETS[zone]}: {names}", all(inside))
            _serves_none(site, machine)
        own, web = site.scene.on("gamma")[0], site.pods["web"]
        _all_pairs(site, [*site.scene.on("gamma"), *site.scene.on("delta"), web])
        with EchoServers() as servers:
            servers.add("onprem", address=ON_PREMISES, name="on premises")
            site.sees(f"on premises is called by {own.pod.name}", own, ON_PREMISES, f"on premises {own.address}")


def _serves_none(site: Site, machine: str) -> None:
    shown = site.scene.stack.interfaces(site.scene.machines[machine].id)[0]
    served = len(shown["PrivateIpAddresses"]) - 1 + len(shown.get("Ipv4Prefixes", []))
    site.telling.holds(
        f"{machine}'s primary interface {shown['PrivateIpAddress']} has no address or prefix for pods", not served
    )


def _all_pairs(site: Site, pods: list[PlacedPod]) -> None:
    """Ping and TCP between every ordered pair; the server must see the client's own address."""
    with Prober(Target(p.pod.name, p.pod.netns, p.address) for p in pods) as prober:
        matrix = prober.matrix(("ping", "tcp"))
    whole = sum(kinds["ping"].ok and kinds["tcp"].ok for kinds in matrix.outcomes.values())
    subnets = len({p.address.rpartition(".")[0] for p in pods})
    what = f"pairs of {len(pods)} pods in {subnets} subnets connected by ping and TCP, with their own addresses"
    site.telling.seen(what, f"{whole} of {len(matrix.outcomes)}", f"{len(matrix.outcomes)} of {len(matrix.outcomes)}")


def show_routes(site: Site) -> None:
    """Who sees a pod's own address follows the route table, while the pod runs."""
    telling, scene, ec2 = site.telling, site.scene, site.ec2
    assert scene.landscape is not None
    pods, routes = (site.pods["web"], site.pods["db"]), private_routes(ec2, scene.landscape)
    with (
        telling.section(4, "Routes beyond the VPC", "docs/routes.md"),
        EchoServers() as servers,
    ):
        servers.add("onprem", address=ON_PREMISES, name="on premises")
        servers.add("onprem", address=PARTNER, name="partner")
        servers.add("internet", address=INTERNET, name="internet")
        telling.did(f"pods call {ON_PREMISES} and {PARTNER}, hosts behind the VPN; nobody listed their networks")
        for pod in pods:
            site.sees(f"on premises is called by {pod.pod.name} itself", pod, ON_PREMISES, f"on premises {pod.address}")
        for pod in pods:
            node = primary(scene, pod.machine)
            what = f"partner, excluded by SnatCidrs, is called by {pod.pod.name}'s node"
            site.sees(what, pod, PARTNER, f"partner {node}")
        routes.default_by_vpn(ec2)
        try:
            told = partial(trail_tells, scene, parameters={"routeTableId": routes.table})
            ec2.delete_route(RouteTableId=routes.table, DestinationCidrBlock=ON_PREMISES_CIDR)
            told("DeleteRoute")
            telling.did(f"the route to {ON_PREMISES_CIDR} is deleted; a default route to the VPN still leads there")
            for pod in pods:
                node = primary(scene, pod.machine)
                site.sees(f"on premises is called by {pod.pod.name}'s node", pod, ON_PREMISES, f"on premises {node}")
            ec2.create_route(RouteTableId=routes.table, DestinationCidrBlock=ON_PREMISES_CIDR, GatewayId=routes.vpn)
            told("CreateRoute")
            telling.did("the route is back; the pods have run on all the time")
            for pod in pods:
                what = f"on premises is called by {pod.pod.name} itself again"
                site.sees(what, pod, ON_PREMISES, f"on premises {pod.address}")
        finally:
            routes.default_by_nat(ec2)


def show_check(site: Site) -> None:
    """The check's matrix of this VPC; then an ACL and a route that break it: each is named, and packets agree."""
    telling, web, db = site.telling, site.pods["web"], site.pods["db"]
    with telling.section(7, "Flat-network check", "docs/flat-network.md"), EchoServers() as servers:
        servers.add(db.pod.netns, name="db")
        code, text = berth(site.scene, *_CHECK, codes=(0, 1))
        telling.command("berth check --stack berth", text, 40, leave_out="rewritten on the way")
        telling.holds("the check finds the network flat", code == 0)
        _packets(site, web, db, passing=True)
        with pings_stopped(site.scene) as acl:
            telling.did(f"a rule of the network ACL {acl} denies ICMP into db's subnet")
            broken = _broken(site, {acl})
            failing = {c["protocol"].upper() for c in broken["cells"] if c["passes"] != "yes"}
            telling.holds(f"the cells that do not pass are of {', '.join(sorted(failing))}", failing == {"ICMP"})
            _packets(site, web, db, passing=False)
        telling.did("the rule is deleted")
        _packets(site, web, db, passing=True)
        own = site.scene.on("gamma")[0]
        servers.add(own.pod.netns, name="own")
        _without_route(site, own)
        code, text = berth(site.scene, *_CHECK, codes=(0, 1))
        telling.holds(f"berth check: {text.strip().splitlines()[-1]}", code == 0)


def _broken(site: Site, culprits: set[str]) -> dict[str, Any]:
    """What the check says of a network that is broken: it names the culprits alone, and a remedy for each."""
    lines = berth(site.scene, *_CHECK, codes=(1,))[1].splitlines()
    verdict = next((n for n, line in enumerate(lines) if "cells do not pass" in line), 0)
    site.telling.command("berth check --stack berth", "\n".join(lines[verdict:]), 4)
    broken = found(site.scene, *_CHECK, codes=(1,))
    named = {c["resource"] for c in broken["causes"]}
    what = f"the check names {', '.join(sorted(named))} and nothing else, and a remedy"
    site.telling.holds(what, named == culprits and all(c["remedy"] for c in broken["causes"]))
    return broken


def _without_route(site: Site, own: PlacedPod) -> None:
    """A client behind the VPN whose network the pods' own route table does not know: answers go astray."""
    routes = pod_routes(site.ec2)
    gone = {"RouteTableId": routes.table, "DestinationCidrBlock": PARTNER_CIDR}

    def called() -> str:
        return tcp_echo("onprem", own.address, source=PARTNER, timeout=1).told

    site.becomes(f"a client at {PARTNER} calls {own.pod.name}", called, f"own {PARTNER}", 10)
    site.ec2.delete_route(**gone)
    site.telling.did(f"the route to {PARTNER_CIDR} is deleted from {routes.table}, the pods' own table")
    _broken(site, {routes.nat})
    site.becomes(f"a client at {PARTNER} calls {own.pod.name}", called, "timeout", 10)
    site.ec2.create_route(**gone, GatewayId=routes.vpn)
    site.telling.did("the route is back")
    site.becomes(f"a client at {PARTNER} calls {own.pod.name}", called, f"own {PARTNER}", 10)


def _packets(site: Site, one: PlacedPod, other: PlacedPod, *, passing: bool) -> None:
    """A ping and a TCP connection from one pod to another."""

    def pinged() -> str:
        return "answered" if ping(one.pod.netns, other.address, timeout=1).ok else "lost"

    between = f"{one.pod.name} → {other.pod.name}"
    site.becomes(f"a ping {between}", pinged, "answered" if passing else "lost", 10)
    site.telling.seen(f"TCP {between}", tcp_echo(one.pod.netns, other.address).told, f"db {one.address}")


def show_plan(site: Site) -> None:
    """What the plan says of two full nodes before they are launched, beside what EC2 shows when they are full."""
    telling, scene = site.telling, site.scene
    assert scene.landscape is not None
    with telling.section(8, "Capacity plan", "docs/capacity.md"):
        words = ["plan", "--instance-type", _GROUP[0].type, "--mode", "prefixes", "--max-pods", str(_FULL), "--nodes"]
        words += [str(len(_GROUP)), *(w for z in ("a", "b") for w in ("--subnet", scene.landscape.subnets[z]))]
        _, text = berth(scene, *words)
        telling.command(f"berth {' '.join(words)}", text, 40)
        planned = found(scene, *words)
        before, free = _changes(site), _free(site)
        telling.did(f"two such nodes are launched, and filled with {_FULL} pods each")
        launch(scene, _GROUP)
        start_agents(scene, [scene.machines[spec.name] for spec in _GROUP])
        pods = [pod for spec in _GROUP for pod in site.add(spec.name, spec.name, _FULL)]
        _compare(site, planned, before, free)
        _all_pairs(site, [*pods[:3], *pods[-3:]])


def _compare(site: Site, planned: dict[str, Any], before: Counter[str], free: int) -> None:
    """Each figure of the plan, and what EC2 shows and has counted."""
    interfaces = [i for spec in _GROUP for i in site.scene.stack.interfaces(site.scene.machines[spec.name].id)]
    prefixes = sum(len(i.get("Ipv4Prefixes", [])) for i in interfaces)
    every, calls = planned["all"], {c["action"]: c["count"] for c in planned["calls"]}
    used = {
        "prefixes of 16 addresses": (every["blocks"], prefixes),
        "interfaces": (every["interfaces"], len(interfaces)),
        "addresses of the subnets": (every["subnet_addresses"], free - _free(site)),
    }
    made = _changes(site) - before
    used |= {f"calls of {action}": (calls.get(action, 0), made[action]) for action in _CHANGES}
    for name, (plan, real) in used.items():
        site.telling.holds(f"{name}: {plan} planned, {real} used", plan == real)


def _free(site: Site) -> int:
    assert site.scene.landscape is not None
    return sum(site.scene.stack.free_addresses(site.scene.landscape.subnets[zone]) for zone in ("a", "b"))


def _changes(site: Site) -> Counter[str]:
    """Calls of Berth's functions so far, by action."""
    calls = site.scene.stack.sandbox("calls").get("function", {})
    return Counter({a: sum(calls.get(f"ec2:{a}", {}).values()) for a in _CHANGES})
