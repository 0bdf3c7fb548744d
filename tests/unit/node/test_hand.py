"""An ADD whose plugin makes the links and finishes them: what is written down when, and what is undone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from berth_node import wire
from berth_node.hand import Hand
from berth_node.names import host_ifname
from berth_node.skel import Call, CniError
from berth_node.wire import Pair

from tests.unit.node.test_answers import KEY, Site

INDEX, MTU = 1 << 30, 8901  # what the fake kernel's primary link has


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def add(site: Site, meanwhile: Callable[[socket.socket, Site], Any], *, pair: Pair | None = None, **more: Any) -> Any:
    """An ADD; ``meanwhile`` is its plugin, called when it has an answer. What the agent itself replied, if it did."""
    replies: list[Any] = []

    async def whole() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            hand = Hand(ours, pair or Pair(INDEX, MTU, host_ifname(*KEY)))
            call = Call("ADD", "1.1.0", *KEY, "/proc/1/ns/net", **more)

            def reply(body: Any) -> bool:
                site.disk.told.append("answer")
                replies.append(body)
                return True

            running = asyncio.ensure_future(site.verbs.run(call, 3, asyncio.Event(), reply, hand))
            asyncio.get_running_loop().add_reader(theirs, _once, theirs, meanwhile, site)
            try:
                await running
            finally:
                asyncio.get_running_loop().remove_reader(theirs)

    site.disk.told.clear()
    asyncio.run(whole())
    return replies[0] if replies else None


def _once(theirs: socket.socket, meanwhile: Callable[[socket.socket, Site], Any], site: Site) -> None:
    asyncio.get_running_loop().remove_reader(theirs)
    assert theirs.recv(1 << 16).startswith(b"berth/1 wire 4 3 4 0\nhostpodlook{")
    site.disk.told.append("wire")
    meanwhile(theirs, site)


def says(text: bytes) -> Callable[[socket.socket, Site], Any]:
    return lambda theirs, _: theirs.send(text)


def dies(theirs: socket.socket, _site: Site) -> None:
    theirs.shutdown(socket.SHUT_RDWR)


def test_the_address_is_written_down_before_the_plugin_is_told_and_the_pod_after_it_said_so(site: Site) -> None:
    assert add(site, says(b"berth/1 wired")) is None
    assert site.disk.told == ["lend", "wire", "wired"]
    (entry,) = site.desk.entries.values()
    assert entry.wired
    assert entry.wired.host_ifindex == INDEX
    assert site.kernel.survey() == (entry.attachment,)
    assert KEY in site.disk.leases.live


def test_what_the_kernel_refuses_the_plugin_the_agent_does_and_answers(site: Site) -> None:
    answer = add(site, says(b"berth/1 refused 1 17"))
    assert answer["ips"][0]["address"] == "10.0.0.16/32"
    assert site.disk.told == ["lend", "wire", "answer", "wired"]


def test_namespaces_without_ipv6_are_remembered(site: Site) -> None:
    add(site, says(b"berth/1 refused 1 17"))
    assert not site.verbs.ipv6_is_off
    site.asks("DEL")
    add(site, says(b"berth/1 refused 1 13"))
    assert site.verbs.ipv6_is_off


@pytest.mark.parametrize("plugin", [dies, says(b"berth/1"), says(b"wired"), says(b"berth/1 wired!")])
def test_a_plugin_that_dies_or_says_nothing_of_use_loses_pair_and_address(
    site: Site, plugin: Callable[[socket.socket, Site], Any]
) -> None:
    assert add(site, plugin) is None
    assert site.disk.told == ["lend", "wire", "free"]
    assert site.kernel.discarded == [INDEX]
    assert "10.0.0.16" in site.desk.pool.cooling, "the pod may have used it"


def test_a_del_ends_the_wait_for_a_verdict(site: Site) -> None:
    def deleted(_: socket.socket, site: Site) -> None:
        deleting.append(asyncio.ensure_future(site.verbs.delete_spooled(KEY)))

    deleting: list[asyncio.Future[None]] = []
    with pytest.raises(CniError, match="cancelled by a DEL"):
        add(site, deleted)
    assert site.kernel.discarded == [INDEX]
    assert not site.desk.entries


def test_a_del_that_finds_the_verdict_said_waits_for_the_pod_and_deletes_it(site: Site) -> None:
    def deleted(theirs: socket.socket, site: Site) -> None:
        theirs.send(b"berth/1 wired")
        deleting.append(asyncio.ensure_future(site.verbs.delete_spooled(KEY)))

    deleting: list[asyncio.Future[None]] = []
    add(site, deleted)
    assert site.kernel.discarded == []
    assert site.disk.told[:3] == ["lend", "wire", "wired"]


def test_a_plugin_that_says_nothing_at_all_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth_node.hand._SECONDS", 0.05)
    assert add(site, lambda _, __: None) is None
    assert site.kernel.discarded == [INDEX]


@pytest.mark.parametrize(
    "pair",
    [Pair(INDEX, MTU + 1, host_ifname(*KEY)), Pair(INDEX, MTU, "eni0")],
)
def test_a_pair_that_does_not_fit_is_left_alone(site: Site, pair: Pair) -> None:
    assert add(site, dies, pair=pair)["ips"]
    assert site.disk.told == ["lend", "answer", "wired"]


def test_a_result_that_no_message_holds_is_the_agents_to_give(site: Site) -> None:
    previous = {"interfaces": [{"name": f"net{n}", "mac": "02:00:00:00:00:01"} for n in range(400)]}
    assert len(add(site, dies, config={"prevResult": previous})["interfaces"]) == 402
    assert site.disk.told == ["lend", "answer", "wired"]


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("1073741824 9001 eni0123456789a", Pair(1 << 30, 9001, "eni0123456789a")),
        ("", None),
        ("1073741824 9001", None),
        ("x 9001 eni0", None),
        ("-1 9001 eni0", None),
        ("1073741824 -9001 eni0", None),
        ("12 9001 eni0", None),
        ("4294967296 9001 eni0", None),
        ("²³ 9001 eni0", None),
    ],
)
def test_what_a_plugin_says_of_its_pair_is_read_strictly(text: str, pair: Pair | None) -> None:
    assert wire.pair_of(wire.Request({"BERTH_LINK": text}, b"")) == pair
