"""Compares what the agent believes with what the kernel has: ``berth-node check``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from berth_node.journal import Entry
from berth_node.pool import Key
from berth_node.seams import Attachment, DataplaneError, Problem

__all__ = ["compare", "strangers"]


def strangers(entries: Iterable[Entry], survey: Iterable[Attachment]) -> tuple[Problem, ...]:
    """Pod links that the kernel has and the journal does not, or with another address there.

    By the link's name, which is made from the container and is whole: the alias may hold a long id shortened.
    """
    known = {e.attachment.host_ifname: " ".join(e.attachment.addresses) for e in entries}
    problems = []
    for found in survey:
        address, says = known.get(found.host_ifname), " ".join(found.addresses)
        if address is None:
            told = f"a pod's link with address {says}, but the agent lent it to nobody"
            problems.append(Problem(found.host_ifname, told))
        elif address != says:
            problems.append(Problem(found.host_ifname, f"its alias says {says}, the journal {address}"))
    return tuple(problems)


async def compare(
    entries: Callable[[], Mapping[Key, Entry]],
    survey: Callable[[], Awaitable[Iterable[Attachment]]],
    check: Callable[[Attachment], Awaitable[Iterable[Problem]]],
    node: Iterable[Problem],
) -> dict[str, Any]:
    """Every wired pod and the node, one question to the kernel at a time, so that ADDs get their turn in between.

    ``entries`` is read again after each: a pod that comes or goes meanwhile is in motion, not wrong. ``node`` is what
    the last look could not mend. Returns JSON-ready values.
    """
    pods = []
    for key, entry in list(entries().items()):
        if entry.wired is None:
            continue
        try:
            problems = tuple(await check(entry.attachment))
        except DataplaneError as error:
            problems = (Problem(entry.attachment.host_ifname, f"the kernel could not be asked: {error}"),)
        if entries().get(key) == entry:
            pods.append(_row(entry.attachment, problems))
    seen = await survey()
    found = strangers(entries().values(), seen)
    if found:  # the DEL of one may have ended between the kernel's answer and now: asked again, it is gone
        seen = await survey()
        found = tuple(p for p in strangers(entries().values(), seen) if p in found)
    told = _told((*node, *found))
    return {"same": not told and not any(p["problems"] for p in pods), "pods": pods, "node": told}


def _row(a: Attachment, problems: Iterable[Problem]) -> dict[str, Any]:
    return {
        "namespace": a.namespace,
        "name": a.name,
        "container_id": a.container_id,
        "address": a.address,
        "address6": a.address6,
        "host_ifname": a.host_ifname,
        "problems": _told(problems),
    }


def _told(problems: Iterable[Problem]) -> list[str]:
    return [f"{p.where}: {p.message}" for p in problems]
