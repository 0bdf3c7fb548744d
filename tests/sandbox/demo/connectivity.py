"""Real packets: every pod to every pod, the world outside, Services and NodePorts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tests.sandbox.demo.stages import PlacedPod, Scene
from tests.sandbox.echo import PORT, EchoServers, tcp_echo, udp_echo
from tests.sandbox.kubeproxy import MODES, KubeProxy, Mode, ServicePort
from tests.sandbox.probe import Prober, Target

__all__ = ["check_matrix", "check_services", "check_world_outside"]

INTERNET: Final = "198.51.100.10"
ON_PREMISES: Final = "192.168.50.10"
PARTNER: Final = "172.30.9.10"
"""A host beyond the VPN that the no-SNAT list does not know."""
_WAYS: Final = ((tcp_echo, "TCP"), (udp_echo, "UDP"))


def check_matrix(scene: Scene) -> dict[tuple[str, str], bool]:
    """Ping and TCP between every ordered pair. The network is flat and whole: the pod itself must answer, it must see
    the client's own address, and no packet may be lost."""
    pods, report = scene.pods, scene.report
    with Prober(Target(p.pod.name, p.pod.netns, p.address) for p in pods) as prober:
        matrix = prober.matrix(("ping", "tcp"))
    pairs = {pair: kinds["ping"].ok and kinds["tcp"].ok for pair, kinds in matrix.outcomes.items()}
    _summary(scene, pairs)
    for problem in matrix.failures()[:10]:
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
    with EchoServers() as servers:
        servers.add("internet", address=INTERNET, name="internet")
        servers.add("onprem", address=ON_PREMISES, name="onprem")
        servers.add("onprem", address=PARTNER, name="partner")
        for pod in _both_links(scene):
            link, inside = f"a pod on eth{pod.interface}", pod.pod.netns
            servers.add(inside, name=pod.pod.name)
            node = scene.stack.interfaces(scene.machines[pod.machine].id)[0]["PrivateIpAddress"]
            seen = tcp_echo(inside, PARTNER).told
            report.expect(seen == f"partner {node}", f"{link} reaches an excluded network as its node: {seen}")
            for how, name in _WAYS:
                seen = how(inside, INTERNET).told
                report.expect(seen == f"internet {public}", f"{link} reaches the internet as {public} ({name}): {seen}")
                seen = how(inside, ON_PREMISES).told
                kept = f"onprem {pod.address}"
                report.expect(seen == kept, f"{link} reaches on-premises with its own address ({name}): {seen}")
            seen = tcp_echo("onprem", pod.address, source=PARTNER).told
            expected = f"{pod.pod.name} {PARTNER}"
            report.expect(seen == expected, f"a client outside the no-SNAT list reaches {link}: {seen}")
            seen = tcp_echo(_on(scene, "beta", 0).pod.netns, pod.address, port=9).told
            report.expect(seen == "refused", f"a closed port on {link} answers with a reset: {seen}")


def check_services(scene: Scene) -> None:
    """Services as kube-proxy writes them, NodePorts with a backend elsewhere, and the interface's own address."""
    alpha, beta = scene.machines["alpha"], scene.machines["beta"]
    for mode in MODES:
        backends = {"the same node": _on(scene, "alpha", 0), "the other node": _on(scene, "beta", 0)}
        services = [_service(n + 1, pod) for n, pod in enumerate(backends.values())]
        proxies = [KubeProxy(machine.id, mode) for machine in (alpha, beta)]
        with EchoServers() as servers:
            for pod in backends.values():
                servers.add(pod.pod.netns, name=pod.pod.name)
            try:
                for proxy in proxies:
                    proxy.apply([*services, *(replace(service, protocol="udp") for service in services)])
                for service, (where, pod) in zip(services, backends.items(), strict=True):
                    _check_service(scene, mode, service, where, pod)
            finally:
                for proxy in proxies:
                    proxy.remove()
    _check_own_interface(scene)


def _service(number: int, backend: PlacedPod) -> ServicePort:
    name, endpoints = f"{backend.pod.name}-service", (f"{backend.address}:{PORT}",)
    return ServicePort(name, f"10.100.0.{number}", 80, endpoints, node_port=30000 + number)


def _check_service(scene: Scene, mode: Mode, service: ServicePort, where: str, backend: PlacedPod) -> None:
    report = scene.report
    client = _on(scene, "alpha", 1)
    for how, name in _WAYS:
        seen = how(client.pod.netns, service.cluster_ip, service.port).told
        wanted = f"{backend.pod.name} {client.address}"
        text = f"{mode}: a pod on eth1 reaches a Service with its backend on {where} ({name})"
        report.expect(seen == wanted, f"{text}: {seen}")
    if where == "the other node":
        node = _primary_address(scene, "alpha")
        for source, netns in (("a pod on eth1", client.pod.netns), ("a host outside", "onprem")):
            seen = tcp_echo(netns, node, service.node_port, source=PARTNER if netns == "onprem" else "").told
            held = seen.startswith(backend.pod.name + " ")
            report.expect(held, f"{mode}: {source} reaches a NodePort with its backend on {where}: {seen}")


def _check_own_interface(scene: Scene) -> None:
    """A pod on a secondary interface talks to that interface's own primary address, which is the node's."""
    pod, machine = _on(scene, "alpha", 1), scene.machines["alpha"]
    own = scene.stack.interfaces(machine.id)[1]["PrivateIpAddress"]
    with EchoServers() as servers:
        servers.add(machine.id, name="alpha")
        seen = tcp_echo(pod.pod.netns, own).told
        scene.report.expect(
            seen == f"alpha {pod.address}", f"a pod on eth1 reaches its own interface's address {own}: {seen}"
        )


def _primary_address(scene: Scene, name: str) -> str:
    return str(scene.stack.interfaces(scene.machines[name].id)[0]["PrivateIpAddress"])


def _nat_address(scene: Scene) -> str:
    gateways = scene.stack.client("ec2").describe_nat_gateways()["NatGateways"]
    return str(gateways[0]["NatGatewayAddresses"][0]["PublicIp"])
