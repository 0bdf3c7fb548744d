"""Connections of a returned IPv6 address are forgotten, both ways that kernels know; those of others are not."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest
from berth_node.dataplane.conntrack import Conntrack

from tests.netns.dataplane.site import Node, attachment
from tests.sandbox import netns
from tests.sandbox.waiting import eventually

GONE, PEER, OTHER = (f"2001:db8:1:2:3:8000:0:{n}" for n in (1, 2, 3))


@pytest.mark.parametrize("filters", [True, False])
def test_each_connection_of_a_returned_address_is_forgotten_and_no_other(bare: Node, filters: bool) -> None:
    tracked = "chain c { type filter hook forward priority 0; ct state new accept\n }"
    netns.nft(bare.name, f"table ip6 test {{ {tracked}\n }}\n")
    netns.sysctl(bare.name, {"ipv6/conf/all/forwarding": 1})
    netns.ip_batch(bare.name, ["rule add pref 100 lookup 300000000"], family="-6")
    for name, address in (("ct-gone", GONE), ("ct-peer", PEER), ("ct-other", OTHER)):
        bare.call(bare.dataplane.attach, attachment(name, address, netns_fd=bare.pod(name)))

    def talking() -> set[str]:
        """Who began a connection that the kernel knows."""
        lines = bare.sh("cat", "/proc/net/nf_conntrack").splitlines()
        sources = {line.split("src=")[1].split()[0] for line in lines if " tcp " in line}
        return {_short(source) for source in sources}

    with ExitStack() as stack:
        server = stack.enter_context(netns.open_socket("ct-peer", socket.AF_INET6))
        server.bind((PEER, 7000))
        server.listen()
        for pod in ("ct-gone", "ct-other"):
            client = stack.enter_context(netns.open_socket(pod, socket.AF_INET6))
            client.settimeout(5)
            client.connect((PEER, 7000))
        assert eventually(lambda: talking() == {GONE, OTHER})
        conntrack = bare.call(lambda: Conntrack(filters=filters))
        conntrack.flush(["10.0.1.16", GONE])
        assert talking() == {OTHER}
        conntrack.close()


def _short(address: str) -> str:
    """An address as the rest of the test writes it: the kernel's list has every zero."""
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))
