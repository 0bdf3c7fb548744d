"""Word left for plugins: of which pods, when it is taken back, and what a failure leaves."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from berth_node.journal import Entry
from berth_node.seams import Attachment, Wired
from berth_node.unwire_files import UnwireFiles

WIRED = Wired("02:00:00:00:00:01", "02:01:00:00:00:01", 101)


class Site:
    def __init__(self, folder: Path) -> None:
        self.entries: dict[tuple[str, str], Entry] = {}
        self.asked: list[str] = []
        self.files = UnwireFiles(folder / "unwire", lambda: self.entries, self.content)
        self.files.clear()

    def content(self, attachment: Attachment) -> bytes:
        self.asked.append(attachment.container_id)
        return b"" if attachment.ports else f"word for {attachment.container_id}".encode()

    def pod(self, container: str, name: str = "", *, wired: bool = True, ports: str = "") -> Attachment:
        made = Attachment(container, "eth0", "10.0.0.16", name or f"eni-{container}", ports=ports)
        self.entries[made.key] = Entry(made, WIRED if wired else None)
        return made

    def there(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.files.folder.iterdir()}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_word_is_left_of_what_is_wired_and_taken_back_with_it(site: Site) -> None:
    pod = site.pod("a")
    site.pod("b", wired=False)
    site.files.settle()
    assert site.there() == {"eni-a": b"word for a"}
    del site.entries[pod.key]
    site.pod("b")
    site.files.settle()
    assert site.there() == {"eni-b": b"word for b"}


def test_a_pod_that_needs_more_is_asked_of_once(site: Site) -> None:
    site.pod("a", ports="tcp 8080 80")
    for _ in range(3):
        site.files.settle()
    assert (site.there(), site.asked) == ({}, ["a"])


def test_a_later_container_under_the_same_name_has_word_of_its_own(site: Site) -> None:
    first = site.pod("a", "eni-web")
    site.files.settle()
    del site.entries[first.key]
    site.pod("b", "eni-web")
    site.files.settle()
    assert site.there() == {"eni-web": b"word for b"}


def test_a_burst_is_written_piece_by_piece(site: Site) -> None:
    for number in range(80):
        site.pod(f"c{number}")
    written = []
    for _ in range(4):
        site.files.settle()
        written.append(len(site.there()))
    assert written == [32, 64, 80, 80]
    assert len(site.asked) == 80


def test_an_earlier_agents_word_goes(site: Site) -> None:
    site.pod("a")
    site.files.settle()
    later = UnwireFiles(site.files.folder, dict, site.content)
    later.clear()
    assert site.there() == {}


def test_word_that_somebody_removed_is_no_trouble(site: Site) -> None:
    pod = site.pod("a")
    site.files.settle()
    (site.files.folder / "eni-a").unlink()
    site.entries[pod.key] = Entry(replace(pod, address="10.0.0.17"), WIRED)
    site.files.settle()
    assert site.there() == {"eni-a": b"word for a"}


def test_what_a_full_disk_left_is_written_again(site: Site) -> None:
    site.pod("a")
    (site.files.folder / "eni-a").write_bytes(b"")
    site.files.settle()
    assert site.there() == {"eni-a": b"word for a"}


def test_a_folder_that_somebody_removed_is_made_again(site: Site) -> None:
    site.pod("a")
    site.files.settle()
    shutil.rmtree(site.files.folder)
    site.files.settle()
    assert site.there() == {"eni-a": b"word for a"}
