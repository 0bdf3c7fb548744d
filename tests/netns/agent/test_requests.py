"""What pods ask of the VPC, through the real plugin and agent: reported, waited for, answered by the record."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from berth.contract import PodGrant, PodRequest

from tests.netns.agent.conftest import PREFIX, Answer, Site, eventually

CAPABILITY = "io.kubernetes.cri.pod-annotations"
SINGLE, OTHER = "10.0.1.40/32", "10.0.1.41/32"
EIP = "203.0.113.10"


@pytest.fixture
def ready(site: Site) -> Site:
    """A node of prefixes whose agent is ready."""
    site.serve(PREFIX)
    site.start(add_wait_seconds=20)
    site.ready()
    return site


def begin(site: Site, container: str, **annotations: str) -> subprocess.Popen[bytes]:
    """An ADD under way, for a pod of that name with ``berth/…`` annotations."""
    site.pod(container)
    who = f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_UID=uid-{container}"
    asked = {f"berth/{key.replace('_', '-')}": value for key, value in annotations.items()}
    config = {"cniVersion": "1.1.0", "name": "berth", "type": "berth", "runtimeConfig": {CAPABILITY: asked}}
    return site.popen(site.environment("ADD", container, CNI_ARGS=who), json.dumps(config).encode())


def add(site: Site, container: str, **annotations: str) -> Answer:
    return site.finish(begin(site, container, **annotations))


def reported(site: Site, found: Any, what: str) -> PodRequest:
    """The first of the last report's requests for which ``found`` holds."""

    def look() -> Any:
        last = site.cloud.reports[-1] if site.cloud.reports else None
        return next((r for r in (last.requests if last else ()) if found(r)), None)

    request: PodRequest = eventually(look, what)
    return request


def grant(site: Site, *grants: PodGrant, blocks: tuple[str, ...] = (PREFIX, SINGLE)) -> None:
    revision = site.cloud.record.revision if site.cloud.record else 0
    site.serve(*blocks, revision=revision + 1)
    assert site.cloud.record
    site.cloud.record = replace(site.cloud.record, grants=grants)


def granted(request: PodRequest, eip: str = EIP) -> PodGrant:
    return PodGrant(request.id, request.address, eip, "eipalloc-0123456789abcdef0")


def test_a_pod_asks_for_a_single_address_then_for_the_public_one_and_starts_when_the_record_confirms(
    ready: Site,
) -> None:
    waiting = begin(ready, "pod-a", public_address="auto")
    first = reported(ready, lambda r: not r.address, "the request without an address")
    assert (first.id, first.public, first.namespace, first.name) == ("pod-a/eth0", "auto", "default", "pod-a")
    assert ready.add("pod-b") == "10.0.1.16"  # nobody waits behind it
    assert "waits" in ready.ask("explain", "default/pod-a")["lines"][0]
    grant(ready)
    second = reported(ready, lambda r: r.address, "the request with the address")
    assert second.address == "10.0.1.40"
    assert waiting.poll() is None
    grant(ready, granted(second))
    answer = ready.finish(waiting)
    assert (answer.code, answer.body["ips"][0]["address"]) == (0, "10.0.1.40/32"), answer.text
    (row,) = [p for p in ready.ask("pods")["pods"] if p["name"] == "pod-a"]
    assert (row["public_address"], row["missing"]) == (EIP, "")
    assert ready.ask("explain", "default/pod-a")["lines"][1] == f"its public address is {EIP}"
    assert ready.ask("status")["requests_unmet"] == []


def test_one_that_need_not_wait_starts_at_once_and_is_in_each_report_until_it_is_gone(ready: Site) -> None:
    grant(ready)
    eventually(lambda: ready.ask("status")["free"] == 17, "the single address is there")
    assert add(ready, "pod-a", public_address="pool:blue", public_address_wait="false").code == 0
    request = reported(ready, lambda r: r.public == "pool:blue", "the request")
    assert request.address == "10.0.1.40"
    ready.stop(signal.SIGKILL)
    before = len(ready.cloud.reports)
    ready.start(add_wait_seconds=20)
    eventually(lambda: len(ready.cloud.reports) > before, "a report of the new agent")
    assert ready.cloud.reports[-1].requests == (request,)
    assert ready.call("DEL", "pod-a").code == 0
    eventually(lambda: ready.cloud.reports[-1].requests == (), "a report without it")


def test_patience_ends_with_code_11_and_the_reason_that_the_record_gives(site: Site) -> None:
    site.serve(PREFIX, SINGLE)
    site.start(add_wait_seconds=3)
    site.ready()
    waiting = begin(site, "pod-a", public_address="auto")
    request = reported(site, lambda r: r.address, "the request")
    grant(site, PodGrant(request.id, problem="no address of the pool is free"))
    answer = site.finish(waiting)
    assert (answer.code, answer.body["code"]) == (1, 11)
    assert "no address of the pool is free" in answer.body["msg"]
    assert site.ask("pods")["pods"] == []
    eventually(lambda: site.cloud.reports[-1].requests == (), "it asks no more")


def test_a_del_ends_the_wait_in_either_phase(ready: Site) -> None:
    waiting = begin(ready, "pod-a", public_address="auto")
    reported(ready, lambda r: not r.address, "the request without an address")
    assert ready.call("DEL", "pod-a").code == 0
    assert ready.finish(waiting).body["code"] == 11
    grant(ready)
    waiting = begin(ready, "pod-b", public_address="auto")
    reported(ready, lambda r: r.address, "the request with the address")
    assert ready.call("DEL", "pod-b").code == 0
    assert ready.finish(waiting).body["code"] == 11
    eventually(lambda: ready.cloud.reports[-1].requests == (), "nobody asks any more")


def test_a_plugin_that_hangs_up_ends_the_wait(ready: Site) -> None:
    grant(ready)
    waiting = begin(ready, "pod-a", public_address="auto")
    reported(ready, lambda r: r.address, "the request")
    waiting.kill()
    eventually(lambda: ready.cloud.reports[-1].requests == (), "it asks no more")
    assert ready.ask("pods")["pods"] == []


def test_an_agent_that_is_stopped_leaves_the_add_to_the_next_one(ready: Site) -> None:
    grant(ready)
    waiting = begin(ready, "pod-a", public_address="auto")
    reported(ready, lambda r: r.address, "the request")
    grant(ready, blocks=(PREFIX, SINGLE, OTHER))
    ready.stop()
    ready.start(add_wait_seconds=20)
    again = reported(ready, lambda r: r.address == "10.0.1.41", "the request of the plugin's next try")
    grant(ready, granted(again), blocks=(PREFIX, SINGLE, OTHER))
    assert ready.finish(waiting).code == 0


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({"public_address": "yes"}, "berth/public-address"),
        ({"public_address": "eipalloc-xyz"}, "berth/public-address"),
        ({"public_address": "pool:"}, "berth/public-address"),
        ({"public_address": "auto", "public_address_wait": "no"}, "berth/public-address-wait"),
        ({"security_groups": "sg-1,web"}, "berth/security-groups"),
        ({"security_groups": ""}, "berth/security-groups"),
    ],
)
def test_a_bad_value_is_code_7_and_names_the_annotation(ready: Site, annotations: dict[str, str], name: str) -> None:
    answer = add(ready, "pod-a", **annotations)
    assert answer.body["code"] == 7
    assert repr(name) in answer.body["msg"]


def test_check_tells_of_a_public_address_that_is_gone(ready: Site) -> None:
    grant(ready)
    waiting = begin(ready, "pod-a", public_address="auto")
    grant(ready, granted(reported(ready, lambda r: r.address, "the request")))
    result = ready.finish(waiting).body
    assert ready.call("CHECK", "pod-a", prevResult=result).code == 0
    grant(ready)
    eventually(lambda: ready.ask("status")["requests_unmet"], "the agent has read it")
    wrong = ready.call("CHECK", "pod-a", prevResult=result)
    assert wrong.body["code"] == 100
    assert "berth/public-address" in wrong.body["details"]


def test_an_address_rests_for_as_long_as_the_record_says_that_it_has_a_public_one(site: Site) -> None:
    """The next pod would get the public address with it."""
    site.serve(PREFIX, SINGLE, cooldown=0)
    site.start()
    site.ready()
    waiting = begin(site, "pod-a", public_address="auto")
    request = reported(site, lambda r: r.address, "the request")
    revision = site.cloud.record.revision + 1 if site.cloud.record else 1
    site.serve(PREFIX, SINGLE, cooldown=0, revision=revision)
    assert site.cloud.record
    site.cloud.record = replace(site.cloud.record, grants=(granted(request),))
    assert site.finish(waiting).code == 0
    assert site.call("DEL", "pod-a").code == 0
    assert site.ask("status")["cooling"] == 1
