"""Word that is left of how a pod is taken from the kernel: it must be such that a plugin can read it."""

from __future__ import annotations

import pytest
from berth_node.dataplane import pairs

IPS = (bytes([10, 0, 1, 16]), bytes(16))
READ = 2048  # cni/unwire.c


def test_the_longest_id_that_is_left_word_of_fits_what_a_plugin_reads() -> None:
    longest = "c" * 1024
    word = pairs.unwiring(4026531840, longest, 1 << 30, IPS, 300000000)
    assert longest.encode() in word
    assert len(word) < READ


@pytest.mark.parametrize("container", ["c" * 1025, "c" * 70_000, "ü", "\udcff"])
def test_of_an_id_that_is_none_of_a_runtimes_no_word_is_left(container: str) -> None:
    assert pairs.unwiring(4026531840, container, 1 << 30, IPS, 300000000) == b""
