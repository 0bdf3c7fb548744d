"""The real systemd-networkd on a node of two interfaces: what `berth-node install` writes makes it leave ours alone.

Debian's networkd and dbus-daemon, in the node's network namespace and on the private world's own /run and /etc. There
is no udev: with a read-only /sys networkd does not wait for it (systemd's container interface), so `.link` files are
not tried. The agent is stopped where networkd is judged: it would put right at once what networkd takes away.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from berth.contract import Assignment, Interface
from berth_node.usable import MetadataInterface

from tests.netns.agent.conftest import MAC, ROOT, Site, eventually, node, record, shown
from tests.sandbox import netns
from tests.sandbox.ping import ping

NETWORKD = Path("/lib/systemd/systemd-networkd")
NODE, FAR = "networkd-node", "networkd-far"
SECOND_MAC = "02:aa:00:00:00:02"
FIRST, SECOND = "10.0.1.16/28", "10.0.2.16/28"
FILES = Path("/etc/systemd/network")
RUN = Path("/run/systemd/netif")
IMAGE = "[Match]\nName=eth* eni*\n\n[Network]\nAddress=10.9.9.9/24\n"
"""An image's own file for whatever link there is; an address shows that it was followed, without a DHCP server."""
PRIMARY = "[Match]\nName=eth0\n\n[Network]\nAddress=10.0.1.5/24\nGateway=10.0.1.1\n"


def in_node(*argv: str) -> str:
    return netns.run(NODE, argv).stdout


def listed(*argv: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(in_node("ip", "-j", *argv) or "[]")
    return found


@pytest.fixture
def two_interfaces(tmp_path: Path, plugin: Path) -> Iterator[Site]:
    """A node with a prefix on each of two interfaces; at the far end of both is the router of their subnets."""
    for name in (NODE, FAR):
        netns.create(name)
    try:
        netns.ip_batch(
            NODE,
            [
                f"link add eth0 address {MAC} type veth peer name far0 netns {FAR}",
                f"link add eth1 address {SECOND_MAC} type veth peer name far1 netns {FAR}",
                "addr add 10.0.1.5/24 brd + dev eth0",  # without, networkd 252 sets the address over and over
                "addr add 10.0.2.5/24 brd + dev eth1",
                "link set eth0 up",
                "link set eth1 up",
                "route add default via 10.0.1.1",
            ],
        )
        netns.ip_batch(
            FAR,
            [
                "addr add 10.0.1.1/24 dev far0",
                "addr add 10.0.2.1/24 dev far1",
                "link set far0 up",
                "link set far1 up",
                f"route add {FIRST} via 10.0.1.5",
                f"route add {SECOND} via 10.0.2.5",
            ],
        )
        with node(plugin, tmp_path, NODE) as site:
            first = record(FIRST, revision=1)
            lent = (Assignment(SECOND, "as-2"),)
            second = Interface("eni-2", SECOND_MAC, 1, "subnet-2", "10.0.2.0/24", "10.0.2.1", "10.0.2.5", 0, lent)
            site.cloud.record = replace(first, interfaces=(*first.interfaces, second))
            site.cloud.interfaces = [*shown(FIRST), MetadataInterface(SECOND_MAC, 1, ("10.0.2.5",), (SECOND,))]
            site.start()
            site.ready()
            yield site
    finally:
        for name in (NODE, FAR):
            netns.delete(name)


@pytest.fixture
def image() -> Iterator[None]:
    """The image's own files."""
    FILES.mkdir(parents=True, exist_ok=True)
    (FILES / "80-image.network").write_text(IMAGE)
    (FILES / "70-primary.network").write_text(PRIMARY)
    yield
    for folder in (FILES, FILES.with_name("networkd.conf.d")):
        shutil.rmtree(folder, ignore_errors=True)


def install_hints() -> None:
    """What the agent's installation writes on such a host. A link here is a veth, not ENA's, and is named so."""
    with netns.inside(NODE):
        command = [sys.executable, "-m", "berth_node", "install", "--only", "hints"]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    path = FILES / "02-berth-secondaries.network"
    drivers, others = "Driver=ena ixgbevf vif\nName=!eth0\n", "Driver=veth\nName=!eth0 eni*\n"
    assert drivers in path.read_text()
    path.write_text(path.read_text().replace(drivers, others))


@contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    process: subprocess.Popen[bytes] = netns.popen(NODE, argv, stdout=sys.stderr, stderr=sys.stderr)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def bus() -> Iterator[None]:
    """A system bus, and what networkd's unit and a container's manager prepare for it."""
    missing = [str(tool) for tool in (NETWORKD, "dbus-daemon", "networkctl") if shutil.which(tool) is None]
    assert not missing, f"{', '.join(missing)} not installed: make runtime installs them"
    for folder in (RUN, *(RUN / name for name in ("links", "leases", "lldp"))):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.chown(folder, "systemd-network", "systemd-network")
    Path("/run/dbus").mkdir(exist_ok=True)
    in_node("mount", "-t", "sysfs", "-o", "ro", "none", "/sys")
    try:
        with running("dbus-daemon", "--system", "--nofork", "--nopidfile"):
            eventually(Path("/run/dbus/system_bus_socket").exists, "there is a system bus")
            yield
    finally:
        subprocess.run(["umount", "--lazy", "/sys"], check=True)
        shutil.rmtree(RUN)


def states() -> dict[str, str]:
    """How far networkd is with each link (``networkctl list``)."""
    rows = (line.split() for line in in_node("networkctl", "list", "--no-legend", "--no-pager").splitlines())
    return {row[1]: row[-1] for row in rows if len(row) >= 5}


@contextmanager
def networkd(**expected: str) -> Iterator[None]:
    """It has started and is done with these links."""
    with running(str(NETWORKD)) as process:

        def done() -> bool:
            assert process.poll() is None, "networkd has ended"
            return expected.items() <= states().items()

        eventually(done, f"networkd says {expected}")
        yield


def ours() -> dict[str, Any]:
    """What is Berth's, and all addresses of what Berth manages."""
    links = [link for link in listed("addr") if link["ifname"] == "eth1" or link["ifname"].startswith("eni")]
    return {
        "rules": [rule for rule in listed("rule") if rule.get("protocol") == "190"],
        "routes": sorted(map(str, listed("route", "show", "table", "all", "protocol", "190"))),
        "neighbours": sorted(str(n["dst"]) for n in listed("neigh", "show", "nud", "permanent")),
        "links": {link["ifname"]: (link["address"], link["mtu"], "UP" in link["flags"]) for link in links},
        "addresses": {link["ifname"]: _ipv4(link) for link in links},
    }


def _ipv4(link: dict[str, Any]) -> list[str]:
    return [a["local"] for a in link["addr_info"] if a["family"] == "inet"]


def without_primary(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "routes": [route for route in found["routes"] if "'dev': 'eth0'" not in route]}


def reconfigure(link: str, then: str) -> None:
    """As an operator does after a change to a file."""
    in_node("networkctl", "reload")
    in_node("networkctl", "reconfigure", link)
    eventually(lambda: states()[link] == then, f"networkd is done with {link} again")


def add_pods(site: Site) -> list[str]:
    """As many as have addresses of both interfaces."""
    return [site.add(f"pod-{n}") for n in range(17)]


def reachable(addresses: list[str]) -> bool:
    return all(ping(FAR, address, timeout=2).ok for address in (addresses[0], addresses[-1]))


def test_with_our_files_it_leaves_rules_routes_secondaries_and_pods_alone(
    two_interfaces: Site, image: None, bus: None
) -> None:
    site = two_interfaces
    addresses = add_pods(site)
    assert {a.rpartition(".")[0] for a in addresses} == {"10.0.1", "10.0.2"}
    install_hints()
    site.stop()
    before = ours()
    assert before["rules"]
    assert before["addresses"]["eth1"] == ["10.0.2.5"]
    pod_link = next(name for name in before["links"] if name.startswith("eni"))
    with networkd(eth0="configured", eth1="unmanaged", **{pod_link: "unmanaged"}):
        assert ours() == before
        assert reachable(addresses)
        reconfigure("eth1", "unmanaged")
        assert ours() == before
        assert reachable(addresses)
        # for a moment the primary has no address: then the kernel itself drops all routes by it, and nothing else
        reconfigure("eth0", "configured")
        assert without_primary(ours()) == without_primary(before)
        site.start()
        eventually(lambda: ours() == before, "the agent has put the primary's routes back")
        assert reachable(addresses)
        reconfigure("eth0", "configured")
        eventually(lambda: ours() == before, "and again, beside it")
        assert site.ask("check")["same"] is True
        site.stop()
    assert ours() == before
    with networkd(eth0="configured"):
        assert ours() == before


def test_without_our_files_it_takes_them_away_and_the_agent_puts_them_back(
    two_interfaces: Site, image: None, bus: None
) -> None:
    """Also what shows that the test above can fail."""
    site = two_interfaces
    addresses = add_pods(site)
    before = ours()
    site.stop()
    with networkd(eth0="configured", eth1="configured"):
        reconfigure("eth1", "configured")
        eventually(lambda: not ours()["rules"], "it takes rules away that it did not make")
        assert "10.9.9.9" in ours()["addresses"]["eth1"]
        site.start()
        eventually(lambda: ours()["rules"] == before["rules"], "the agent has put its rules back")
        eventually(lambda: reachable(addresses), "pods of both interfaces are reached")
        reconfigure("eth0", "configured")
        eventually(lambda: ours()["rules"] == before["rules"] and reachable(addresses), "and again, beside it")
