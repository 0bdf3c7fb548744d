"""The deployed flat-network check, beside packets: what it says of the VPC is what nodes meet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from berth.bus import SOURCE
from berth.cli import check as command
from berth.cli.main import main

from tests.e2e.scenes import BusListener, dead_letters, new_scene, settle, trail_tells
from tests.sandbox.account import wait_for
from tests.sandbox.demo.asking import pings_stopped, primary
from tests.sandbox.demo.stages import Scene
from tests.sandbox.landscape import CLUSTER, NodeSpec, client
from tests.sandbox.ping import ping

pytestmark = pytest.mark.long

SPECS = [
    NodeSpec("alpha", "a", "t3.medium", {"mode": "prefixes"}),
    NodeSpec("beta", "b", "t3.medium", {"mode": "prefixes"}),
]


@pytest.fixture(scope="module")
def site() -> Iterator[Scene]:
    with new_scene(SPECS, parameters={"WatchCloudTrail": "true"}) as scene:
        settle(scene)
        yield scene
        assert dead_letters(scene) == {}


def checked(scene: Scene) -> dict[str, int]:
    name = scene.stack.outputs["FlatCheckFunctionName"]
    answer = scene.stack.client("lambda").invoke(FunctionName=name)
    payload = answer["Payload"].read()
    assert "FunctionError" not in answer, payload
    return dict(json.loads(payload))


def reached(scene: Scene) -> bool:
    """Whether a ping from alpha to beta is answered."""
    return ping(scene.machines["alpha"].id, primary(scene, "beta"), timeout=1).ok


def flat_events(listener: BusListener) -> list[dict[str, Any]]:
    return [e["detail"] for e in listener.all() if (e["source"], e["detail-type"]) == (SOURCE, "Network Not Flat")]


def test_the_check_finds_the_sandbox_flat_and_pings_agree(site: Scene) -> None:
    counts = checked(site)
    assert counts["FlatCells"] > 40
    assert (counts["FlatCellsFailing"], counts["FlatCellsUnknown"]) == (0, 0)
    assert wait_for("a ping", lambda: reached(site))


def test_an_acl_that_stops_pings_is_told_on_the_bus_with_its_remedy(site: Scene) -> None:
    listener = BusListener(site)
    with pings_stopped(site) as acl:
        assert not reached(site)
        counts = checked(site)
        assert counts["FlatCellsFailing"] > 0
        (told, *_) = wait_for("the event", lambda: flat_events(listener))
    assert told["failing"] == counts["FlatCellsFailing"]
    assert {c["resource"] for c in told["causes"]} == {acl}
    assert all("ICMP" in c["rule"] and c["remedy"] for c in told["causes"])
    assert wait_for("a ping", lambda: reached(site))


def test_a_trail_that_tells_of_a_change_has_it_checked(site: Scene) -> None:
    """The trail's event is put by hand, as EventBridge has it; the account here has no trail."""
    assert site.landscape is not None
    functions, ec2 = site.stack.client("lambda"), site.stack.client("ec2")
    (mapping,) = (
        m
        for m in functions.list_event_source_mappings()["EventSourceMappings"]
        if "NetworkChange" in m["EventSourceArn"]
    )
    functions.update_event_source_mapping(UUID=mapping["UUID"], MaximumBatchingWindowInSeconds=1)
    group = ec2.create_security_group(VpcId=site.landscape.vpc, GroupName="listed", Description="names a prefix list")
    entries = [{"Cidr": "192.168.50.0/24", "Description": "office"}]
    made = ec2.create_managed_prefix_list(PrefixListName="office", AddressFamily="IPv4", MaxEntries=5, Entries=entries)[
        "PrefixList"
    ]["PrefixListId"]
    allowed = [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 65535, "PrefixListIds": [{"PrefixListId": made}]}]
    ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=allowed)
    before = len(flat_events(listener := BusListener(site)))
    with pings_stopped(site):
        trail_tells(site, "CreateNetworkAclEntry", {"ruleNumber": 50})
        wait_for("the event", lambda: len(flat_events(listener)) > before, 60)


def test_the_command_says_the_same_now_and_from_its_file(
    site: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Session:
        def client(self, service: str, **_: Any) -> Any:
            return client(service, site.endpoint)

    monkeypatch.setattr("berth.cli.account.session", lambda _: Session())
    saved, page = tmp_path / "net.json", tmp_path / "net.html"
    with pings_stopped(site) as acl:
        code = main(["check", "--stack", "berth", "--save", str(saved), "--html", str(page), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (code, found["flat"]) == (1, False)
    assert {c["resource"] for c in found["causes"]} == {acl}
    assert acl in page.read_text()
    assert main(["check", "--from", str(saved), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == found
    assert main(["check", "--cluster", CLUSTER]) == 0
    assert "The network is flat" in capsys.readouterr().out
    assert command.run is not None
