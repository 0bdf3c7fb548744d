"""Tests here run ``make demo`` as a person does: from outside any private world, in a checkout of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.sandbox import world_ns

_HERE: Final = Path(__file__).parent
_NOT_COPIED: Final = (".git", ".venv*", "build", ".aws-sam", "__pycache__", ".*_cache", ".hypothesis")
_WARM: Final = ("plugin", "sam-cache")
"""What a second run finds below build/: compiling it again here would prove nothing and takes minutes."""
SHELL_SETTINGS: Final = {
    "AWS_PROFILE": "nobody",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_DEFAULT_REGION": "cn-north-1",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "PYTHONPATH": "/nowhere",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
    "LC_ALL": "C",
    "TERM": "dumb",
}
"""What somebody's shell may have set. Nothing of it may matter."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks everything below this directory, and skips it inside a private world, which makes no world of its own."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if world_ns.in_world():
                item.add_marker(pytest.mark.skip(reason="inside a private world: run `make command`"))


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := bool(condition())) and time.monotonic() < deadline:
        time.sleep(0.05)
    return met


@dataclass(slots=True)
class Started:
    """A running ``make``, in a process group of its own as a shell starts it."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def reaches(self, text: str) -> None:
        """Wait until it has printed ``text``."""
        assert eventually(lambda: text in self.output or self.process.poll() is not None, 90), self.output
        assert text in self.output, self.output

    def ends(self, seconds: float = 100) -> int:
        return self.process.wait(seconds)


@dataclass(frozen=True, slots=True)
class Checkout:
    """A copy of this checkout, with its environment and what was compiled."""

    path: Path

    def start(self, *arguments: str) -> Started:
        log = self.path.with_name("output")
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["make", *arguments],
                cwd=self.path,
                env=_shell_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Started(process, log)

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, cwd=self.path, env=_shell_environment(), capture_output=True, text=True, check=False, timeout=60
        )

    def result(self, name: str = "demo.json") -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.path / "build" / name).read_text())
        return document

    def processes(self) -> dict[int, str]:
        """Every process that runs from here or has it on its command line: pid → command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if str(self.path) in words or (entry / "cwd").readlink().is_relative_to(self.path):
                        found[int(entry.name)] = words
                except OSError:
                    continue
        return found

    def process(self, words: str) -> int:
        """The one process from here with ``words`` on its command line.

        A process that is just starting another one is seen twice: until its exec, a child shows its parent's words.
        """
        found = {pid for pid, line in self.processes().items() if words in line}
        (eldest,) = (pid for pid in found if _parent(pid) not in found)
        return eldest

    def files(self) -> set[str]:
        """Everything below it but build/ and the environments."""
        names = {p.relative_to(self.path).as_posix() for p in self.path.rglob("*")}
        return {name for name in names if not name.startswith(("build", ".venv"))}


def _parent(pid: int) -> int | None:
    """None once it has ended. The name of the command, in parentheses, may hold spaces: proc(5)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _shell_environment() -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PYTHON", "MAKE", "MFLAGS", "LC_"))}
    return inherited | SHELL_SETTINGS


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run must leave as it was. Namespaces end with the last process or mount that holds them."""

    mounts: str
    named_namespaces: tuple[str, ...]
    files: frozenset[str]

    @classmethod
    def now(cls, checkout: Checkout) -> Machine:
        netns = Path("/run/netns")
        names = tuple(sorted(os.listdir(netns))) if netns.is_dir() else ()
        return cls(Path("/proc/self/mountinfo").read_text(), names, frozenset(checkout.files()))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """In a folder with a space in its name, below /tmp, which a private world covers."""
    path = tmp_path_factory.mktemp("command") / "a checkout"
    shutil.copytree(world_ns.REPOSITORY, path, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_COPIED))
    (path / ".venv").symlink_to(world_ns.REPOSITORY / ".venv")
    for name in _WARM:
        if (source := world_ns.REPOSITORY / "build" / name).is_dir():
            shutil.copytree(source, path / "build" / name)
    made = Checkout(path)
    yield made
    made.run(["make", "stop"])
    for pid in made.processes():  # only after a failed test
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def untouched(checkout: Checkout) -> Iterator[Machine]:
    """The machine before the test; after it nothing may have been left."""
    before = Machine.now(checkout)
    yield before
    assert eventually(lambda: not checkout.processes()), checkout.processes()
    assert Machine.now(checkout) == before
