"""What the layer's build compiles ahead is used, is the same, and is not needed."""

from __future__ import annotations

import json
import marshal
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LAYER = Path(__file__).parents[3] / "layers" / "berth"
_LOOK = """
import builtins, gc, json, sys
texts = []
real = builtins.exec
def seen(source, *scopes):
    texts.append(isinstance(source, str))
    real(source, *scopes)
builtins.exec = seen
import berth.coldstart
paused = not gc.isenabled()
from berth.calls import Attach
from berth.contract import Order
berth.coldstart.started()
import dataclasses
broken = []
try:
    Order().boot = 3
except dataclasses.FrozenInstanceError:
    broken.append("frozen")
print(json.dumps({
    "compiled": sum(texts), "paused": paused, "enabled": gc.isenabled(),
    "restored": "exec" not in vars(dataclasses), "frozen": broken,
    "values": [repr(Attach("eni-1", 2)), Attach("a", 1) == Attach("a", 1), Order(1, 2) < Order(2, 1),
               len({Order(1), Order(1)}), hasattr(Order(), "__dict__")],
}))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a build leaves it."""
    folder = tmp_path_factory.mktemp("layer")
    ignore = shutil.ignore_patterns("__pycache__", "cli")
    shutil.copytree(LAYER / "berth", folder / "berth", ignore=ignore)
    subprocess.run([sys.executable, "-B", LAYER / "generate.py", folder], check=True, timeout=60)
    return folder


def _look(package: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([sys.executable, "-c", _LOOK], env=environment, check=True, capture_output=True, timeout=60)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def _file(package: Path) -> Path:
    (found,) = package.glob("berth/__pycache__/generated.*.bin")
    return found


def test_methods_of_dataclasses_come_ready_made(package: Path) -> None:
    found = _look(package)
    assert (found["compiled"], found["frozen"]) == (0, ["frozen"])


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\x00nonsense", marshal.dumps((b"old", {"x": 1})), marshal.dumps(7)],
    ids=["missing", "empty", "torn", "of another Python", "of another kind"],
)
def test_without_them_everything_is_the_same(package: Path, content: bytes | None, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "layer")
    if content is None:
        _file(tmp_path / "layer").unlink()
    else:
        _file(tmp_path / "layer").write_bytes(content)
    found, ready = _look(tmp_path / "layer"), _look(package)
    assert found["compiled"] > 0
    assert found["values"] == ready["values"]


def test_the_collector_rests_until_all_is_there_and_dataclasses_are_left_as_they_were(package: Path) -> None:
    found = _look(package)
    assert (found["paused"], found["enabled"], found["restored"]) == (True, True, True)


def test_an_interpreter_that_knows_less_does_not_replace_what_another_compiled(package: Path) -> None:
    before = _file(package).read_bytes()
    # no botocore, as on a machine that only builds
    lesser = [sys.executable, "-B", "-S", str(LAYER / "generate.py"), str(package)]
    run = subprocess.run(lesser, check=True, capture_output=True, text=True, timeout=60)
    assert "not ready-made" in run.stderr
    assert _file(package).read_bytes() == before
