"""One pod's links: made, told apart, compared, taken away, and remembered by the kernel alone."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from dataclasses import replace

import pytest
from berth_node import portmap
from berth_node.dataplane.messages import VethEnd, veth
from berth_node.dataplane.pods import PODS_TABLE, macs
from berth_node.dataplane.rtnl import Filled, Rtnl, RtnlError
from berth_node.seams import FIRST_PAIR_INDEX, Attachment, DataplaneError

from tests.netns.dataplane.site import Node, attachment
from tests.netns.dataplane.watch import changes
from tests.sandbox import netns
from tests.sandbox.fabric.ndp import router_advertisement
from tests.sandbox.ping import ping
from tests.sandbox.waiting import eventually

WANTED = attachment("web-1", "10.0.1.33", mtu=8500)


@pytest.fixture
def wanted(bare: Node) -> Attachment:
    return attachment("web-1", "10.0.1.33", mtu=8500, netns_fd=bare.pod("dp-web-1"))


def _links(node: Node) -> list[str]:
    return [line.split(":")[1].strip().split("@")[0] for line in node.sh("ip", "-o", "link").splitlines()][1:]


def _routes(node: Node) -> list[str]:
    return node.sh("ip", "-4", "route", "show", "table", str(PODS_TABLE)).splitlines()


def advertise(pod: str, ifname: str, mac: str) -> None:
    """A pod with CAP_NET_RAW, which containers have by default, says that it is the router."""
    with netns.inside(pod), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((ifname, 0))
        raw.send(router_advertisement(mac, []))


def test_a_pod_gets_its_address_a_gateway_and_permanent_neighbours(bare: Node, wanted: Attachment) -> None:
    wired = bare.call(bare.dataplane.attach, wanted)
    assert "inet 10.0.1.33/32 scope global eth0" in netns.run("dp-web-1", ["ip", "addr"]).stdout
    routes = netns.run("dp-web-1", ["ip", "-4", "route"]).stdout.split("\n")
    assert [line.split(" proto")[0].strip() for line in routes[:2]] == [
        "default via 169.254.1.1 dev eth0",
        "169.254.1.1 dev eth0",
    ]
    in_pod = netns.run("dp-web-1", ["ip", "-4", "neigh"]).stdout.strip()
    assert in_pod == f"169.254.1.1 dev eth0 lladdr {wired.host_mac} PERMANENT"
    on_host = bare.sh("ip", "-4", "neigh").strip()
    assert on_host == f"10.0.1.33 dev {wanted.host_ifname} lladdr {wired.pod_mac} PERMANENT"
    assert _routes(bare)[0].startswith(f"10.0.1.33 dev {wanted.host_ifname} proto 190")
    host = bare.sh("ip", "-d", "link", "show", "dev", wanted.host_ifname)
    assert f"{wired.host_ifindex}: " in host
    assert "mtu 8500" in host
    assert "state UP" in host
    assert "numtxqueues 1 numrxqueues 1" in host
    assert "inet6" not in bare.sh("ip", "addr", "show", "dev", wanted.host_ifname)


def test_the_mac_addresses_count_as_chosen_so_that_systemd_leaves_them_alone(bare: Node, wanted: Attachment) -> None:
    bare.call(bare.dataplane.attach, wanted)
    for where, device in (("dp-bare", wanted.host_ifname), ("dp-web-1", "eth0")):
        path = f"/sys/class/net/{device}/addr_assign_type"
        assert netns.run("dp-bare", ["ip", "netns", "exec", where, "cat", path]).stdout.strip() == "3"  # NET_ADDR_SET


def test_the_first_packet_after_attach_is_not_lost(bare: Node) -> None:
    bare.sh("ip", "addr", "add", "10.0.1.10/32", "dev", "lo")
    bare.sh("ip", "rule", "add", "lookup", str(PODS_TABLE))
    for n in range(10):
        name = f"dp-first-{n}"
        bare.call(bare.dataplane.attach, attachment(name, f"10.0.1.{n + 33}", netns_fd=bare.pod(name)))
        assert ping(name, "10.0.1.10").ok


def test_attaching_again_gives_the_same_answer_and_changes_nothing(bare: Node, wanted: Attachment) -> None:
    wired = bare.call(bare.dataplane.attach, wanted)
    with changes("dp-bare") as seen:
        assert bare.call(bare.dataplane.attach, wanted) == wired
    assert seen == []


def test_attaching_again_repairs_what_was_damaged_since(bare: Node, wanted: Attachment) -> None:
    bare.call(bare.dataplane.attach, wanted)
    netns.run("dp-web-1", ["ip", "route", "del", "default"])
    wired = bare.call(bare.dataplane.attach, wanted)
    assert bare.call(bare.dataplane.check, wanted) == ()
    assert wired.host_mac in netns.run("dp-web-1", ["ip", "neigh"]).stdout


def test_attaching_again_with_another_address_gives_the_new_one(bare: Node, wanted: Attachment) -> None:
    bare.call(bare.dataplane.attach, wanted)
    other = attachment("web-1", "10.0.1.34", netns_fd=wanted.netns_fd)
    bare.call(bare.dataplane.attach, other)
    assert bare.call(bare.dataplane.check, other) == ()
    assert [line.split()[0] for line in _routes(bare)] == ["10.0.1.34"]


def test_a_host_name_left_by_another_container_is_taken_over(bare: Node, wanted: Attachment) -> None:
    bare.call(bare.dataplane.attach, wanted)
    later = attachment("web-1", "10.0.1.40", container_id="later", netns_fd=bare.pod("dp-later"))
    bare.call(bare.dataplane.attach, later)
    assert bare.call(bare.dataplane.survey) == (attachment("web-1", "10.0.1.40", container_id="later", mtu=9001),)
    assert _links(bare) == [wanted.host_ifname]
    # the DEL of the former container comes late and must not hit the later one
    bare.call(bare.dataplane.detach, wanted)
    assert bare.call(bare.dataplane.check, later) == ()


def test_a_link_made_by_a_process_that_died_before_it_named_it_is_replaced(bare: Node, wanted: Attachment) -> None:
    bare.sh("ip", "link", "add", wanted.host_ifname, "type", "veth", "peer", "name", "half-made")
    bare.call(bare.dataplane.attach, wanted)
    assert bare.call(bare.dataplane.check, wanted) == ()
    assert _links(bare) == [wanted.host_ifname]


def test_a_pod_that_has_such_an_interface_is_refused_and_nothing_is_left(bare: Node, wanted: Attachment) -> None:
    netns.run("dp-web-1", ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other"])
    with pytest.raises(DataplaneError, match="already has an interface eth0"):
        bare.call(bare.dataplane.attach, wanted)
    assert _links(bare) == []
    assert _routes(bare) == []


def test_a_failure_in_the_pod_leaves_nothing(bare: Node, wanted: Attachment) -> None:
    netns.run("dp-web-1", ["ip", "route", "add", "default", "dev", "lo"])
    with pytest.raises(DataplaneError, match="default route") as caught:
        bare.call(bare.dataplane.attach, wanted)
    assert not caught.value.temporary
    assert _links(bare) == []
    assert _routes(bare) == []
    assert "eth0" not in netns.run("dp-web-1", ["ip", "link"]).stdout


@pytest.mark.parametrize("mtu", [576, 1279, 1280])
def test_an_mtu_too_small_for_ipv6_serves_ipv4(bare: Node, mtu: int) -> None:
    small = attachment("web-1", "10.0.1.33", mtu=mtu, netns_fd=bare.pod("dp-web-1"))
    bare.call(bare.dataplane.attach, small)
    assert bare.call(bare.dataplane.check, small) == ()
    assert "inet6" not in bare.sh("ip", "addr", "show", "dev", small.host_ifname)


def test_a_pods_router_advertisement_is_not_heard_by_the_node(bare: Node, wanted: Attachment) -> None:
    bare.sh("sysctl", "-qw", "net.ipv6.conf.default.accept_ra=1", "net.ipv6.conf.default.disable_ipv6=0")
    wired = bare.call(bare.dataplane.attach, wanted)
    assert eventually(lambda: _hears_routers(bare, wanted) == "0"), "long before a pod's program starts"
    advertise("dp-web-1", "eth0", wired.pod_mac)
    assert "proto ra" not in bare.sh("ip", "-6", "route")
    # what the node would have done: the same advertisement on a link that hears it
    bare.sh("sysctl", "-qw", f"net.ipv6.conf.{wanted.host_ifname}.accept_ra=1")
    advertise("dp-web-1", "eth0", wired.pod_mac)
    assert eventually(lambda: "proto ra" in bare.sh("ip", "-6", "route"))


def test_a_restarted_agent_sees_to_it_that_no_pods_link_hears_routers(bare: Node, wanted: Attachment) -> None:
    bare.call(bare.dataplane.attach, wanted)
    assert eventually(lambda: _hears_routers(bare, wanted) == "0")
    bare.sh("sysctl", "-qw", f"net.ipv6.conf.{wanted.host_ifname}.accept_ra=1")
    bare.restart()
    assert eventually(lambda: _hears_routers(bare, wanted) == "0")


def _hears_routers(bare: Node, pod: Attachment) -> str:
    return bare.sh("cat", f"/proc/sys/net/ipv6/conf/{pod.host_ifname}/accept_ra").strip()


def test_an_mtu_that_the_kernel_refuses_is_named(bare: Node, wanted: Attachment) -> None:
    with pytest.raises(DataplaneError, match="veth pair"):
        bare.call(bare.dataplane.attach, attachment("web-1", "10.0.1.33", mtu=70_000, netns_fd=wanted.netns_fd))
    assert _links(bare) == []


def test_attach_needs_the_pods_namespace(bare: Node) -> None:
    with pytest.raises(DataplaneError, match="namespace is not known"):
        bare.call(bare.dataplane.attach, WANTED)
    with pytest.raises(DataplaneError, match="cannot enter"), open("/dev/null") as nothing:
        bare.call(bare.dataplane.attach, attachment("web-1", "10.0.1.33", netns_fd=nothing.fileno()))


def test_detaching_unroutes_at_once_and_the_link_goes_soon_after(bare: Node, wanted: Attachment) -> None:
    bare.call(bare.dataplane.attach, wanted)
    bare.call(bare.dataplane.detach, wanted)
    assert _routes(bare) == []
    assert bare.call(bare.dataplane.survey) == (), (
        "its link is dead, though up: no other work of the kernel's is waited for"
    )
    assert eventually(lambda: _links(bare) == [])


def test_detaching_what_is_gone_or_was_never_there_is_fine(bare: Node, wanted: Attachment) -> None:
    bare.call(bare.dataplane.detach, wanted)
    bare.call(bare.dataplane.attach, wanted)
    netns.run("dp-web-1", ["ip", "link", "del", "eth0"])
    bare.call(bare.dataplane.detach, wanted)
    bare.call(bare.dataplane.detach, wanted)
    assert _links(bare) == []


def test_detaching_leaves_the_route_of_the_next_holder_of_the_address(bare: Node, wanted: Attachment) -> None:
    bare.call(bare.dataplane.attach, wanted)
    heir = attachment("heir", wanted.address, netns_fd=bare.pod("dp-heir"))
    bare.call(bare.dataplane.attach, heir)
    bare.call(bare.dataplane.detach, wanted)
    assert bare.call(bare.dataplane.check, heir) == ()


def test_a_name_is_free_again_right_after_detach(bare: Node, wanted: Attachment) -> None:
    for _ in range(20):
        bare.call(bare.dataplane.attach, wanted)
        bare.call(bare.dataplane.detach, wanted)
        assert eventually(lambda: "eth0" not in netns.run("dp-web-1", ["ip", "link"]).stdout)
    assert eventually(lambda: _links(bare) == [])


def test_a_new_container_of_a_pod_needs_not_wait_for_the_old_ones_link(bare: Node, wanted: Attachment) -> None:
    for turn in range(20):
        bare.call(bare.dataplane.attach, wanted)
        bare.call(bare.dataplane.detach, wanted)
        name = f"dp-web-{turn + 2}"
        later = replace(wanted, container_id=name, netns_fd=bare.pod(name))
        bare.call(bare.dataplane.attach, later)
        assert bare.call(bare.dataplane.check, later) == ()
        bare.call(bare.dataplane.detach, later)
        assert eventually(lambda: _links(bare) == [])


def test_a_container_that_is_attached_again_at_once_gets_links_anew(bare: Node, wanted: Attachment) -> None:
    for _ in range(20):
        bare.call(bare.dataplane.attach, wanted)
        bare.call(bare.dataplane.detach, wanted)
        bare.call(bare.dataplane.attach, wanted)
        assert bare.call(bare.dataplane.check, wanted) == ()
        bare.call(bare.dataplane.detach, wanted)
        assert eventually(lambda: _links(bare) == [])


def test_detaching_after_a_restart_goes_by_what_the_kernel_says(bare: Node, wanted: Attachment) -> None:
    bare.call(bare.dataplane.attach, wanted)
    bare.restart()
    bare.call(bare.dataplane.detach, wanted)
    assert _routes(bare) == []
    assert eventually(lambda: _links(bare) == [])


def test_dead_links_of_a_process_that_was_killed_are_reaped_by_the_next(bare: Node, wanted: Attachment) -> None:
    bare.call(bare.dataplane.attach, wanted)
    bare.sh("ip", "link", "set", wanted.host_ifname, "group", str(0x62657274))
    assert bare.call(bare.dataplane.survey) == ()
    bare.restart()
    assert eventually(lambda: _links(bare) == [])


def test_a_burst_of_pods_is_remembered_by_the_kernel_and_taken_away(bare: Node) -> None:
    many = [attachment(f"dp-{n}", f"10.0.2.{n}", netns_fd=bare.pod(f"dp-many-{n}")) for n in range(110)]
    spent = []
    wired = set()
    for one in many:
        start = time.perf_counter()
        made = bare.call(bare.dataplane.attach, one)
        spent.append(1000 * (time.perf_counter() - start))
        wired |= {made.host_mac, made.pod_mac, made.host_ifindex}
    assert len(wired) == 330
    spent.sort()
    print(f"attach, ms: median {spent[55]:.2f}, 90% {spent[99]:.2f}, worst {spent[-1]:.2f}")
    bare.restart()
    assert bare.call(bare.dataplane.survey) == tuple(sorted(many, key=lambda a: a.container_id))
    # a new process picks indexes that no pod has
    extra = attachment("extra", "10.0.3.1", netns_fd=bare.pod("dp-extra"))
    bare.call(bare.dataplane.attach, extra)
    start = time.perf_counter()
    for one in (*many, extra):
        bare.call(bare.dataplane.detach, one)
    print(f"detach, ms: mean {1000 * (time.perf_counter() - start) / 111:.2f}")
    assert _routes(bare) == []
    assert eventually(lambda: _links(bare) == [])


SABOTAGE = {
    "the host link is gone": ("dp-bare", "link del HOST"),
    "belongs to another": ("dp-bare", "link set HOST alias something"),
    "host link is down": ("dp-bare", "link set HOST down"),
    "host link's MTU": ("dp-bare", "link set HOST mtu 1400"),
    "pod's end of the link is down": ("dp-web-1", "link set eth0 down"),
    "no route": ("dp-bare", f"route del 10.0.1.33 table {PODS_TABLE}"),
    "no permanent neighbour": ("dp-bare", "neigh del 10.0.1.33 dev HOST"),
    "interface is gone": ("dp-web-1", "link set eth0 name eth7"),
    "interface is down": ("dp-web-1", "link set eth0 down"),
    "its MAC": ("dp-web-1", "link set eth0 address 02:00:00:00:00:77"),
    "lacks the address": ("dp-web-1", "addr del 10.0.1.33/32 dev eth0"),
    "lacks the routes": ("dp-web-1", "route del default"),
    "lacks the permanent neighbour": ("dp-web-1", "neigh del 169.254.1.1 dev eth0"),
}


@pytest.mark.parametrize("problem", SABOTAGE)
def test_check_names_what_is_missing(bare: Node, wanted: Attachment, problem: str) -> None:
    bare.call(bare.dataplane.attach, wanted)
    assert bare.call(bare.dataplane.check, wanted) == ()
    where, command = SABOTAGE[problem]
    netns.run(where, ["ip", *command.replace("HOST", wanted.host_ifname).split()])
    found = bare.call(bare.dataplane.check, wanted)
    assert problem in " ".join(p.message for p in found)


def test_check_without_the_namespace_looks_at_the_host_side(bare: Node, wanted: Attachment) -> None:
    bare.call(bare.dataplane.attach, wanted)
    netns.run("dp-web-1", ["ip", "route", "del", "default"])
    assert bare.call(bare.dataplane.check, WANTED) == ()


def test_a_pod_with_host_ports_is_whole_for_the_next_process_before_that_has_loaded_its_table(
    bare: Node, wanted: Attachment
) -> None:
    """It may have been answered without the journal's knowing: the next agent asks before anything else."""
    pod = replace(wanted, ports=portmap.encode((portmap.PortMapping("tcp", 8080, 80),)))
    bare.call(bare.dataplane.attach, pod)
    bare.restart()
    bare.call(bare.dataplane.adopt, (pod,))
    assert bare.call(bare.dataplane.check, replace(pod, netns_fd=None)) == ()
    bare.call(bare.dataplane.detach, pod)


def test_the_nodes_own_links_are_those_that_are_no_pods(bare: Node, wanted: Attachment) -> None:
    bare.sh("ip", "link", "add", "eth0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "far")
    wired = bare.call(bare.dataplane.attach, wanted)
    macs = bare.call(bare.dataplane.usable_macs)
    assert "02:00:00:00:00:01" in macs
    assert wired.host_mac not in macs


def _pair(node: Node, wanted: Attachment, index: int = FIRST_PAIR_INDEX) -> None:
    """What a plugin has made, which was told nothing yet."""
    assert wanted.netns_fd is not None
    host, pod = macs(index)
    ends = VethEnd(wanted.host_ifname, host, index), VethEnd("eth0", pod, index + 1)
    with netns.inside(node.name), Rtnl() as rtnl:
        rtnl.batch([veth(*ends, wanted.netns_fd, 1500)])


def test_a_plugins_pair_is_replaced_in_a_namespace_in_which_nothing_was_set_up_yet(bare: Node) -> None:
    """A runtime may call before loopback is up. Then the namespace has no table of routes, which the kernel tells as an
    error."""
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE) as fresh:
        own = os.stat("/proc/self/ns/net").st_ino
        assert eventually(lambda: os.stat(f"/proc/{fresh.pid}/ns/net").st_ino != own)
        there = os.open(f"/proc/{fresh.pid}/ns/net", os.O_RDONLY)
        wanted = replace(WANTED, netns_fd=there)
        _pair(bare, wanted)
        bare.call(bare.dataplane.attach, wanted)
        assert bare.call(bare.dataplane.check, wanted) == ()
        assert _links(bare) == [wanted.host_ifname]
        os.close(there)
        assert fresh.stdin
        fresh.stdin.close()


def test_a_plugins_pair_that_was_told_nothing_goes_with_the_next_start(bare: Node, wanted: Attachment) -> None:
    _pair(bare, wanted)
    bare.restart()
    assert eventually(lambda: _links(bare) == [])


def test_detaching_takes_a_plugins_pair_of_that_name_too(bare: Node, wanted: Attachment) -> None:
    """An agent died between its answer and its plugin's batches: those must have nothing left to be about."""
    _pair(bare, wanted)
    bare.call(bare.dataplane.detach, wanted)
    assert _links(bare) == [], "at once"


def test_a_plugin_that_slept_takes_nobodys_route(bare: Node, wanted: Attachment) -> None:
    """Its pod's address is another's by now."""
    bare.call(bare.dataplane.attach, wanted)
    later = attachment("web-2", wanted.address, netns_fd=bare.pod("dp-later"))
    _pair(bare, later)
    host, _, _ = bare.dataplane.rest(later, FIRST_PAIR_INDEX).batches
    with netns.inside(bare.name), Rtnl() as rtnl, pytest.raises(RtnlError, match="route: File exists"):
        rtnl.send(Filled(host, 2, ("route", "neighbour", "quiet", "alias")))
    assert bare.call(bare.dataplane.check, wanted) == ()


def test_a_plugins_pair_becomes_the_pod_that_attach_makes(bare: Node, wanted: Attachment) -> None:
    wanted = replace(wanted, mtu=1500)
    _pair(bare, wanted)
    rest = bare.dataplane.rest(wanted, FIRST_PAIR_INDEX)
    for place, batch in zip((bare.name, "dp-web-1", bare.name), rest.batches, strict=True):
        with netns.inside(place), Rtnl() as rtnl:
            rtnl._socket.send(batch)
            rtnl._socket.recv(1 << 15)
    bare.dataplane.wired_by_hand(wanted, FIRST_PAIR_INDEX)
    assert bare.call(bare.dataplane.check, wanted) == ()
    assert bare.call(bare.dataplane.attach, wanted) == rest.wired, "it is there already"
    bare.call(bare.dataplane.detach, wanted)
    assert _routes(bare) == []
    assert eventually(lambda: _links(bare) == [])
