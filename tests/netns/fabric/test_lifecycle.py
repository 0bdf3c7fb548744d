"""What comes and goes: interfaces, addresses, instances, and the fabric itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from tests.netns.fabric.vpc import (
    ENI_A1,
    ENI_B0,
    NODE_A,
    NODE_B,
    eni,
    instance,
    mac,
    route_secondary,
    server,
    two_nodes,
    with_eni,
    with_state,
    without_eni,
)
from tests.sandbox import netns
from tests.sandbox.echo import Failure, tcp_echo
from tests.sandbox.fabric import Fabric, port_name


def _links(where: str) -> dict[str, dict[str, object]]:
    shown = json.loads(netns.run(where, ["ip", "-j", "link"]).stdout)
    return {link["ifname"]: link for link in shown}


def _kernel_state() -> str:
    """Everything that the fabric configures, with the identifiers that change when a thing is made anew, and without
    what the kernel notices in its own time (carrier, duplicate address detection, learned neighbours)."""
    commands = (
        ["ip", "-4", "addr"],
        ["ip", "rule"],
        ["ip", "-4", "route", "show", "table", "all"],
        ["ip", "neigh", "show", "nud", "permanent"],
        ["nft", "-as", "list", "ruleset"],
    )
    found = []
    for where in sorted(netns.names()):
        found += [f"{where}: {link['ifindex']} {name} {link['address']}" for name, link in _links(where).items()]
        found += [netns.run(where, argv).stdout for argv in commands]
    return re.sub(r" linkdown|<[A-Z_,-]*>| state [A-Z]+", "", "\n".join(found))


def test_applying_the_same_world_twice_changes_nothing(fabric: Fabric) -> None:
    before = _kernel_state()
    fabric.apply(two_nodes())
    assert _kernel_state() == before


def test_a_change_and_its_reversal_leave_the_same_state(fabric: Fabric) -> None:
    before = _kernel_state()
    fabric.apply(with_eni(two_nodes(), eni("eni-b1", "subnet-b", "10.0.2.20", instance=NODE_B, index=1)))
    assert _kernel_state() != before
    fabric.apply(two_nodes())
    assert _without_handles(_kernel_state()) == _without_handles(before)


def _without_handles(state: str) -> list[str]:
    return sorted(line.split(" # handle")[0] for line in state.splitlines())


def test_the_primary_interface_comes_up_configured_as_dhcp_does(fabric: Fabric) -> None:
    link = _links(NODE_A)["eth0"]
    assert (link["address"], link["mtu"], link["operstate"]) == (mac("eni-000000000000000a0"), 9001, "UP")
    routes = netns.run(NODE_A, ["ip", "route"]).stdout
    assert "default via 10.0.1.1 dev eth0 proto dhcp src 10.0.1.10" in routes
    assert "10.0.1.0/24 dev eth0" in routes


def test_a_secondary_interface_appears_down_and_without_address(fabric: Fabric) -> None:
    link = _links(NODE_A)["eth1"]
    assert (link["address"], link["operstate"]) == (mac(ENI_A1), "DOWN")
    assert "inet " not in netns.run(NODE_A, ["ip", "addr", "show", "eth1"]).stdout


def test_an_interface_is_attached_and_detached_while_connections_stay(fabric: Fabric) -> None:
    with netns.open_socket(NODE_B) as listener:
        listener.bind(("10.0.2.10", 8080))
        listener.listen(1)
        with netns.open_socket(NODE_A) as client:
            client.settimeout(3)
            client.connect(("10.0.2.10", 8080))
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(3)
                fabric.apply(with_eni(two_nodes(), eni("eni-b1", "subnet-b", "10.0.2.20", instance=NODE_B, index=1)))
                client.sendall(b"attached")
                assert connection.recv(100) == b"attached"
                fabric.apply(two_nodes())
                client.sendall(b"detached")
                assert connection.recv(100) == b"detached"
    assert _links(NODE_B).keys() == {"lo", "eth0"}
    assert port_name("eni-b1") not in _links("vpc")


def test_an_interface_moves_from_one_instance_to_another(fabric: Fabric) -> None:
    moved = eni(ENI_A1, "subnet-a", "10.0.1.20", instance=NODE_B, index=1, prefixes=("10.0.1.32/28",))
    fabric.apply(with_eni(two_nodes(), moved))
    assert "eth1" not in _links(NODE_A)
    route_secondary(NODE_B, "eth1", "10.0.1.1", "10.0.1.33")
    with server(NODE_B, "10.0.1.33"):
        assert tcp_echo(NODE_A, "10.0.1.33").told == "10.0.1.10"


def test_a_prefix_is_assigned_and_unassigned(fabric: Fabric) -> None:
    more = eni(ENI_A1, "subnet-a", "10.0.1.20", instance=NODE_A, index=1, prefixes=("10.0.1.32/28", "10.0.1.64/28"))
    fabric.apply(with_eni(two_nodes(), more))
    route_secondary(NODE_A, "eth1", "10.0.1.1", "10.0.1.70")
    with server(NODE_A, "10.0.1.70"):
        assert tcp_echo(NODE_B, "10.0.1.70").told == "10.0.2.10"
        fabric.apply(two_nodes())
        assert tcp_echo(NODE_B, "10.0.1.70", timeout=0.3).failure == Failure.TIMEOUT


def test_interfaces_of_further_network_cards_have_names_of_their_own(fabric: Fabric) -> None:
    fabric.apply(
        with_eni(two_nodes(), eni("eni-b1", "subnet-b", "10.0.2.20", instance=NODE_B, index=1, network_card=1))
    )
    assert _links(NODE_B).keys() == {"lo", "eth0", "eth17"}


def test_an_unattached_interface_has_no_link(fabric: Fabric) -> None:
    fabric.apply(with_eni(two_nodes(), eni("eni-d", "subnet-b", "10.0.2.30")))
    assert port_name("eni-d") not in _links("vpc")


def test_terminating_an_instance_removes_everything_of_it(fabric: Fabric) -> None:
    remaining = replace(without_eni(two_nodes(), ENI_B0), instances=(instance(NODE_A),))
    fabric.apply(remaining)
    without = _without_handles(_kernel_state())
    fabric.apply(two_nodes())
    fabric.apply(with_state(two_nodes(), NODE_B, "terminated"))
    assert not netns.exists(NODE_B)
    assert _without_handles(_kernel_state()) == without


def test_a_stopped_instance_has_no_machine_and_boots_anew_when_started(fabric: Fabric) -> None:
    fabric.apply(with_state(two_nodes(), NODE_B, "stopping"))
    assert netns.exists(NODE_B)
    fabric.apply(with_state(two_nodes(), NODE_B, "stopped"))
    assert not netns.exists(NODE_B)
    fabric.apply(two_nodes())
    with server(NODE_B, "10.0.2.10"):
        assert tcp_echo(NODE_A, "10.0.2.10").told == "10.0.1.10"


def test_after_a_failed_change_the_next_one_repairs_the_router(fabric: Fabric) -> None:
    netns.nft("vpc", 'delete element ip fabric assigned { "%s" . 10.0.1.20 }' % port_name(ENI_A1))  # noqa: UP031
    kept = _links(NODE_A)["eth0"]["ifindex"]
    with pytest.raises(netns.CommandError):
        fabric.apply(without_eni(two_nodes(), ENI_A1))  # which deletes that element, too
    fabric.apply(two_nodes())
    route_secondary(NODE_A, "eth1", "10.0.1.1", "10.0.1.20")
    with server(NODE_B, "10.0.2.10"):
        assert tcp_echo(NODE_A, "10.0.2.10").told == "10.0.1.10"
        assert tcp_echo(NODE_A, "10.0.2.10", source="10.0.1.20").told == "10.0.1.20"
    assert _links(NODE_A)["eth0"]["ifindex"] == kept
    assert fabric.counters()["source_check_drops"] == 0


def test_a_world_that_cannot_be_routed_is_refused_and_changes_nothing(fabric: Fabric) -> None:
    before = _kernel_state()
    unroutable = eni("eni-dd", "subnet-b", "10.0.2.30", instance=NODE_B, index=1, public_address="127.0.0.9")
    with pytest.raises(ValueError, match=r"eni-dd.*127\.0\.0\.9"):
        fabric.apply(with_eni(two_nodes(), unroutable))
    assert _kernel_state() == before


def test_closing_the_fabric_leaves_no_namespace() -> None:
    with Fabric() as made:
        made.apply(two_nodes())
        assert netns.names() == {"vpc", "internet", "onprem", "nat", NODE_A, NODE_B}
    assert netns.names() == frozenset()
