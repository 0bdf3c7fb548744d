"""Pods' annotations through the real plugin and agent: kept with the pod, over a killed agent, shown, told of once."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.netns.agent.conftest import PREFIX, Answer, Site

CAPABILITY = "io.kubernetes.cri.pod-annotations"


@pytest.fixture
def ready(site: Site) -> Site:
    """A node with one prefix whose agent is ready."""
    site.serve(PREFIX)
    site.start()
    site.ready()
    return site


def add(site: Site, container: str, annotations: Any) -> Answer:
    pod = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_UID=uid-{container}"
    return site.call("ADD", container, CNI_ARGS=pod, runtimeConfig={CAPABILITY: annotations})


def shown(site: Site) -> dict[str, dict[str, str]]:
    return {pod["name"]: pod["annotations"] for pod in site.ask("pods")["pods"]}


def test_they_are_shown_with_the_pod_and_outlive_a_killed_agent(ready: Site) -> None:
    assert add(ready, "pod-a", {"berth/note": "for me", "app": "x"}).code == 0
    assert add(ready, "pod-b", None).code == 0
    kept = {"pod-a": {"berth/note": "for me"}, "pod-b": {}}
    assert shown(ready) == kept
    ready.stop(signal.SIGKILL)
    ready.start()
    ready.ready()
    assert shown(ready) == kept
    lines = ready.ask("explain", "default/pod-a")["lines"]
    assert lines[1:] == ["annotation 'berth/note': 'for me' (unknown here)"]
    assert any("'berth/note' means nothing to this version" in line for line in ready.ask("explain")["lines"])
    assert ready.call("DEL", "pod-a").code == 0
    assert shown(ready) == {"pod-b": {}}


def test_a_bad_shape_fails_the_add_with_code_7_takes_no_address_and_never_blocks_the_del(ready: Site) -> None:
    refused = add(ready, "pod-a", {"berth/note": 1})
    assert (refused.code, refused.body["code"]) == (1, 7)
    assert CAPABILITY in refused.body["msg"]
    assert shown(ready) == {}
    assert add(ready, "pod-a", {"berth/note": "x" * 4000}).code == 0
    assert ready.call("DEL", "pod-a", runtimeConfig={CAPABILITY: ["bad"]}).code == 0
    assert shown(ready) == {}


def test_a_quarter_of_a_megabyte_of_others_annotations_passes(ready: Site) -> None:
    assert add(ready, "pod-a", {"other": "x" * 262_000, "berth/note": "me"}).code == 0
    assert shown(ready) == {"pod-a": {"berth/note": "me"}}
