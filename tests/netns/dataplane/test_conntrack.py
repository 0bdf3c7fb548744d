"""Connections of returned addresses are forgotten, those of others are not: both ways that kernels know."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from berth_node.dataplane.conntrack import Conntrack
from berth_node.dataplane.rtnl import RtnlError

from tests.netns.dataplane.site import Node, attachment
from tests.sandbox import netns
from tests.sandbox.waiting import eventually

GONE, PEER, OTHER, SERVICE = "10.0.1.16", "10.0.1.17", "10.0.1.18", "10.9.9.9"
PODS = {"ct-gone": GONE, "ct-peer": PEER, "ct-other": OTHER}
TABLE = """
table ip test {
  chain service { type nat hook prerouting priority -100; ip daddr 10.9.9.9 dnat to 10.0.1.16; }
  chain tracked { type filter hook forward priority 0; ct state new accept; }
}
"""


@pytest.fixture
def node(bare: Node) -> Iterator[Node]:
    """Three pods that talk: the one that goes began a TCP connection and answers a datagram of a Service; the other two
    have a connection of their own."""
    netns.nft(bare.name, TABLE)
    netns.sysctl(bare.name, {"ipv4/ip_forward": 1})
    netns.ip_batch(bare.name, ["rule add pref 100 lookup 300000000"])
    for name, address in PODS.items():
        bare.call(bare.dataplane.attach, attachment(name, address, netns_fd=bare.pod(name)))
    with ExitStack() as stack:

        def opened(pod: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
            made = stack.enter_context(netns.open_socket(pod, socket.AF_INET, kind))
            made.settimeout(5)
            return made

        server = opened("ct-peer")
        server.bind((PEER, 7000))
        server.listen()
        for pod in ("ct-gone", "ct-other"):
            opened(pod).connect((PEER, 7000))
        opened("ct-other", socket.SOCK_DGRAM).sendto(b"x", (SERVICE, 53))
        assert eventually(lambda: len(entries(bare)) == 3)
        yield bare


def entries(node: Node) -> list[tuple[str, ...]]:
    """Protocol and the four addresses of each entry: original source and destination, the reply's."""
    found = []
    for line in node.sh("cat", "/proc/net/nf_conntrack").splitlines():
        words = line.split()
        if words[2] in ("tcp", "udp"):
            found.append((words[2], *(w.partition("=")[2] for w in words if w.startswith(("src=", "dst=")))))
    return sorted(found)


@pytest.mark.parametrize("filters", [True, False])
def test_each_connection_of_a_returned_address_is_forgotten_and_no_other(node: Node, filters: bool) -> None:
    kept = ("tcp", OTHER, PEER, PEER, OTHER)
    assert entries(node) == [
        ("tcp", GONE, PEER, PEER, GONE),
        kept,
        ("udp", OTHER, SERVICE, GONE, OTHER),
    ]
    conntrack = node.call(lambda: Conntrack(filters=filters))
    # in a thread of no particular namespace: the socket has the node's
    conntrack.flush(["10.0.1.99"])
    assert len(entries(node)) == 3
    conntrack.flush(["10.0.1.99", GONE, "fd00::16"])
    assert entries(node) == [kept]
    conntrack.close()


def test_a_kernel_that_cannot_delete_by_filter_is_noticed_and_asked_the_other_way(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As kernels before 6.11 are: a deletion of a tuple without ports is invalid."""
    conntrack = node.call(Conntrack)
    real = conntrack._rtnl.batch

    def older(requests: list[object], ignore: frozenset[int] = frozenset()) -> None:
        if any(b"\x19\x80" in r.body for r in requests):  # type: ignore[attr-defined]
            raise RtnlError(22, 0, "", os.strerror(22))
        real(requests, ignore)  # type: ignore[arg-type]

    monkeypatch.setattr(conntrack._rtnl, "batch", older)
    conntrack.flush([GONE])
    assert entries(node) == [("tcp", OTHER, PEER, PEER, OTHER)]
    conntrack.close()
