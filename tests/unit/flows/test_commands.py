"""``berth flows``: amounts counted once, denials with their port, what is ambiguous shown as such."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from berth.cli import flow_files
from berth.cli.flows import _BY
from berth.cli.main import main
from berth.flows.attribution import attribute_object
from berth.flows.totals import BY
from moto import mock_aws

from tests.unit.flows.flow_world import START, fact, line, text_object, thing, world

SPAN = ["--from", "2026-11-25T09:30Z", "--until", "2026-11-25T10:30Z"]
FACTS = [
    fact("web", "10.0.1.20", START - 500.0, START + 500.0),
    fact("db", "10.0.2.30", START - 500.0, START + 500.0, subnet_id="subnet-b", interface_id="eni-2"),
    fact("one", "10.0.1.40", START - 500.0, START - 10.0),
    fact("two", "10.0.1.40", START + 1.0, START + 500.0),
]
ARRIVING = {"interface_id": "eni-2", "srcaddr": "10.0.1.20", "dstaddr": "10.0.2.4", "flow_direction": "ingress"}
LINES = [
    line(bytes=1000),
    line(bytes=900, **ARRIVING),
    line(bytes=500, srcport=50000),
    line(action="REJECT", dstport=22, packets=2, **ARRIVING),
    line(action="REJECT", dstport=22, packets=3, srcport=50001, end=START + 60, **ARRIVING),
    line(action="REJECT", dstport=80, dstaddr="10.0.1.40", pkt_dstaddr="10.0.1.40"),
    line(bytes=7, pkt_srcaddr="10.0.1.40"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    edges, objects, _ = world(text_object(*LINES), FACTS)
    attribute_object(edges, thing())
    for key, data in objects.put_files.items():
        (tmp_path / key).parent.mkdir(parents=True)
        (tmp_path / key).write_bytes(data)
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    code = main(["flows", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_flow_seen_at_two_interfaces_is_counted_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = asked(capsys, "top", "--by", "pair", "--folder", folder, *SPAN)
    assert code == 0
    pairs = {(f["from"], f["to"]): f["bytes"] for f in answer["flows"]}
    assert pairs == {("shop/web", "shop/db"): 1500, ("10.0.1.40 (ambiguous)", "shop/db"): 7}


def test_pods_have_what_they_sent_and_received(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, answer = asked(capsys, "top", "--folder", folder, *SPAN)
    amounts = {f["pod"]: (f["sent_bytes"], f["received_bytes"]) for f in answer["flows"]}
    assert amounts == {"shop/web": (1500, 0), "shop/db": (0, 1507)}


@pytest.mark.parametrize(("by", "first"), [("namespace", "shop"), ("node", "i-0123456789abcdef0"), ("port", "shop/db")])
def test_other_things_are_added_up_as_well(
    folder: Path, capsys: pytest.CaptureFixture[str], by: str, first: str
) -> None:
    code, answer = asked(capsys, "top", "--by", by, "--folder", folder, *SPAN)
    assert (code, next(iter(answer["flows"][0].values()))) == (0, first)
    assert main(["flows", "top", "--by", by, "--folder", str(folder), *SPAN, "--limit", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_denied_shows_port_way_and_times(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = asked(capsys, "denied", "--to", "shop/db", "--folder", folder, *SPAN)
    assert code == 0
    (denied,) = answer["denied"]
    assert (denied["from"], denied["port"], denied["packets"], denied["records"]) == ("shop/web", 22, 5, 2)
    assert (denied["at"], denied["first"], denied["last"]) == (
        "arriving at the pod", "2026-11-25T10:00:00Z", "2026-11-25T10:01:00Z",
    )  # fmt: skip
    assert main(["flows", "denied", "--to", "uid-db", "--folder", str(folder), *SPAN]) == 0
    assert "tcp" in capsys.readouterr().out
    assert main(["flows", "denied", "--to", "shop/db", "--source", "shop/job", "--folder", str(folder), *SPAN]) == 3


def test_what_a_pod_may_have_been_denied_is_told_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flows", "denied", "--to", "shop/two", "--folder", str(folder), *SPAN]) == 3
    assert "1 more records are of addresses that it may have had" in capsys.readouterr().out


def test_only_the_time_that_is_asked_about_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = ["--from", "2026-11-25T10:00:45Z", "--until", "2026-11-25T11:00Z"]
    assert asked(capsys, "denied", "--to", "shop/db", "--folder", folder, *later)[1]["denied"][0]["records"] == 1
    assert main(["flows", "top", "--folder", str(folder), "--last", "1h", "--until", "2026-11-25T09:00Z"]) == 3


@pytest.mark.parametrize("wrong", [["--last", "soon"], ["--from", "2026-11-25T10:00Z", "--until", "2026-11-25T09:00Z"]])
def test_a_time_that_cannot_be_is_wrong_usage(folder: Path, wrong: list[str]) -> None:
    assert main(["flows", "top", "--folder", str(folder), *wrong]) == 2


def test_without_pyarrow_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in [n for n in sys.modules if n == "berth.flows.totals"]:
        monkeypatch.delitem(sys.modules, name)
    for question in (["top"], ["denied", "--to", "a/b"]):
        assert main(["flows", *question, "--folder", str(folder), *SPAN]) == 1
        assert "berth[flows]" in capsys.readouterr().err


def test_a_broken_file_and_a_missing_folder_are_told_in_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(folder.rglob("*.parquet")).write_bytes(b"PAR1 broken")
    assert main(["flows", "top", "--folder", str(folder), *SPAN]) == 1
    assert "is broken" in capsys.readouterr().err
    assert main(["flows", "top", "--folder", str(folder / "nowhere"), *SPAN]) == 1


@pytest.fixture
def bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with mock_aws():
        account = boto3.Session("test", "test", region_name="eu-west-1")
        s3 = account.client("s3")
        s3.create_bucket(Bucket="pods", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        for path in folder.rglob("*.parquet"):
            s3.put_object(Bucket="pods", Key=path.relative_to(folder).as_posix(), Body=path.read_bytes())
        monkeypatch.setattr(flow_files, "session", lambda _: account)
        monkeypatch.setattr(
            flow_files, "stack_outputs", lambda _, name: {"berth": {"PodFlowsBucketName": "pods"}}.get(name, {})
        )
        yield


@pytest.mark.usefixtures("bucket")
def test_the_stacks_bucket_says_the_same_as_a_copy_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = asked(capsys, "top", "--by", "pair", *SPAN)
    assert there == asked(capsys, "top", "--by", "pair", "--folder", folder, *SPAN)
    assert main(["flows", "top", "--stack", "other", *SPAN]) == 1
    assert "FlowAttribution" in capsys.readouterr().err


def test_the_choices_of_the_command_are_those_that_can_be_added_up() -> None:
    assert _BY == BY
