"""A pod's annotations come from the runtime: containerd hands over a sandbox's."""

from __future__ import annotations

import json
from pathlib import Path

from tests.netns.agent.conftest import Site
from tests.runtime.test_sandboxes import pods
from tests.sandbox.containerd import CNI_CONF, Containerd, PodSpec


def test_a_sandboxs_annotations_are_kept_with_its_pod_over_an_agent_restart(site: Site, containerd: Containerd) -> None:
    (berth,) = json.loads(Path(CNI_CONF / "10-berth.conflist").read_text())["plugins"]
    assert berth["capabilities"]["io.kubernetes.cri.pod-annotations"] is True
    # as kubelet gives them: the pod's own and two of kubelet's
    given = (
        ("berth/note", '{"team": "näh"}'),
        ("kubernetes.io/config.seen", "2026-11-28T12:00:00Z"),
        ("kubernetes.io/config.source", "api"),
    )
    noted, plain = containerd.run(PodSpec("noted", annotations=given)), containerd.run(PodSpec("plain"))
    expected = {noted: {"berth/note": '{"team": "näh"}'}, plain: {}}
    assert {c: pod["annotations"] for c, pod in pods(site).items()} == expected
    site.stop()
    site.start()
    site.ready()
    assert {c: pod["annotations"] for c, pod in pods(site).items()} == expected
    containerd.remove(noted)
    assert list(pods(site)) == [plain]
