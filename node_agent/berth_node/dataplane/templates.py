"""Batches that are packed once and then only filled in: packing a pod's nine requests anew is half of what Python adds
to the kernel's own work.

A template is made from ordinary requests (:mod:`.messages`) that hold *marks*, bytes that stand for what differs from
pod to pod; filling in writes over each place where a mark was. The requests stay the one description of what is sent.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .rtnl import NLM_F_ACK, Filled, Request, pack

__all__ = ["Template", "make"]


@dataclass(frozen=True, slots=True)
class Template:
    """``places`` are where each mark's value goes, by name; ``numbers`` where each request's sequence number goes."""

    data: bytes
    places: Mapping[str, tuple[slice, ...]]
    numbers: tuple[slice, ...]
    what: tuple[str, ...]

    def fill(self, first: int, values: Mapping[str, bytes]) -> Filled:
        """A copy with these values, each as long as its mark, and sequence numbers from ``first`` on."""
        data = bytearray(self.data)
        for name, value in values.items():
            for place in self.places[name]:
                data[place] = value
        number = first
        for place in self.numbers:
            data[place] = number.to_bytes(4, sys.byteorder)
            number += 1
        return Filled(data, first, self.what)


def make(requests: Sequence[Request], marks: Mapping[str, bytes], *, acknowledged: bool = True) -> Template:
    """The template of these requests; the last one asks for an acknowledgement, unless more are to follow.

    Raises ``ValueError`` for a mark that is in none of them.
    """
    data, numbers, last = b"", [], len(requests) - 1 if acknowledged else -1
    for place, request in enumerate(requests):
        numbers.append(slice(len(data) + 8, len(data) + 12))
        data += pack(request, 0, NLM_F_ACK if place == last else 0)
    places = {name: tuple(_found(data, mark)) for name, mark in marks.items()}
    if absent := [name for name, found in places.items() if not found]:
        raise ValueError(f"no request holds the mark of {', '.join(absent)}")
    return Template(data, places, tuple(numbers), tuple(r.what for r in requests))


def _found(data: bytes, mark: bytes) -> list[slice]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(slice(at, at + len(mark)))
        at = data.find(mark, at + len(mark))
    return found
