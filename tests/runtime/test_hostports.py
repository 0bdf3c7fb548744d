"""Host ports that containerd asks of Berth alone: no portmap follows in the list, and none is installed."""

from __future__ import annotations

from tests.netns.agent.conftest import Site
from tests.runtime.conftest import ADDRESS, FAR, FAR_ADDRESS, NODE
from tests.sandbox import netns
from tests.sandbox.containerd import Containerd, PodSpec
from tests.sandbox.echo import EchoServers, tcp_echo

INSIDE, OUTSIDE = 8080, 30081


def test_a_host_port_leads_to_its_pod_from_everywhere_over_restarts_and_ends_with_it(
    site: Site, containerd: Containerd
) -> None:
    sandbox = containerd.run(PodSpec("web", ports=((OUTSIDE, INSIDE),)))
    other = containerd.status(containerd.run(PodSpec("other")))
    pod = containerd.status(sandbox)
    try:
        with EchoServers() as servers:
            servers.add(pod.netns, INSIDE, name="web")
            for _ in range(2):
                assert tcp_echo(FAR, ADDRESS, OUTSIDE).told == f"web {FAR_ADDRESS}"
                assert tcp_echo(NODE, ADDRESS, OUTSIDE).told == f"web {ADDRESS}"
                assert tcp_echo(NODE, "127.0.0.1", OUTSIDE).told == f"web {ADDRESS}"
                assert tcp_echo(other.netns, ADDRESS, OUTSIDE).told == f"web {other.address}"
                assert tcp_echo(pod.netns, ADDRESS, OUTSIDE).told == f"web {ADDRESS}"
                site.stop()
                site.start()
            containerd.remove(sandbox)
            assert tcp_echo(FAR, ADDRESS, OUTSIDE, timeout=1).told == "refused"
        assert str(OUTSIDE) not in netns.run(NODE, ["nft", "list", "ruleset"]).stdout
        again = containerd.run(PodSpec("web-2", ports=((OUTSIDE, INSIDE),)))
        assert containerd.status(again).address
    finally:
        for left in containerd.list():
            containerd.remove(left)
