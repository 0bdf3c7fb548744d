"""Which record is in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from berth.contract import BODY, ContractError, Record, encode_record
from berth_node.imds import Identity
from berth_node.record import RecordKeeper

from tests.unit.node.cloud import ACCOUNT, ARN, INSTANCE, REGION
from tests.unit.node.make import interface, record

IDENTITY = Identity(INSTANCE, ACCOUNT, REGION, "aws")
FIRST = record(interface(0, "10.0.0.16/28"), revision=5)


class Table:
    """One item, or trouble."""

    def __init__(self, *contents: Record | str | Exception | None) -> None:
        self.contents = list(contents)

    def __call__(self, key: Mapping[str, str]) -> Mapping[str, str]:
        assert key == {"node": ARN, "kind": "record"}
        content = self.contents.pop(0)
        if isinstance(content, Exception):
            raise content
        if content is None:
            return {}
        return {BODY: content if isinstance(content, str) else encode_record(content)}


def keeper(folder: Path, *contents: Record | str | Exception | None, identity: Identity = IDENTITY) -> RecordKeeper:
    return RecordKeeper(identity, folder, Table(*contents))


def test_a_newer_revision_replaces_and_a_lower_one_is_ignored(tmp_path: Path) -> None:
    later, older = replace(FIRST, revision=7, interfaces=()), replace(FIRST, revision=6)
    k = keeper(tmp_path, FIRST, later, older)
    assert k.fetch() == FIRST
    assert k.fetch() == later
    assert k.fetch() == later


def test_a_missing_record_counts_as_unreachable(tmp_path: Path) -> None:
    k = keeper(tmp_path, None, FIRST, None)
    assert k.fetch() is None
    k.fetch()
    assert k.fetch() == FIRST


def test_the_copy_on_disk_serves_while_the_table_does_not(tmp_path: Path) -> None:
    keeper(tmp_path, FIRST).fetch()
    later = keeper(tmp_path, OSError("no route"))
    assert later.load() == FIRST
    with pytest.raises(OSError, match="no route"):
        later.fetch()
    assert later.current == FIRST


def test_a_lower_revision_is_ignored_after_a_restart_too(tmp_path: Path) -> None:
    keeper(tmp_path, FIRST).fetch()
    later = keeper(tmp_path, replace(FIRST, revision=4))
    later.load()
    assert later.fetch() == FIRST


def test_a_copy_of_another_instance_is_not_used(tmp_path: Path) -> None:
    keeper(tmp_path, FIRST).fetch()
    other = replace(IDENTITY, instance_id="i-other")
    copy = keeper(tmp_path, FIRST).path
    copy.rename(copy.with_name("record.i-other.json"))
    assert keeper(tmp_path, identity=other).load() is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 99}'])
def test_a_broken_copy_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    k = keeper(tmp_path)
    k.path.write_text(content)
    assert k.load() is None


def test_a_record_that_cannot_be_read_names_the_field_and_changes_nothing(tmp_path: Path) -> None:
    k = keeper(tmp_path, FIRST, '{"schema": 2}', encode_record(FIRST).replace('"revision":5', '"revision":"x"'))
    k.fetch()
    with pytest.raises(ContractError, match=r"record\.schema"):
        k.fetch()
    with pytest.raises(ContractError, match=r"record\.revision"):
        k.fetch()
    assert k.current == FIRST


def test_another_nodes_record_is_refused(tmp_path: Path) -> None:
    k = keeper(tmp_path, replace(FIRST, instance_arn="arn:aws:ec2:eu-west-1:1:instance/i-x"))
    with pytest.raises(ContractError, match=r"record\.instance_arn: expected"):
        k.fetch()
