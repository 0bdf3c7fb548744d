"""Public addresses and security groups of pods: what EC2 gives instances, for one pod beside its neighbour."""

from __future__ import annotations

from typing import Any, Final

from tests.sandbox.demo.asking import add_annotated
from tests.sandbox.demo.connectivity import INTERNET
from tests.sandbox.demo.stages import PlacedPod, remove_pods
from tests.sandbox.demo.vpc.site import CLOSED_PORT, OPEN_PORT, Site
from tests.sandbox.echo import EchoServers, tcp_echo, udp_echo
from tests.sandbox.waiting import eventually

__all__ = ["show_groups", "show_public_addresses"]

_POOL: Final = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "berth:public-pool", "Value": "edge"}]}]


def show_public_addresses(site: Site) -> None:
    """A pod with an Elastic IP of its own, and its neighbour, which leaves as the node."""
    telling, scene, edge = site.telling, site.scene, site.scene.machines["edge"]
    with telling.section(1, "Public addresses for pods", "docs/public-addresses.md"), EchoServers() as servers:
        elastic = site.ec2.allocate_address(Domain="vpc", TagSpecifications=_POOL)
        public, allocation = elastic["PublicIp"], elastic["AllocationId"]
        telling.did(f"an Elastic IP, {public}, is tagged berth:public-pool = edge; node edge is in a public subnet")
        shop = add_annotated(scene, edge, "shop", {"berth/public-address": "auto"})
        (plain,) = site.add("edge", "plain")
        telling.did(f"pod shop has berth/public-address: auto, its neighbour {plain.pod.name} has not")
        held = _associated(site, allocation)
        telling.holds(f"EC2 shows {public} at {held}, the private address of shop", held == shop.address)
        servers.add("internet", address=INTERNET, name="internet")
        servers.add(shop.pod.netns, name="shop")
        for how, name in ((tcp_echo, "TCP"), (udp_echo, "UDP")):
            told = how(shop.pod.netns, INTERNET).told
            telling.seen(f"a server on the internet is called by shop, {name}", told, f"internet {public}")
            told = how("internet", public).told
            telling.seen(f"the internet calls {public}, {name}, and is answered by", told, f"shop {INTERNET}")
        node = scene.stack.interfaces(edge.id)[0]["Association"]["PublicIp"]
        told = tcp_echo(plain.pod.netns, INTERNET).told
        telling.seen(f"the same server is called by {plain.pod.name} as its node, {node}", told, f"internet {node}")
        told = tcp_echo(plain.pod.netns, shop.address).told
        telling.seen(f"{plain.pod.name} calls shop by its private address", told, f"shop {plain.address}")
        remove_pods(scene, edge, [shop])
        free = eventually(lambda: not _associated(site, allocation), 60)
        telling.holds(f"shop is deleted: {public} is associated with nothing, free for the next pod", free)


def _associated(site: Site, allocation: str) -> str:
    """The private address that an Elastic IP address is associated with, or nothing."""
    (shown,) = site.ec2.describe_addresses(AllocationIds=[allocation])["Addresses"]
    return str(shown.get("PrivateIpAddress") or "")


def show_groups(site: Site) -> None:
    """A pod with a security group of its own on an interface of its own; its neighbour stays in the node's groups."""
    telling, scene, alpha = site.telling, site.scene, site.scene.machines["alpha"]
    with telling.section(2, "Security groups per pod", "docs/security-groups.md"), EchoServers() as servers:
        telling.did(f"security group {site.group} lets in TCP {OPEN_PORT} alone; namespace payments may name it")
        wanted = {"berth/security-groups": site.group}
        cards, near, far = add_annotated(scene, alpha, "cards", wanted, "payments"), site.pods["web"], site.pods["db"]
        telling.did(f"pod payments/cards on node alpha has that group; its neighbour is {near.pod.name}")
        (own,) = _own_interfaces(site)
        groups = [group["GroupId"] for group in own["Groups"]]
        right = (own["PrivateIpAddress"], groups) == (cards.address, [site.group])
        telling.holds(f"EC2 shows {own['NetworkInterfaceId']}: {own['PrivateIpAddress']}, {groups[0]}", right)
        named = (("cards", cards), (near.pod.name, near), (far.pod.name, far))
        for name, pod in named:
            for port in (OPEN_PORT, CLOSED_PORT):
                servers.add(pod.pod.netns, port, name=name)
        for client, where in ((near, "on the same node"), (far, "on another node")):
            _calls(site, client, where, "cards", cards, {OPEN_PORT: f"cards {client.address}", CLOSED_PORT: "timeout"})
        free = f"{near.pod.name} {far.address}"
        _calls(site, far, "on another node", near.pod.name, near, {OPEN_PORT: free, CLOSED_PORT: free})
        told = tcp_echo(cards.pod.netns, far.address, CLOSED_PORT).told
        telling.seen(f"cards calls {far.pod.name}: groups let out all", told, f"{far.pod.name} {cards.address}")
        remove_pods(scene, alpha, [cards])
        gone = eventually(lambda: not _own_interfaces(site), 60)
        telling.holds(f"cards is deleted: {own['NetworkInterfaceId']} is gone", gone)


def _calls(site: Site, client: PlacedPod, where: str, name: str, pod: PlacedPod, expected: dict[int, str]) -> None:
    """TCP from one pod to ports of another."""
    for port, told in expected.items():
        answer = tcp_echo(client.pod.netns, pod.address, port, timeout=1).told
        site.telling.seen(f"{client.pod.name}, {where}, calls {name} at port {port}", answer, told)


def _own_interfaces(site: Site) -> list[dict[str, Any]]:
    """Interfaces that are a pod's own, as EC2 has them."""
    tagged = [{"Name": "tag-key", "Values": ["berth:pod"]}]
    return list(site.ec2.describe_network_interfaces(Filters=tagged)["NetworkInterfaces"])
