"""`make demo` and `make stop`, as a person runs them: what they write, and that nothing outlives them."""

from __future__ import annotations

import os
import signal

import pytest

from tests.command.conftest import Checkout, Machine, eventually


@pytest.mark.parametrize("stage", ["[1]", "[2]"])
def test_ctrl_c_ends_it_and_is_told(checkout: Checkout, untouched: Machine, stage: str) -> None:
    demo = checkout.start("demo")
    demo.reaches(f"\n{stage} ")
    os.killpg(demo.process.pid, signal.SIGINT)  # a terminal signals the whole foreground group
    assert demo.ends() != 0
    assert "Traceback" not in demo.output
    assert checkout.result()["failures"] == ["interrupted"]


def test_kill_9_of_make_takes_everything_along(checkout: Checkout, untouched: Machine) -> None:
    demo = checkout.start("demo")
    demo.reaches("\n[4] ")
    assert len(checkout.processes()) > 4
    demo.process.kill()
    demo.ends()
    assert eventually(lambda: not checkout.processes()), checkout.processes()


def test_kill_9_of_the_outer_process_takes_everything_along(checkout: Checkout, untouched: Machine) -> None:
    demo = checkout.start("demo", "KEEP=1")
    demo.reaches("\n[4] ")
    os.kill(checkout.process("-m tests.sandbox.demo --keep "), signal.SIGKILL)
    assert demo.ends() != 0
    assert eventually(lambda: not checkout.processes()), checkout.processes()


def test_a_dead_sandbox_is_named(checkout: Checkout, untouched: Machine) -> None:
    demo = checkout.start("demo")
    demo.reaches("\n[5] ")
    os.kill(checkout.process(" -m tests.sandbox.stack "), signal.SIGKILL)
    assert demo.ends() != 0
    (failure,) = checkout.result()["failures"]
    assert failure.startswith("the sandbox process ended with status -9")


def test_the_run_after_all_that_holds(checkout: Checkout, untouched: Machine) -> None:
    demo = checkout.start("demo")
    assert demo.ends() == 0, demo.output
    result = checkout.result()
    assert result["ok"] is True
    assert result["failures"] == []
    assert (result["pods"], result["pairs"], result["pairs_connected"]) == (50, 2450, 2450)
    left = {key: result[key] for key in ("source_check_drops", "interfaces_left", "unattached_left", "addresses_left")}
    assert set(left.values()) == {0}, left
    assert result["ec2_mutating_calls"] == sum(
        count for action, count in result["ec2_calls"].items() if not action.startswith("Describe")
    )
    assert len(result["stages"]) == 11
    for stage in result["stages"]:
        assert stage.keys() == {"name", "seconds", "ok"}
        assert stage["ok"] is True
        assert stage["seconds"] >= 0
    assert max(len(line) for line in demo.output.splitlines()) <= 120


def test_a_kept_sandbox_can_be_looked_at_and_stopped(checkout: Checkout, untouched: Machine) -> None:
    demo = checkout.start("demo", "KEEP=1")
    assert demo.ends() == 0, demo.output
    assert checkout.result()["ok"] is True
    ready = checkout.run(["build/look", "node", "alpha", "berth-node", "status", "--json"])
    assert '"ready": true' in ready.stdout, ready.stderr
    assert "10.0." in checkout.run(["build/look", "pod", "web-00", "ip", "-brief", "address"]).stdout
    assert "vpc" in checkout.run(["build/look", "world", "ip", "netns"]).stdout
    assert "there are: alpha, beta" in checkout.run(["build/look", "node", "gamma"]).stderr
    again = checkout.start("demo", "KEEP=1")
    assert again.ends() != 0
    assert "make stop" in again.output
    stopped = checkout.run(["make", "stop"])
    assert stopped.stdout == "The sandbox is stopped.\n", stopped.stderr
    assert checkout.run(["make", "stop"]).stdout == "No sandbox is up.\n"
