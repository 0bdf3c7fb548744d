"""What a record lists that is not this node's or not this pod's is not taken: real plugin, agent and kernel."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from berth.contract import Interface, Order, PodGrant, Record, Report
from berth_node.usable import MetadataInterface

from tests.netns.agent.conftest import PREFIX, Site, eventually, record, shown
from tests.netns.agent.real import NODE, real_node
from tests.sandbox import netns
from tests.unit.node.cloud import ARN

CAPABILITY = "io.kubernetes.cri.pod-annotations"
GROUP = "sg-0123456789abcdef0"
MAC, OWN, ANOTHER = "02:aa:00:00:00:02", "10.0.1.77", "10.0.1.78"
SINGLE, PUBLIC = "10.0.1.90", "203.0.113.7"
LATE = Order(1 << 30, 0)
"""Of a record that answers every report of this agent."""


@pytest.fixture
def site(plugin: Path, tmp_path: Path) -> Iterator[Site]:
    """A node with a second link, which the record does not list yet."""
    with real_node(plugin, tmp_path) as made:
        netns.ip_batch(NODE, [f"link add eth1 address {MAC} type veth peer name far1", "link set far1 up"])
        yield made


def add(site: Site, name: str, **asked: str) -> subprocess.Popen[bytes]:
    site.pod(name)
    annotations = {f"berth/{key.replace('_', '-')}": value for key, value in asked.items()}
    config = {"cniVersion": "1.1.0", "name": "berth", "type": "berth", "runtimeConfig": {CAPABILITY: annotations}}
    pod = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID=uid-{name}"
    return site.popen(site.environment("ADD", name, CNI_ARGS=pod), json.dumps(config).encode())


def own(pod: str, **changes: Any) -> Interface:
    """An interface that the pod has for itself."""
    interface = Interface("eni-2", MAC, 1, "subnet-1", "10.0.1.0/24", "10.0.1.1", OWN, 0, (), (), pod)
    return replace(interface, **changes)


def tell(site: Site, *more: Interface, see: str = OWN, cidrs: tuple[str, ...] = (PREFIX,), **changes: Any) -> Record:
    """Put a record before the agent, and metadata that shows the second link with the address ``see``."""
    before = site.cloud.record
    assert before is not None
    made = record(*cidrs, revision=before.revision + 1)
    made = replace(made, interfaces=(*made.interfaces, *more), **changes)
    site.cloud.interfaces = [*shown(*cidrs), *([MetadataInterface(MAC, 1, (see,))] if see else [])]
    site.cloud.record = made
    return made


def last(site: Site) -> Report:
    """The newest report."""
    reports: list[Report] = eventually(lambda: site.cloud.reports, "a report")
    return reports[-1]


def applied(site: Site, told: Record) -> None:
    """Wait until the agent acts by the record."""
    eventually(lambda: last(site).acknowledged_revision == told.revision, "the record is in force")


def asked(site: Site, name: str) -> Report:
    """The report that first lists the pod's request."""

    def found() -> Report | None:
        listed = (r for r in list(site.cloud.reports) if any(q.id == f"{name}/eth0" for q in r.requests))
        return next(listed, None)

    report: Report = eventually(found, "a report lists the request")
    return report


def served(site: Site, waits: subprocess.Popen[bytes]) -> bool:
    return waits.poll() is not None or bool(site.ask("pods")["pods"])


class TestInterface:
    @pytest.mark.parametrize(
        ("listed", "see"),
        [
            (own("another/eth0"), OWN),
            (own("web/eth1"), OWN),
            (own(""), OWN),
            (own("web/eth0", mac="02:aa:00:00:00:99"), OWN),
            (own("web/eth0"), ANOTHER),
            (own("web/eth0"), ""),
        ],
        ids=["another pod's", "another attachment's", "nobody's", "of no link here", "of another address", "not shown"],
    )
    def test_one_that_is_not_the_pods_here_is_not_lent_to_it(self, site: Site, listed: Interface, see: str) -> None:
        waits = add(site, "web", security_groups=GROUP)
        accepted = asked(site, "web").order
        applied(site, tell(site, listed, see=see, accepted=accepted))
        assert not served(site, waits)
        tell(site, own("web/eth0"), accepted=accepted, grants=(PodGrant("web/eth0", interface_id="eni-2"),))
        answer = site.finish(waits)
        assert answer.body["ips"][0]["address"] == f"{OWN}/32"

    def test_one_from_a_record_that_does_not_answer_the_pods_report_is_not_lent_to_it(self, site: Site) -> None:
        waits = add(site, "web", security_groups=GROUP)
        report = asked(site, "web")
        applied(site, tell(site, own("web/eth0"), accepted=replace(report.order, sequence=report.order.sequence - 1)))
        assert not served(site, waits)
        tell(site, own("web/eth0"), accepted=report.order, grants=(PodGrant("web/eth0", interface_id="eni-2"),))
        assert site.finish(waits).code == 0

    def test_another_nodes_record_is_not_taken_at_all(self, site: Site) -> None:
        waits = add(site, "web", security_groups=GROUP)
        accepted = asked(site, "web").order
        told = tell(site, own("web/eth0"), accepted=accepted, instance_arn=f"{ARN[:-1]}1")
        eventually(lambda: "instance_arn" in str(site.ask("status")["trouble"]), "the agent tells of it")
        assert not served(site, waits)
        assert last(site).acknowledged_revision < told.revision
        assert MAC not in netns.run(NODE, ["nft", "list", "ruleset"]).stdout
        assert "300000002" not in netns.run(NODE, ["ip", "rule"]).stdout

    def test_other_pods_get_none_of_it(self, site: Site) -> None:
        applied(site, tell(site, own("another/eth0"), accepted=LATE))
        lent = {site.add(f"plain-{n}") for n in range(4)}
        assert OWN not in lent


def rewritten(site: Site, address: str) -> bool:
    """Whether what the address sends to the internet leaves as the node."""
    listed = netns.run(NODE, ["nft", "list", "table", "ip", "berth"]).stdout
    return address not in listed.partition("set public {")[2].partition("}\n")[0]


class TestGrant:
    CIDRS = (PREFIX, f"{SINGLE}/32")

    def grant(self, pod: str, address: str) -> PodGrant:
        return PodGrant(f"{pod}/eth0", address=address, public_address=PUBLIC, allocation_id="eipalloc-1")

    def test_one_of_another_pod_or_address_neither_serves_a_pod_nor_changes_what_it_sends(self, site: Site) -> None:
        plain = site.add("plain")
        tell(site, see="", cidrs=self.CIDRS)
        waits = add(site, "web", public_address="pool:blue")
        eventually(lambda: any(q.address == SINGLE for q in last(site).requests), "it has its address")
        for grants in (
            (self.grant("another", SINGLE),),
            (self.grant("web", plain),),
            (self.grant("plain", plain),),
            (self.grant("web", ANOTHER), self.grant("another", plain)),
        ):
            applied(site, tell(site, see="", cidrs=self.CIDRS, accepted=LATE, grants=grants))
            assert waits.poll() is None
            assert rewritten(site, plain)
            assert rewritten(site, SINGLE)
        tell(site, see="", cidrs=self.CIDRS, grants=(self.grant("web", SINGLE),))
        assert site.finish(waits).code == 0
        assert not rewritten(site, SINGLE)
        assert rewritten(site, plain)
