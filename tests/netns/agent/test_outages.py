"""Agent down, killed, restarted; plugin killed; cloud down: through the real plugin."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from berth.contract import Order, Report

from tests.netns.agent.conftest import PREFIX, RUN, STATE, Site, eventually, record, shown

CONFIG = b'{"cniVersion": "1.1.0", "name": "berth", "type": "berth"}'
SPOOL = RUN / "spool"


def spooled() -> list[Path]:
    return sorted(p for p in SPOOL.iterdir() if not p.name.startswith(".")) if SPOOL.exists() else []


@pytest.fixture
def ready(site: Site) -> Site:
    site.serve(PREFIX)
    site.start()
    site.ready()
    return site


def waiting_add(site: Site, pod: str) -> subprocess.Popen[bytes]:
    """An ADD in the background that has no address to get."""
    site.pod(pod)
    process = site.popen(site.environment("ADD", pod), CONFIG)
    eventually(lambda: site.ask("status")["waiting"] == 1, "the ADD waits")
    return process


def test_without_an_agent_version_is_answered_del_is_kept_and_status_says_so(site: Site) -> None:
    assert site.call("VERSION").body["supportedVersions"][-1] == "1.1.0"
    answer = site.call("DEL", "pod-a")
    assert (answer.code, answer.text) == (0, "")
    assert len(spooled()) == 1
    status = site.call("STATUS")
    assert (status.code, status.body["code"]) == (1, 50)


@pytest.mark.parametrize(("age", "code"), [(0, 0), (50, 0), (70, 1), (-70, 1)])
def test_status_of_a_node_without_an_agent_goes_by_a_mark_of_the_last_minute(site: Site, age: int, code: int) -> None:
    mark = RUN / "ready"
    mark.touch()
    os.utime(mark, (time.time() - age,) * 2)
    status = site.call("STATUS")
    assert status.code == code
    assert code == 0 or status.body["code"] == 50


def test_a_del_kept_while_the_agent_was_down_is_done_before_it_serves(ready: Site) -> None:
    ready.add("pod-a")
    ready.add("pod-b")
    ready.stop()
    assert ready.call("DEL", "pod-a").code == 0
    assert len(spooled()) == 1
    ready.start()
    assert [p["container_id"] for p in ready.ask("pods")["pods"]] == ["pod-b"]
    assert spooled() == []


def test_a_del_kept_a_moment_too_late_and_one_of_garbage_are_drained_too(ready: Site) -> None:
    ready.add("pod-a")
    (SPOOL / "2").write_bytes(b"not a request")
    environment = "".join(f"{k}={v}\0" for k, v in ready.environment("DEL", "pod-a").items())
    (SPOOL / "1").write_bytes(environment.encode() + b"\0" + b"no configuration")
    eventually(lambda: not spooled(), "the spool is empty")
    assert ready.ask("pods")["pods"] == []


def test_add_waits_for_an_agent_that_starts(site: Site) -> None:
    site.serve(PREFIX)
    site.pod("pod-a")
    process = site.popen(site.environment("ADD", "pod-a"), CONFIG)
    site.start(wait=False)
    assert site.finish(process).body["ips"][0]["address"] == "10.0.1.16/32"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_pods_survive_a_restart_of_the_agent_and_so_does_the_nodes_readiness(ready: Site, number: int) -> None:
    address = ready.add("pod-a")
    ready.stop(number)
    assert ready.status_ok()
    ready.start()
    assert ready.add("pod-a") == address
    assert ready.add("pod-b") != address
    assert ready.call("DEL", "pod-a").code == 0


def test_an_add_whose_agent_is_killed_in_the_middle_is_done_by_the_next_one(ready: Site) -> None:
    block = ready.folder / "block"
    block.touch()
    ready.pod("pod-a")
    process = ready.popen(ready.environment("ADD", "pod-a"), CONFIG)
    eventually(lambda: ready.ask("status")["in_use"] == 1, "the ADD is being wired")
    ready.stop(signal.SIGKILL)
    block.unlink()
    ready.start()
    answer = ready.finish(process)
    assert answer.code == 0, answer.text
    # What was lent to the half of an ADD cools, since the kernel may have shown it for a moment.
    assert answer.body["ips"][0]["address"] == "10.0.1.17/32"
    assert ready.ask("status")["cooling"] == 1


def test_an_add_that_waits_while_the_agent_is_restarted_goes_on_waiting(site: Site) -> None:
    site.serve("10.0.1.9/32")
    site.start()
    site.ready()
    site.add("pod-a")
    process = waiting_add(site, "pod-b")
    site.stop()
    site.serve("10.0.1.9/32", PREFIX, revision=2)
    site.start()
    assert site.finish(process).body["ips"][0]["address"] == "10.0.1.16/32"


def test_a_plugin_killed_while_its_add_waits_takes_no_address(site: Site) -> None:
    site.serve("10.0.1.9/32", cooldown=0)
    site.start()
    site.ready()
    site.add("pod-a")
    process = waiting_add(site, "pod-b")
    process.kill()
    process.communicate()
    eventually(lambda: site.ask("status")["waiting"] == 0, "the hang-up is noticed")
    site.call("DEL", "pod-a")
    eventually(lambda: site.ask("status")["free"] == 1, "the address is free again")


def test_a_plugin_killed_while_its_pod_is_wired_has_its_add_undone(ready: Site) -> None:
    block = ready.folder / "block"
    block.touch()
    ready.pod("pod-a")
    process = ready.popen(ready.environment("ADD", "pod-a"), CONFIG)
    eventually(lambda: ready.ask("status")["in_use"] == 1, "the ADD is being wired")
    process.kill()
    process.communicate()
    block.unlink()
    eventually(lambda: ready.ask("status")["in_use"] == 0, "the ADD is undone")
    assert (ready.folder / "links.json").read_text() == "[]"


def test_a_del_ends_the_waiting_add_of_its_container(site: Site) -> None:
    site.serve("10.0.1.9/32")
    site.start()
    site.ready()
    site.add("pod-a")
    process = waiting_add(site, "pod-b")
    assert site.call("DEL", "pod-b").code == 0
    answer = site.finish(process)
    assert answer.body["code"] == 11
    assert "cancelled by a DEL" in answer.body["msg"]


def test_pods_that_wait_get_addresses_in_the_order_in_which_they_came(site: Site) -> None:
    site.serve("10.0.1.9/32")
    site.start()
    site.ready()
    site.add("pod-a")
    waiting = []
    for number, pod in enumerate(("pod-b", "pod-c", "pod-d"), 1):
        site.pod(pod)
        waiting.append(site.popen(site.environment("ADD", pod), CONFIG))
        eventually(functools.partial(_waits, site, number), "it waits")
    report = eventually(lambda: [r for r in site.cloud.reports if len(r.waiting) == 3], "the shortage is reported")[-1]
    assert (report.in_use, report.waiting) == (1, ("pod-b", "pod-c", "pod-d"))
    site.serve("10.0.1.9/32", PREFIX, revision=2)
    addresses = [site.finish(p).body["ips"][0]["address"] for p in waiting]
    assert addresses == ["10.0.1.16/32", "10.0.1.17/32", "10.0.1.18/32"]


def test_a_refused_pod_is_reported_once_and_without_a_break_until_it_is_tried_again(site: Site) -> None:
    """Its demand must not come and go between the attempts: each change costs a report and a plan of the Lambda."""
    site.serve("10.0.1.9/32")
    site.start(add_wait_seconds=0.2)
    site.ready()
    site.add("pod-a")
    arguments: dict[str, Any] = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=n;K8S_POD_NAME=b;K8S_POD_UID=uid-b"}
    for container in ("pod-b1", "pod-b2"):
        assert site.call("ADD", container, **arguments).body["code"] == 11
        assert site.call("DEL", container, **arguments).code == 0
        _reported(site, lambda r: r.waiting == ("uid-b",))
        assert site.ask("status")["waiting"] == 1
    waiting = [r.waiting for r in site.cloud.reports]
    assert set(waiting[waiting.index(("uid-b",)) :]) == {("uid-b",)}
    assert site.call("DEL", "pod-b2", **arguments).code == 0
    _reported(site, lambda r: r.waiting == ())


def test_a_node_serves_from_the_record_on_disk_while_aws_is_down(ready: Site) -> None:
    address = ready.add("pod-a")
    ready.stop()
    ready.cloud.fail = {"DynamoDB": [(500, "{}")] * 10_000, "AmazonSQS": [(500, "{}")] * 10_000}
    ready.start()
    assert ready.add("pod-b") != address
    status = ready.ask("status")
    assert "HTTP 500" in status["trouble"]["record"]
    eventually(lambda: ready.ask("status")["report_failures"] > 0, "reports fail")
    ready.cloud.fail = {}
    before = len(ready.cloud.reports)
    eventually(lambda: len(ready.cloud.reports) > before, "reports arrive again")


def test_reports_rise_in_order_over_restarts_and_a_lost_file(ready: Site) -> None:
    def newest() -> Order:
        seen = len(ready.cloud.reports)
        eventually(lambda: len(ready.cloud.reports) > seen, "a report")
        return ready.cloud.reports[-1].order

    first = newest()
    ready.stop(signal.SIGKILL)
    ready.start()
    second = newest()
    ready.stop()
    (STATE / "node.json").unlink()
    ready.cloud.record = replace(record(PREFIX, revision=9), accepted=second)
    ready.start()
    assert first < second < newest()


def test_two_phases_of_a_release(site: Site) -> None:
    """Surplus is surrendered, acknowledged once marked, never lent while marked, and forgotten when it is gone."""
    spare = "10.0.1.32/28"
    site.serve(PREFIX, spare, warm=1)
    site.start(surrender_hold_seconds=0)
    site.ready()
    last = _reported(site, lambda r: [s.cidr for s in r.surrendered] == [spare])
    assert last.surrendered[0].assignment == f"as-{spare}"
    site.cloud.record = record(PREFIX, spare, revision=2, warm=1, releasing=spare)
    _reported(site, lambda r: r.acknowledged_revision == 2 and [s.cidr for s in r.surrendered] == [spare])
    assert [b["state"] for i in site.ask("interfaces")["interfaces"] for b in i["blocks"]] == ["usable", "releasing"]
    site.serve(PREFIX, revision=3, warm=1)
    _reported(site, lambda r: r.acknowledged_revision == 3 and r.surrendered == ())


def test_a_surrendered_block_is_taken_back_when_pods_come(site: Site) -> None:
    spare = "10.0.1.9/32"
    site.serve("10.0.1.8/32", spare)
    site.start(surrender_hold_seconds=0)
    site.ready()
    assert site.add("pod-a") == "10.0.1.8"
    _reported(site, lambda r: [s.cidr for s in r.surrendered] == [spare])
    assert site.add("pod-b") == "10.0.1.9"
    _reported(site, lambda r: r.surrendered == () and r.in_use == 2)


def _waits(site: Site, number: int) -> bool:
    return bool(site.ask("status")["waiting"] == number)


def _reported(site: Site, condition: Callable[[Report], bool]) -> Report:
    def found() -> Report | None:
        return next((r for r in reversed(site.cloud.reports) if condition(r)), None)

    report: Report = eventually(found, "it is reported")
    return report


def test_stale_metadata_is_reported_and_its_block_not_lent(site: Site) -> None:
    site.cloud.record = record(PREFIX, "10.0.1.9/32")
    site.cloud.interfaces = shown(PREFIX)
    site.start()
    site.ready()
    assert site.add("pod-a") == "10.0.1.16"
    assert _reported(site, lambda r: r.unusable == ("10.0.1.9/32",)).in_use in (0, 1)


def test_a_second_agent_refuses_to_start(ready: Site) -> None:
    other = Site(ready.cloud, ready.folder, ready.plugin)
    other.start(wait=False)
    assert other.process
    assert other.process.wait(15) == 1
    assert "another agent runs on this node" in ready.log()


def test_the_agent_stops_in_order(ready: Site) -> None:
    assert ready.stop() == 0
    assert not (RUN / "cni.sock").exists()
    assert time.time() - (RUN / "ready").stat().st_mtime < 30
