"""What metadata, the table, the disk and the spool may hold: the agent takes it, or keeps what it had and says why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from berth.contract import BODY, ContractError, decode_record, encode_record
from berth_node.config import parse as parse_config
from berth_node.desk import Desk
from berth_node.durable import DurableFile
from berth_node.imds import Identity, Imds, ImdsError
from berth_node.journal import Journal
from berth_node.measures import Measures
from berth_node.record import RecordKeeper
from berth_node.spool import Spool
from berth_node.watcher import Watcher
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import inputs
from tests.unit.node.cloud import ACCOUNT, INSTANCE, REGION
from tests.unit.node.kernel import FakeKernel
from tests.unit.node.make import MACS, interface, metadata, record

GOOD = record(interface(0, "10.0.0.16/28", "10.0.0.9/32"), interface(1, "10.0.1.16/28"), revision=5)
IDENTITY = Identity(INSTANCE, ACCOUNT, REGION, "aws")
GOOD_TEXT = json.loads(encode_record(GOOD))


def _changed(value: Any) -> st.SearchStrategy[Any]:
    """The document with a thing or two replaced, anywhere in it."""
    if isinstance(value, dict):
        kept = st.fixed_dictionaries({k: _changed(v) for k, v in value.items()})
        return st.one_of(kept, kept, kept, kept, inputs.documents)
    if isinstance(value, list):
        kept_list = st.tuples(*map(_changed, value)).map(list)
        return st.one_of(kept_list, kept_list, kept_list, st.lists(inputs.documents, max_size=2))
    blocks = st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "10.0.0.17/28", "::/0", "10.0.0.16/28", 10**30, -1])
    return st.one_of(*[st.just(value)] * 9, blocks, inputs.documents)


records = _changed(GOOD_TEXT).map(json.dumps) | st.text(max_size=100)


class Metadata(Imds):
    """Metadata as values, without HTTP: the way a path is asked for is another test's."""

    def __init__(self, answers: Mapping[str, str | None]) -> None:
        super().__init__()
        self.answers = answers

    def get(self, path: str) -> str | None:
        tail = path.rpartition("/macs/")[2] if "/macs/" in path else path
        return self.answers.get(tail.partition("/")[2] if tail else "macs", self.answers.get(path))


async def at_once(call: Any) -> Any:
    return call()


def watcher(folder: Path, text: str, imds: Imds) -> Watcher:
    desk = Desk(Journal.open(folder / "journal"), DurableFile(folder / "node.json", INSTANCE), lambda: 1000.0)
    desk.start((), GOOD.policy)
    keeper = RecordKeeper(IDENTITY, folder, lambda key: {BODY: text})
    keeper.current = GOOD
    config = parse_config('table = "t"\nreports_queue_url = "q"')
    return Watcher(config, keeper, imds, FakeKernel(frozenset(MACS)), desk, at_once, at_once)


@settings(settings.get_profile("fuzz"))
@given(records)
def test_a_record_is_read_or_refused_by_the_field(text: str) -> None:
    try:
        found = decode_record(text)
    except ContractError:
        return
    assert decode_record(encode_record(found)) == found


@settings(settings.get_profile("fuzz"))
@given(records)
def test_any_record_leaves_a_pool_of_sane_size_and_a_reason(tmp_path: Path, text: str) -> None:
    shown = metadata(GOOD)
    imds = Metadata({})
    looker = watcher(tmp_path, text, imds)
    looker.metadata = shown
    asyncio.run(looker.look())
    assert all(len(c) < 20 for c in (b.cidr for b in looker.desk.pool.blocks))
    # what cannot be used is told, and the record before stays in force
    refused = looker.keeper.current == GOOD and text != encode_record(GOOD)
    assert not refused or "record" in looker.trouble or looker.keeper.current == decode_record(text)
    assert looker.desk.pool.free <= 33
    looker.desk.balance()


_words = st.sampled_from(
    ["02:aa:00:00:00:01/", "02:aa:00:00:00:01", "10.0.0.5", "10.0.0.16/28", "0.0.0.0/0", "0", "-1", "²", "x/../y"]
)
_texts = st.none() | st.lists(_words, max_size=4).map("\n".join) | st.text(max_size=20)
_paths = ("macs", "device-number", "local-ipv4s", "ipv4-prefix")


@settings(settings.get_profile("fuzz"))
@given(st.fixed_dictionaries(dict.fromkeys(_paths, _texts)))
def test_any_metadata_is_read_or_told_of(tmp_path: Path, answers: dict[str, str | None]) -> None:
    looker = watcher(tmp_path, encode_record(GOOD), Metadata(answers))
    asyncio.run(looker.look())
    assert looker.metadata is not None or "metadata" in looker.trouble
    assert looker.desk.pool.free <= 33


@settings(settings.get_profile("fuzz"))
@given(inputs.documents.map(json.dumps) | st.text(max_size=30) | st.none(), st.text(max_size=10) | st.none())
def test_an_identity_that_makes_no_sense_is_an_error_that_the_start_retries(
    text: str | None, partition: str | None
) -> None:
    imds = Metadata({"dynamic/instance-identity/document": text, "meta-data/services/partition": partition})
    with pytest.raises(ImdsError):
        imds.identity()


_credentials = {"AccessKeyId": "A", "SecretAccessKey": "S", "Token": "T", "Expiration": "2040-01-01T00:00:00Z"}


@settings(settings.get_profile("fuzz"))
@given(_changed(_credentials).map(json.dumps) | st.text(max_size=30) | st.none(), st.text(max_size=9) | st.none())
def test_credentials_are_whole_or_an_error(text: str | None, role: str | None) -> None:
    base = "meta-data/iam/security-credentials/"
    imds = Metadata({base: role, f"{base}{(role or '').split()[0] if (role or '').split() else ''}": text})
    try:
        found = imds.credentials()
    except ImdsError:
        return
    assert all(isinstance(v, str) for v in (found.access_key_id, found.secret_access_key, found.session_token))


@settings(settings.get_profile("fuzz"))
@given(st.binary(max_size=200) | inputs.stdin)
def test_any_spool_file_is_done_or_dropped(tmp_path: Path, content: bytes) -> None:
    done: list[tuple[str, str]] = []

    class Verbs:
        async def delete_spooled(self, key: tuple[str, str], index: int) -> None:
            done.append(key)

    spool = tmp_path / "spool"
    spool.mkdir(exist_ok=True)
    (spool / "1").write_bytes(content)
    verbs: Any = Verbs()
    assert asyncio.run(Spool(spool, Measures().requests).drain(verbs)) == set()
    assert len(done) <= 1
    assert not list(spool.iterdir())


@settings(settings.get_profile("fuzz"))
@given(st.binary(max_size=200) | inputs.documents.map(lambda d: json.dumps(d).encode()))
def test_any_file_of_the_agents_own_is_read_or_set_aside(tmp_path: Path, content: bytes) -> None:
    journal, durable = tmp_path / "own-journal", tmp_path / "own.json"
    for path in (journal, durable):
        path.write_bytes(content)
    assert not Journal.open(journal).entries
    DurableFile(durable, INSTANCE).load()
    keeper = RecordKeeper(IDENTITY, tmp_path, lambda key: {})
    keeper.path.write_bytes(content)
    assert keeper.load() is None


def test_a_block_wider_than_ec2_assigns_is_refused(tmp_path: Path) -> None:
    wide = replace(GOOD, revision=6, interfaces=(interface(0, "10.0.0.0/8"),))
    keeper = RecordKeeper(IDENTITY, tmp_path, lambda key: {BODY: encode_record(wide)}, GOOD)
    with pytest.raises(ContractError, match=r"10\.0\.0\.0/8"):
        keeper.fetch()
    assert keeper.current == GOOD
    keeper.path.write_text(encode_record(wide))
    assert keeper.load() == GOOD
