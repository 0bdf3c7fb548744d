"""The chained plugins' setting, what they say they speak, and the list that comes of it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from berth_node import conflist
from berth_node.chain import Chain, ChainError, Link, common_versions, read_chain, read_versions
from berth_node.config import ConfigError, parse

HEAD = 'table = "t"\nreports_queue_url = "q"\n'


def install(folder: Path, name: str, *versions: str, body: str = "") -> None:
    """A plugin that answers VERSION with these, and notes each call."""
    answer = json.dumps({"cniVersion": "1.1.0", "supportedVersions": versions})
    script = folder / f".{name}"
    script.write_text(
        f"#!{sys.executable} -IS\nimport os\nopen({str(folder / 'calls')!r}, 'a').write(os.environ['CNI_COMMAND'])\n"
        + (body or f"print({answer!r})\n")
    )
    script.chmod(0o755)
    script.replace(folder / name)


def chain_of(folder: Path, *names: str) -> Chain:
    return Chain(read_chain(list(names)), folder)


def written(chain: Chain, highest: str = "1.1.0") -> dict[str, Any]:
    body: dict[str, Any] = json.loads(conflist.content(highest, chain.links))
    return body


def test_names_bring_the_capabilities_that_the_reference_plugins_need() -> None:
    config = parse(
        HEAD + 'chain = ["portmap", "bandwidth", {type = "tuning", sysctl = {"net.core.somaxconn" = "500"}}]'
    )
    assert list(config.chain) == [
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
    ]


@pytest.mark.parametrize(
    "text", ['"portmap"', "[1]", '["../portmap"]', "[{name = 'x'}]", '["berth"]', "[{type='a', at=2026-01-01}]"]
)
def test_a_chain_that_cannot_be_used_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"node\.toml: chain: "):
        parse(f"{HEAD}chain = {text}")


def test_without_a_chain_a_runtime_of_1_1_finds_1_1_and_an_older_one_1_0() -> None:
    body = written(Chain((), Path("/nowhere")))
    assert body["cniVersion"] == "1.0.0"
    assert body["cniVersions"] == ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert written(Chain((), Path("/nowhere")), "0.4.0")["cniVersion"] == "0.4.0"


def test_the_list_has_the_versions_that_all_speak(tmp_path: Path) -> None:
    install(tmp_path, "new", "1.0.0", "1.1.0", "1.2.0")
    install(tmp_path, "old", "0.3.1", "0.4.0", "1.0.0")
    chain = chain_of(tmp_path, "new", "old")
    assert asyncio.run(chain.refresh())
    body = written(chain)
    assert (body["cniVersion"], body["cniVersions"]) == ("1.0.0", ["1.0.0"])
    assert [plugin["type"] for plugin in body["plugins"]] == ["berth", "new", "old"]


def test_plugins_that_agree_upon_nothing_are_an_error() -> None:
    links = [Link({"type": "a"}, ("0.3.1",)), Link({"type": "b"}, ("1.0.0",))]
    assert common_versions("1.1.0", links) == ()
    with pytest.raises(ValueError, match="spoken by all"):
        conflist.content("1.1.0", links)


def test_a_list_for_what_speaks_1_1_alone_says_so() -> None:
    assert json.loads(conflist.content("1.1.0", [Link({"type": "a"}, ("1.1.0",))]))["cniVersion"] == "1.1.0"


def test_a_missing_plugin_is_left_out_and_told_of_until_it_is_there(tmp_path: Path) -> None:
    install(tmp_path, "there", "1.0.0")
    chain = chain_of(tmp_path, "there", "late")
    assert asyncio.run(chain.refresh())
    assert [link.config["type"] for link in chain.links] == ["there"]
    assert "No such file" in chain.trouble["late"]
    assert not asyncio.run(chain.refresh())
    install(tmp_path, "late", "1.0.0")
    assert asyncio.run(chain.refresh())
    assert [link.config["type"] for link in chain.links] == ["there", "late"]
    assert chain.trouble == {}


def test_a_plugin_is_asked_again_only_when_its_file_has_changed(tmp_path: Path) -> None:
    install(tmp_path, "plugin", "1.0.0")
    chain = chain_of(tmp_path, "plugin")
    for _ in range(3):
        asyncio.run(chain.refresh())
    assert (tmp_path / "calls").read_text() == "VERSION"
    install(tmp_path, "plugin", "0.4.0", "1.0.0")
    assert asyncio.run(chain.refresh())
    assert chain.links[0].versions == ("0.4.0", "1.0.0")


def test_a_plugin_that_answers_nonsense_or_cannot_run_is_left_out(tmp_path: Path) -> None:
    install(tmp_path, "nonsense", body="print('[]')")
    (tmp_path / "plain").write_text("no program")
    chain = chain_of(tmp_path, "nonsense", "plain")
    asyncio.run(chain.refresh())
    assert chain.links == ()
    assert "no supportedVersions" in chain.trouble["nonsense"]
    assert "cannot be run" in chain.trouble["plain"]


def test_a_plugin_of_other_versions_alone_is_refused() -> None:
    with pytest.raises(ChainError, match="speaks none of"):
        read_versions(b'{"cniVersion": "9.0.0", "supportedVersions": ["9.0.0"]}')


def test_publishing_writes_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "net.d" / "10-berth.conflist"
    assert conflist.publish(path, "1.1.0")
    before = os.stat(path).st_ino
    assert not conflist.publish(path, "1.1.0")
    assert os.stat(path).st_ino == before
    assert conflist.publish(path, "1.1.0", [Link({"type": "portmap"}, ("1.0.0",))])
