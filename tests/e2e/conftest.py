"""The end-to-end run, once for all tests here: each stage is a fixture that needs the one before it.

``pytest tests/e2e`` starts itself again in a private world; see ``tests/netns/conftest.py``, which does the same.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from berth.contract import Record

from tests.sandbox import world_ns
from tests.sandbox.demo.__main__ import prepare
from tests.sandbox.demo.machine import running_sandbox
from tests.sandbox.demo.report import Report
from tests.sandbox.demo.stages import (
    ALPHA,
    BETA,
    PlacedPod,
    Scene,
    add_pods,
    deploy_stack,
    grow,
    launch,
    shrink,
    start_agents,
    terminate,
)
from tests.sandbox.stack import Settings


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Runs the same pytest in a private world, unless this is one. The build needs the network: do it before."""
    if world_ns.in_world():
        return None
    prepare(Report())
    return world_ns.run([sys.executable, "-m", "pytest", *config.invocation_params.args])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The shared run comes last: one sandbox at a time runs in a world, and that one lives until the session ends."""
    items.sort(key=lambda item: "scene" in getattr(item, "fixturenames", ()))


@dataclass(slots=True)
class Told:
    """What a stage found, and the scene as it is after it."""

    scene: Scene
    found: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="session")
def scene() -> Iterator[Scene]:
    with running_sandbox(Settings()) as endpoint:
        scene = Scene(Report(out=io.StringIO()), endpoint)
        yield scene
        for machine in scene.machines.values():
            machine.node.stop_agent()


@pytest.fixture(scope="session")
def deployed(scene: Scene) -> dict[str, str]:
    return deploy_stack(scene)


@pytest.fixture(scope="session")
def launched(scene: Scene, deployed: dict[str, str]) -> dict[str, Record]:
    return launch(scene, [ALPHA, BETA])


@pytest.fixture(scope="session")
def serving(scene: Scene, launched: dict[str, Record]) -> Scene:
    start_agents(scene)
    return scene


@pytest.fixture(scope="session")
def twenty(serving: Scene) -> list[PlacedPod]:
    """18 pods on alpha (two interfaces of single addresses), 2 on beta (one prefix)."""
    alpha = add_pods(serving, serving.machines["alpha"], 18, "web")
    return alpha + add_pods(serving, serving.machines["beta"], 2, "db")


@pytest.fixture(scope="session")
def grown(serving: Scene, twenty: list[PlacedPod]) -> list[PlacedPod]:
    """30 more on beta, whose prefix holds 14 more."""
    return grow(serving, serving.machines["beta"], 30)


@pytest.fixture(scope="session")
def shrunk(serving: Scene, grown: list[PlacedPod]) -> Told:
    before, after = shrink(serving, serving.machines["beta"], grown)
    return Told(serving, {"before": before, "after": after})


@pytest.fixture(scope="session")
def ended(shrunk: Told) -> Told:
    """beta is terminated."""
    return Told(shrunk.scene, terminate(shrunk.scene, shrunk.scene.machines["beta"]))
