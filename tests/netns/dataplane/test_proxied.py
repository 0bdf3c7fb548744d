"""Cilium's L7 proxy gets the packets that Cilium marked for it, though Berth writes to the same mark."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Final

import pytest

from tests.netns.dataplane.conftest import Site
from tests.netns.dataplane.site import INTERNET, ONPREM, A
from tests.sandbox import netns
from tests.sandbox.echo import answer, tcp_echo
from tests.sandbox.foreign import CILIUM

PORT, PROXY_PORT = 7053, 43477
_IP_TRANSPARENT: Final = 19  # ip(7)
KINDS = ("a0-prefix", "a0-single", "a1-prefix", "a1-single")
MARKED = f"""table inet marker {{
  chain arriving {{
    type filter hook prerouting priority -310; policy accept;
    iifname "eni*" tcp dport {PORT} meta mark set 0xd5a90200
  }}
}}
"""
"""What Cilium's programs do at tc ingress, before netfilter: the proxy's port (in network order) and 0x200."""


@pytest.fixture
def proxied(site: Site) -> Iterator[Site]:
    """A transparent proxy on node A that answers in everybody's name, and Cilium's rules that lead to it."""
    CILIUM.apply(A)
    netns.nft(A, MARKED)
    with netns.open_socket(A) as listener:
        listener.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", PROXY_PORT))
        listener.listen(8)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                answer(listener, "proxy")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield site
        ended.set()
        with netns.open_socket(A) as last:
            last.connect(("127.0.0.1", PROXY_PORT))
        thread.join(5)
    netns.nft(A, "delete table inet marker\n")
    CILIUM.remove(A)


def test_a_pods_connection_that_cilium_redirects_ends_in_its_proxy(proxied: Site) -> None:
    for pod in KINDS:
        for target in (proxied.pods["b1-prefix"], ONPREM, INTERNET):
            assert tcp_echo(pod, target, PORT).told == f"proxy {proxied.pods[pod]}", (pod, target)
