"""``berth check``: its options, its files and its exit codes, without an account."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from berth.cli.main import main
from berth.flat.documents import dump
from berth.flat.snapshot import Snapshot
from berth.flat_survey import ACTIONS, take_snapshot
from moto import mock_aws

from tests.unit.flat.networks import network


def saved(path: Path, snapshot: Snapshot) -> str:
    file = path / "net.json"
    file.write_text(json.dumps(dump(snapshot)))
    return str(file)


def closed() -> Snapshot:
    return replace(network(), groups=tuple(replace(g, ingress=()) for g in network().groups))


def test_a_flat_network_ends_with_0_and_any_failure_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--from", saved(tmp_path, network())]) == 0
    assert "The network is flat" in capsys.readouterr().out
    assert main(["check", "--from", saved(tmp_path, closed())]) == 1
    assert "mend it: add to sg-b an inbound rule" in capsys.readouterr().out


def test_the_json_and_the_page_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, copy = tmp_path / "net.html", tmp_path / "copy.json"
    name = saved(tmp_path, closed())
    assert main(["check", "--from", name, "--json", "--html", str(page), "--save", str(copy)]) == 1
    assert json.loads(capsys.readouterr().out)["flat"] is False
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(copy.read_text()) == json.loads(Path(name).read_text())


def test_another_network_is_checked_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--from", saved(tmp_path, network()), "--cidr", "172.30.9.0/24", "--json"]) == 1
    cells = json.loads(capsys.readouterr().out)["cells"]
    there = {c["passes"] for c in cells if c["to"] == "172.30.9.0/24"}
    assert there == {"no"}, "the default route leads to the internet"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--cidr", "10.0.0.1/8", "--from", "x"], 2, "10.0.0.1/8 is no IPv4 CIDR"),
        (["--from", "nowhere.json"], 1, "cannot read nowhere.json"),
        (["--region", "eu-west-1"], 2, "--cluster NAME"),
    ],
)
def test_wrong_usage_says_what_to_do(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", *arguments]) == code
    assert said in capsys.readouterr().err


def test_what_is_no_snapshot_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.json").write_text("{}")
    assert main(["check", "--from", str(tmp_path / "net.json")]) == 1
    assert "no snapshot" in capsys.readouterr().err
    assert main(["check", "--from", saved(tmp_path, Snapshot())]) == 1
    assert "nothing to check" in capsys.readouterr().err


def test_a_snapshot_is_taken_by_reads_alone_and_each_is_told_before() -> None:
    asked: list[str] = []
    with mock_aws():
        ec2: Any = boto3.client("ec2", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
        made: list[str] = []
        ec2.meta.events.register("before-call.ec2", lambda model, **_: made.append(model.name))
        vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        group = ec2.create_security_group(VpcId=vpc, GroupName="g", Description="d")["GroupId"]
        entries = [{"Cidr": "10.8.0.0/16"}]
        listed = ec2.create_managed_prefix_list(
            PrefixListName="l", AddressFamily="IPv4", MaxEntries=1, Entries=entries
        )["PrefixList"]["PrefixListId"]
        ec2.authorize_security_group_ingress(
            GroupId=group,
            IpPermissions=[
                {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "PrefixListIds": [{"PrefixListId": listed}]}
            ],
        )
        made.clear()
        snapshot = take_snapshot(ec2, ["demo"], ["10.8.0.0/16"], "now", asked.append)
    assert asked == made
    assert set(made) == set(ACTIONS)
    assert [p.cidrs for p in snapshot.prefix_lists] == [("10.8.0.0/16",)]
    assert "10.9.0.0/16" in {c for v in snapshot.vpcs for c in v.cidrs}
    assert (snapshot.no_snat, snapshot.taken_at) == (("10.8.0.0/16",), "now")
