"""Pods' annotations: what of them is kept, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from berth_node import conflist, pod_annotations
from berth_node.journal import Journal
from berth_node.pod import Pod
from berth_node.pod_annotations import CAPABILITY, KEPT_BYTES, LIMIT_BYTES
from berth_node.requests import log_unknown_annotations
from berth_node.seams import Attachment
from berth_node.skel import Call, CniError, read_call
from berth_node.wire import Request
from hypothesis import given
from hypothesis import strategies as st

CONFIG: dict[str, Any] = {"cniVersion": "1.0.0", "name": "berth", "type": "berth"}
ADD = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "abc", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0"}


def asked(given: object, command: str = "ADD") -> Call:
    config = {**CONFIG, "runtimeConfig": {CAPABILITY: given}}
    return read_call(Request({**ADD, "CNI_COMMAND": command}, json.dumps(config).encode()))


def test_the_name_is_the_one_that_containerd_and_cri_o_use() -> None:
    assert CAPABILITY == "io.kubernetes.cri.pod-annotations"
    assert conflist.plugin()["capabilities"][CAPABILITY] is True
    assert conflist.plugin(host_ports=False)["capabilities"] == {CAPABILITY: True}


def test_only_those_of_our_prefix_are_kept() -> None:
    found = asked({"kubernetes.io/config.source": "api", "berth/b": "2", "berth/a": '{"x": 1}', "x.berth/c": "3"})
    assert pod_annotations.decode(found.annotations) == {"berth/a": '{"x": 1}', "berth/b": "2"}


@pytest.mark.parametrize("given", [None, {}, {"a": "b"}, {"berth": "x"}])
def test_a_pod_without_any_of_ours_keeps_none(given: object) -> None:
    """containerd writes null for a sandbox that has no annotations."""
    assert asked(given).annotations == ""
    assert pod_annotations.decode("") == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "must be an object, got []"),
        ("berth/a=1", "must be an object, got 'berth/a=1'"),
        (True, "must be an object, got True"),
        ({"berth/a": 1}, "'berth/a' must be a text, got 1"),
        ({"other": None}, "'other' must be a text, got None"),
        ({"other": "x" * LIMIT_BYTES}, f"at most {LIMIT_BYTES} bytes, got {LIMIT_BYTES + 5}"),
        ({"other": "𐀀" * (LIMIT_BYTES // 4)}, f"at most {LIMIT_BYTES} bytes, got {LIMIT_BYTES + 5}"),
        ({"berth/a": "ä" * (KEPT_BYTES // 2)}, f"those of 'berth/' must have at most {KEPT_BYTES} bytes"),
    ],
)
def test_a_bad_shape_is_code_7_for_an_add_and_nothing_to_a_del(given: object, told: str) -> None:
    with pytest.raises(CniError) as error:
        asked(given)
    assert error.value.code == 7
    assert f"runtimeConfig.{CAPABILITY}" in str(error.value)
    assert told in str(error.value)
    assert asked(given, "DEL").key == ("abc", "eth0")
    assert asked(given, "CHECK").annotations == ""


def test_what_just_fits_is_kept() -> None:
    most = {"other": "x" * (LIMIT_BYTES - KEPT_BYTES - 5), "berth/a": "y" * (KEPT_BYTES - 7)}
    assert pod_annotations.decode(asked(most).annotations) == {"berth/a": most["berth/a"]}


texts = st.text(max_size=20) | st.text(st.characters(categories=["Cs"]), max_size=1)


@given(st.dictionaries(st.builds("berth/{}".format, texts) | texts, texts, max_size=6))
def test_any_texts_are_read_back_as_they_were(given: dict[str, str]) -> None:
    kept = pod_annotations.decode(asked(given).annotations)
    assert kept == {k: v for k, v in given.items() if k.startswith("berth/")}
    assert list(kept) == sorted(kept)


def test_they_are_with_the_attachment_after_a_restart_and_after_compaction(tmp_path: Path) -> None:
    noted = asked({"berth/a": "\ud800\n\u2028"}).annotations
    journal = Journal.open(tmp_path / "j")
    journal.lend(Attachment("a", "eth0", "10.0.0.1", "enia", annotations=noted))
    for n in range(1100):
        journal.lend(Attachment("b", "eth0", "10.0.0.2", "enib"))
        journal.free(("b", "eth0"), float(n))
    journal.close()
    lines = (tmp_path / "j").read_bytes().splitlines()
    assert len(lines) < 1100  # compacted on the way
    again = Journal.open(tmp_path / "j")
    assert again.entries["a", "eth0"].attachment.annotations == noted
    again.close()


def test_a_journal_from_before_there_were_any_reads_as_none(tmp_path: Path) -> None:
    line = {"op": "lend", "container_id": "a", "ifname": "eth0", "address": "10.0.0.1", "host_ifname": "enia"}
    (tmp_path / "j").write_text(json.dumps(line) + "\n")
    journal = Journal.open(tmp_path / "j")
    assert journal.entries["a", "eth0"].attachment.annotations == ""
    journal.close()


def test_an_unknown_key_is_logged_once_whichever_pods_have_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_annotations, "KNOWN", frozenset({"berth/known"}))
    told: set[str] = set()
    with caplog.at_level(logging.WARNING):
        for name in ("web", "db"):
            noted = asked({"berth/known": "1", "berth/typo": "2"}).annotations
            log_unknown_annotations(Pod((name, "eth0"), "default", name, annotations=noted), told)
    assert [(getattr(r, "annotation", ""), getattr(r, "pod", "")) for r in caplog.records] == [("berth/typo", "web")]
