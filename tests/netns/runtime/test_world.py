"""What a private world promises: nothing of it is left on the machine, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.sandbox import world_ns
from tests.sandbox.waiting import eventually

WORLD = [sys.executable, "-m", "tests.sandbox.world_ns"]
TREE = """
import os, subprocess, sys, time
subprocess.run(["ip", "netns", "add", "inner"], check=True)
child = "import os, time; os.setsid(); print('up', flush=True); time.sleep(600)"
for _ in range(2):
    subprocess.Popen([sys.executable, "-c", child, sys.argv[1]])
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
# only now: a KeyboardInterrupt in the destructor of the Popen above would be swallowed (object.__del__)
print("up", flush=True)
time.sleep(600)
"""


def processes(mark: str) -> list[int]:
    """Every process whose command line has the mark, in this pid namespace and below."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def tree() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A world with a tree of five processes in several sessions, all named by a mark."""
    mark = f"mark-{uuid4().hex}"
    argv = [*WORLD, "--", sys.executable, "-c", TREE, mark]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout is not None
        assert [outer.stdout.readline() for _ in range(3)] == ["up\n"] * 3
        try:
            yield outer, mark
        finally:
            outer.kill()


def test_killing_the_outermost_process_leaves_no_process(tree: tuple[subprocess.Popen[str], str]) -> None:
    outer, mark = tree
    before = mounts()
    assert eventually(lambda: len(processes(mark)) >= 5 + 3)  # the tree; outer, unshare, process 1
    outer.kill()
    outer.wait()
    assert eventually(lambda: not processes(mark)), processes(mark)
    assert mounts() == before


def test_killing_unshare_leaves_no_process(tree: tuple[subprocess.Popen[str], str]) -> None:
    outer, mark = tree
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    assert outer.wait(20) == 128 + signal.SIGKILL
    assert not processes(mark)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_forwarded_and_everything_ends(tree: tuple[subprocess.Popen[str], str], number: int) -> None:
    outer, mark = tree
    outer.send_signal(number)
    assert outer.wait(20) in (128 + number, 1)
    assert not processes(mark)


def test_a_command_that_handles_ctrl_c_ends_in_its_own_way() -> None:
    code = "import signal, sys; signal.signal(2, lambda *_: sys.exit(42)); print('up', flush=True); signal.pause()"
    with subprocess.Popen([*WORLD, "--", sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "up\n"
        outer.send_signal(signal.SIGINT)
        assert outer.wait(20) == 42


def test_a_world_started_from_a_background_job_hears_ctrl_c_too() -> None:
    """There SIGINT is ignored, and without a word from us the command would inherit that."""
    argv = [*WORLD, "--", sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
    ignore = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    with subprocess.Popen([*ignore, *argv], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "up\n"
        outer.send_signal(signal.SIGINT)
        assert outer.wait(20) in (128 + signal.SIGINT, 1)


def test_it_starts_empty_and_leaves_no_file(tmp_path: Path) -> None:
    code = """
import os
from pathlib import Path
print(sorted(os.listdir("/run/netns")), os.environ["BERTH_SANDBOX_WORLD"], os.getpid() < 100)
for path in ("/etc/cni/net.d/a", "/opt/cni/bin/b", "/var/lib/berth/c", "/run/berth/d", "/tmp/MARK", "/etc/MARK"):
    Path(path).write_text("x")
print(Path("/sys/class/net").exists(), Path("/proc/net/dev").read_text().count(":"))
"""
    mark = uuid4().hex
    done = subprocess.run(
        [*WORLD, "--", sys.executable, "-c", code.replace("MARK", mark)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[] 1 True\nTrue 1\n", "")
    assert not Path("/tmp", mark).exists()
    assert not Path("/etc", mark).exists()


def test_the_checkout_is_the_real_one(tmp_path: Path) -> None:
    """A fresh clone below /tmp, which is covered by an overlay, must still get its build/demo.json."""
    environment = {**os.environ, "PYTHONPATH": str(world_ns.REPOSITORY)}
    argv = [*WORLD, "--", sys.executable, "-c", "open('result', 'w').write('kept'); open('../lost', 'w').close()"]
    here = tmp_path / "clone"
    here.mkdir()
    subprocess.run(argv, cwd=here, env=environment, check=True)
    assert (here / "result").read_text() == "kept"
    assert not (tmp_path / "lost").exists()


def test_its_exit_status_is_the_commands() -> None:
    assert world_ns.run(["sh", "-c", "exit 7"]) == 7
    assert world_ns.run(["sh", "-c", "kill -9 $$"]) == 128 + 9


def test_descriptors_are_passed_on_under_their_numbers() -> None:
    read, write = os.pipe()
    with os.fdopen(read) as reader:
        code = f"import os; os.write({write}, b'hello')"
        assert world_ns.run([sys.executable, "-c", code], extra_fds=(write,)) == 0
        os.close(write)
        assert reader.read() == "hello"


def test_a_module_can_be_run() -> None:
    assert world_ns.enter_private_world(["tests.sandbox.world_ns", "--help"]) == 0


def test_a_kept_world_can_be_entered_and_stopped() -> None:
    mark = f"mark-{uuid4().hex}"
    start = "import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)',"
    start += " sys.argv[1]], stdin=-3, stdout=-3, stderr=-3); os.system('ip netns add kept');"
    start += " print(os.environ['BERTH_SANDBOX_PID'], flush=True)"
    argv = [*WORLD, "--keep", "--", sys.executable, "-c", start, mark]
    pid = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.strip()
    look = [*WORLD, "--enter", pid, "--", "sh", "-c", "ls /run/netns; pwd"]
    seen = subprocess.run(look, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert seen == f"kept\n{Path.cwd()}\n"
    assert len(processes(mark)) == 3
    subprocess.run([*WORLD, "--stop", pid], check=True)
    assert eventually(lambda: not processes(mark))
    subprocess.run([*WORLD, "--stop", pid], check=True)
    assert subprocess.run([*WORLD, "--enter", pid, "--", "true"], stderr=-3, check=False).returncode == 125


def test_killing_the_outer_process_ends_a_world_that_was_to_be_kept() -> None:
    mark = f"mark-{uuid4().hex}"
    argv = [*WORLD, "--keep", "--", sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)", mark]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "1\n"
        outer.kill()
    assert eventually(lambda: not processes(mark))


def test_a_refused_mount_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_ns, "OVERLAYS", ("/proc",))
    with pytest.raises(world_ns.WorldError, match=r"mount.*overlay"):
        world_ns.run(["true"])


def test_another_process_is_neither_entered_nor_killed() -> None:
    with subprocess.Popen(["sleep", "600"]) as bystander:
        world_ns.stop(bystander.pid)
        with pytest.raises(world_ns.WorldError, match="not the first process"):
            world_ns.enter(bystander.pid, ["true"])
        assert bystander.poll() is None
        bystander.kill()
