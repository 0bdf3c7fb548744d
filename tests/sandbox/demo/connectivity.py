"""Real packets: every pod to every pod, the world outside, Services and NodePorts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tests.sandbox.demo.stages import PlacedPod, Scene
from tests.sandbox.icmp import ping_all
from tests.sandbox.services import MODES, Service, clear
from tests.sandbox.traffic import PORT, Servers, tcp, tcp_all, udp

__all__ = ["check_matrix", "check_services", "check_world_outside"]

INTERNET: Final = "198.51.100.10"
ON_PREMISES: Final = "192.168.50.10"
PARTNER: Final = "172.30.9.10"
"""A host beyond the VPN that the no-SNAT list does not know."""


def check_matrix(scene: Scene) -> dict[tuple[str, str], bool]:
    """Ping and TCP between every ordered pair. The network is flat: a server must see the pod's own address."""
    pods, report = scene.pods, scene.report
    pairs: dict[tuple[str, str], bool] = {}
    problems: list[str] = []
    with Servers() as servers:
        for pod in pods:
            servers.add(pod.pod.netns, pod.pod.name)
        for source in pods:
            others = {p.address: p for p in pods if p is not source}
            echoes, answers = ping_all(source.pod.netns, others), tcp_all(source.pod.netns, others)
            for address, target in others.items():
                wanted = f"{target.pod.name} {source.address}"
                held = echoes[address] is not None and answers[address] == wanted
                pairs[source.pod.name, target.pod.name] = held
                if not held:
                    how = "answers" if echoes[address] is not None else "is silent"
                    problems.append(f"{source.pod.name} → {target.pod.name}: ping {how}, TCP {answers[address]}")
    _summary(scene, pairs)
    for problem in problems[:10]:
        report.note(problem)
    report.figures |= {"pods": len(pods), "pairs": len(pairs), "pairs_connected": sum(pairs.values())}
    report.expect(all(pairs.values()), f"{len(pairs)} pairs of {len(pods)} pods connected by ping and by TCP")
    return pairs


def _summary(scene: Scene, pairs: dict[tuple[str, str], bool]) -> None:
    """The matrix by where the pods are: connected pairs of all pairs."""
    place = {p.pod.name: f"{p.machine}/eth{p.interface}" for p in scene.pods}
    places = sorted(set(place.values()))
    report, width = scene.report, max(len(p) for p in places) + 2
    report.note("from \\ to".ljust(width + 2) + "".join(p.ljust(width) for p in places))
    for row in places:
        cells = []
        for column in places:
            held = [ok for (a, b), ok in pairs.items() if place[a] == row and place[b] == column]
            cells.append(f"{sum(held)}/{len(held)}".ljust(width))
        report.note(row.ljust(width + 2) + "".join(cells))


def _on(scene: Scene, machine: str, link: int) -> PlacedPod:
    return next(p for p in scene.pods if p.machine == machine and p.interface == link)


def _both_links(scene: Scene) -> Sequence[PlacedPod]:
    return (_on(scene, "alpha", 0), _on(scene, "alpha", 1))


def check_world_outside(scene: Scene) -> None:
    """Internet through NAT, on-premises with the pod's own address, a client from outside, closed ports."""
    report = scene.report
    public = _nat_address(scene)
    with Servers() as servers:
        servers.add("internet", "internet", INTERNET)
        servers.add("onprem", "onprem", ON_PREMISES)
        for pod in _both_links(scene):
            link, inside = f"a pod on eth{pod.interface}", pod.pod.netns
            servers.add(inside, pod.pod.name)
            for how, name in ((tcp, "TCP"), (udp, "UDP")):
                seen = how(inside, INTERNET)
                report.expect(seen == f"internet {public}", f"{link} reaches the internet as {public} ({name}): {seen}")
                seen = how(inside, ON_PREMISES)
                kept = f"onprem {pod.address}"
                report.expect(seen == kept, f"{link} reaches on-premises with its own address ({name}): {seen}")
            seen = tcp("onprem", pod.address, source=PARTNER)
            expected = f"{pod.pod.name} {PARTNER}"
            report.expect(seen == expected, f"a client outside the no-SNAT list reaches {link}: {seen}")
            seen = tcp(_on(scene, "beta", 0).pod.netns, pod.address, port=9)
            report.expect(seen == "refused", f"a closed port on {link} answers with a reset: {seen}")


def check_services(scene: Scene) -> None:
    """Services as kube-proxy writes them, NodePorts with a backend elsewhere, and the interface's own address."""
    alpha, beta = scene.machines["alpha"], scene.machines["beta"]
    for mode, load in MODES.items():
        backends = {"the same node": _on(scene, "alpha", 0), "the other node": _on(scene, "beta", 0)}
        services = [Service(n + 1, pod.address) for n, pod in enumerate(backends.values())]
        with Servers() as servers:
            for pod in backends.values():
                servers.add(pod.pod.netns, pod.pod.name)
            for machine in (alpha, beta):
                load(machine.id, services)
            try:
                for service, (where, pod) in zip(services, backends.items(), strict=True):
                    _check_service(scene, mode, service, where, pod)
            finally:
                for machine in (alpha, beta):
                    clear(machine.id)
    _check_own_interface(scene)


def _check_service(scene: Scene, mode: str, service: Service, where: str, backend: PlacedPod) -> None:
    report = scene.report
    client = _on(scene, "alpha", 1)
    ways: tuple[tuple[Callable[..., str], str], ...] = ((tcp, "TCP"), (udp, "UDP"))
    for how, name in ways:
        seen = how(client.pod.netns, service.address, PORT)
        wanted = f"{backend.pod.name} {client.address}"
        text = f"{mode}: a pod on eth1 reaches a Service with its backend on {where} ({name})"
        report.expect(seen == wanted, f"{text}: {seen}")
    if where == "the other node":
        node = _primary_address(scene, "alpha")
        for source, netns in (("a pod on eth1", client.pod.netns), ("a host outside", "onprem")):
            seen = tcp(netns, node, service.node_port, source=PARTNER if netns == "onprem" else "")
            held = seen.startswith(backend.pod.name + " ")
            report.expect(held, f"{mode}: {source} reaches a NodePort with its backend on {where}: {seen}")


def _check_own_interface(scene: Scene) -> None:
    """A pod on a secondary interface talks to that interface's own primary address, which is the node's."""
    pod, machine = _on(scene, "alpha", 1), scene.machines["alpha"]
    own = scene.stack.interfaces(machine.id)[1]["PrivateIpAddress"]
    with Servers() as servers:
        servers.add(machine.id, "alpha")
        seen = tcp(pod.pod.netns, own)
        scene.report.expect(
            seen == f"alpha {pod.address}", f"a pod on eth1 reaches its own interface's address {own}: {seen}"
        )


def _primary_address(scene: Scene, name: str) -> str:
    return str(scene.stack.interfaces(scene.machines[name].id)[0]["PrivateIpAddress"])


def _nat_address(scene: Scene) -> str:
    gateways = scene.stack.client("ec2").describe_nat_gateways()["NatGateways"]
    return str(gateways[0]["NatGatewayAddresses"][0]["PublicIp"])
