"""What cannot work beside firewalld as it is installed, and what does."""

from __future__ import annotations

from dataclasses import replace

from berth_node.portmap import PortMapping

from tests.netns.dataplane.conftest import Site
from tests.netns.dataplane.site import PARTNER, A, layout_of, lent, two_nodes
from tests.sandbox.echo import PORT, tcp_echo
from tests.sandbox.foreign import firewalld, theirs

A0 = "10.0.1.10"


def test_firewalld_as_installed_refuses_what_pods_forward_and_lets_host_ports_pass(site: Site) -> None:
    """What docs/operations.md says must be trusted, and why: Berth cannot lift another table's reject."""
    ported = lent("a1-single", site.pods["a1-single"], PortMapping("tcp", 8001, PORT))
    site.a.call(site.a.dataplane.attach, replace(ported, netns_fd=site.a.descriptor("a1-single")))
    neighbour = firewalld()
    neighbour.apply(A)
    before = theirs(A)
    try:
        assert site.a.call(site.a.dataplane.configure, layout_of(two_nodes(), A)) == ()
        assert tcp_echo("a0-prefix", site.pods["a1-single"]).told.startswith("unreachable")
        assert tcp_echo("b0-prefix", site.pods["a1-single"]).told.startswith("unreachable")
        assert tcp_echo("onprem", site.pods["a0-prefix"], source=PARTNER).told.startswith("unreachable")
        assert tcp_echo("onprem", A0, 8001, source=PARTNER).told == f"a1-single {PARTNER}"
        assert tcp_echo(A, site.pods["a1-single"]).told == f"a1-single {A0}"  # kubelet's probes
        assert theirs(A) == before
    finally:
        neighbour.remove(A)
