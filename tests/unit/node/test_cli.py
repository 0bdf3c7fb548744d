"""What operators see."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from berth.contract import Policy, Surrender
from berth_node.admin import Admin
from berth_node.cli import main
from berth_node.journal import Entry
from berth_node.pool import Pool
from berth_node.seams import Attachment, Problem, Wired
from berth_node.views import Snapshot, answer

from tests.unit.node.make import MACS, all_blocks, interface, record

A, B = "10.0.0.16/28", "10.0.1.16/28"


def snapshot() -> Snapshot:
    r = record(interface(0, A), interface(1, B), revision=4, policy=Policy(warm_addresses=4))
    attachment = Attachment(
        "c" * 64, "eth0", "10.0.0.16", "enib5faff8a083", "default", "web-1", "u", 1000.0,
        annotations='{"berth/typo":"a\\nb"}',
    )  # fmt: skip
    pool = Pool(
        r.policy,
        all_blocks(r),
        lent={(attachment.container_id, "eth0"): "10.0.0.16"},
        cooling={"10.0.0.17": 1090.0},
        surrendered=(Surrender(MACS[1], B, f"as-{B}"),),
    )
    return Snapshot(
        instance="i-1",
        ready=True,
        why="addresses are free",
        now=1060.0,
        pool=pool,
        entries=(Entry(attachment, Wired("a", "b", 3)),),
        record=r,
        boot=2,
        reported=None,
        report_failures=1,
        trouble={"record": "AccessDenied"},
        problems=(Problem("eth1", "no link"),),
    )


STAGED: dict[str, Mapping[str, Any]] = {
    "check": {
        "same": False,
        "pods": [
            {"namespace": "default", "name": "web-1", "container_id": "c", "address": "10.0.0.16",
             "problems": ["eni1: the host link is down"]},
            {"namespace": "", "name": "", "container_id": "d", "address": "10.0.0.17", "problems": []},
        ],
        "node": ["nftables: no table"],
    },
    "metrics": {
        "metrics": [
            {"name": "berth_ready", "samples": [{"labels": {}, "value": 1.0}]},
            {"name": "berth_cni_request_seconds",
             "samples": [{"labels": {"command": "ADD"}, "count": 4, "sum": 0.01, "p50": 0.002, "p99": None}]},
        ]
    },
}  # fmt: skip


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    """An admin socket that serves the snapshot from a thread."""
    path, opened = tmp_path / "admin.sock", threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:

        async def answered(request: Mapping[str, Any]) -> Mapping[str, Any]:
            return STAGED.get(request["view"]) or answer(snapshot(), request)

        admin = Admin(path, answered)
        await admin.open()
        opened.set()
        await stop.wait()
        await admin.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert opened.wait(10)
    yield path
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_status_says_what_there_is_and_what_is_wrong(socket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "status", "--socket", str(socket))
    assert "ready            yes" in text
    assert "trouble          record AccessDenied" in text
    assert "problems         eth1: no link" in text
    body = json.loads(shown(capsys, "status", "--json", "--socket", str(socket)))
    counts = {k: body[k] for k in ("assigned", "in_use", "cooling", "free", "wanted", "deficit", "surrendered")}
    assert counts == {
        "assigned": 32, "in_use": 1, "cooling": 1, "free": 14, "wanted": 5, "deficit": 0, "surrendered": [B]
    }  # fmt: skip


def test_pods_are_a_table(socket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "pods", "--socket", str(socket)).splitlines()
    assert lines[0].split() == ["NAMESPACE", "POD", "ADDRESS", "INTERFACE", "HOST", "LINK", "AGE"]
    assert lines[1].split() == ["default", "web-1", "10.0.0.16", "eni-0", "enib5faff8a083", "60", "s"]


def test_interfaces_show_each_block_with_its_state(socket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "interfaces", "--socket", str(socket)).splitlines()
    assert lines[1].split() == ["eni-0", "0", "10.0.0.5", A, "usable", "1/16", "1"]
    assert lines[2].split() == ["eni-1", "1", "10.0.1.5", B, "surrendered", "0/16", "0"]


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ([], "wanted: 5 = 1 in use + 0 waiting + 4 warm, at most 110 (max-pods); supply: 15; missing: 0"),
        ([], "pods keep their addresses for: "),
        ([], "annotation 'berth/typo' means nothing to this version; pods that have it: 1"),
        (["default/web-1"], "10.0.0.16 is lent to default/web-1 since 60 s"),
        (["default/web-1"], r"annotation 'berth/typo': 'a\nb' (unknown here)"),
        (["10.0.0.17"], "cools down for another 30 s"),
        (["10.0.1.20"], f"is not lent; its block {B} is surrendered"),
        (["10.9.9.9"], "neither a pod nor an address of this node"),
    ],
)
def test_explain_says_why(socket: Path, capsys: pytest.CaptureFixture[str], subject: list[str], told: str) -> None:
    assert told in shown(capsys, "explain", *subject, "--socket", str(socket))


def test_check_tells_each_difference_and_its_exit_code_says_so(
    socket: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--socket", str(socket)]) == 3
    assert capsys.readouterr().out.splitlines() == [
        "2 pods compared with the kernel, 1 differ",
        "default/web-1 10.0.0.16: eni1: the host link is down",
        "node: nftables: no table",
    ]
    assert main(["check", "--json", "--socket", str(socket)]) == 3
    assert json.loads(capsys.readouterr().out)["same"] is False


def test_metrics_are_a_table(socket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "metrics", "--socket", str(socket)).splitlines()
    assert lines[1].split() == ["berth_ready", "-", "1"]
    assert lines[2].endswith("command ADD  4 times, mean 0.0025 s, p50 <= 0.002 s, p99 beyond all buckets")


def test_without_an_agent_it_says_where_it_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--socket", str(tmp_path / "none.sock")]) == 1
    error = capsys.readouterr().err
    assert "none.sock" in error
    assert "is berth-node running?" in error


def test_a_bad_configuration_stops_the_agent_with_the_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "node.toml").write_text("table = 1\n")
    assert main(["agent", "--config", str(tmp_path / "node.toml")]) == 2
    assert "node.toml: table: expected a value of type str, got 1" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("agent", "status", "pods", "interfaces", "explain", "check", "metrics"))
