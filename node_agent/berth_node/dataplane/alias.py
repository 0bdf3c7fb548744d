"""A host link's alias: the second witness of who holds an address.

The kernel keeps at most 255 bytes with a link (``IFALIASZ`` counts the NUL; linux/if.h), so an attachment is written
as compact JSON and what does not fit is left out, the least needed first. Nothing is ever cut short, but for a
container id too long to fit at all, which is written as its start, ``#`` and a digest (``#`` is in no container id).

Of an IPv6 address beside an IPv4 one only the /80 prefix is written: the rest is the IPv4 address (:mod:`..ipv6`).
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

from .. import compact
from ..ipv6 import beside, prefix_of
from ..names import short_id
from ..seams import Attachment

__all__ = ["LIMIT", "decode", "encode", "key"]

LIMIT: Final = 255
# in the order in which they matter to whoever must rebuild the pool without the journal
_OPTIONAL: Final = (("u", "uid"), ("p", "ports"), ("s", "namespace"), ("n", "name"))


def key(attachment: Attachment) -> tuple[str, str]:
    """CNI's primary key of an attachment (container id, interface name), as an alias holds it."""
    return short_id(attachment.container_id), attachment.ifname


def encode(attachment: Attachment) -> bytes:
    """At most 255 bytes of ASCII JSON. Container, interface and addresses are always in it."""
    fields: dict[str, Any] = {
        "v": 1,
        "c": short_id(attachment.container_id),
        "i": attachment.ifname,
        "a": attachment.address,
        "t": round(attachment.attached_at, 3),
    }
    if attachment.table:
        fields["r"] = attachment.table
    if attachment.address6:
        fields["6"] = prefix_of(attachment.address6).hex()
    more = {short: value for short, name in _OPTIONAL if (value := getattr(attachment, name))}
    text = _dump(fields | more)
    return text if len(text) <= LIMIT else _fitting(fields, more)


def _fitting(fields: dict[str, Any], more: dict[str, str]) -> bytes:
    text = _dump(fields)
    for short, value in more.items():
        longer = _dump(fields | {short: value})
        if len(longer) <= LIMIT:
            fields[short], text = value, longer
    return text


@lru_cache(maxsize=1024)  # every look at the links reads the aliases of all pods again
def decode(text: bytes, host_ifname: str, mtu: int) -> Attachment | None:
    """The attachment that an alias tells of; None if the alias is not Berth's."""
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    if not isinstance(fields, dict) or fields.get("v") != 1:
        return None
    texts = {short: fields.get(short, "") for short in ("c", "i", "a", "6", "u", "p", "s", "n")}
    time, table = fields.get("t", 0), fields.get("r", 0)
    if not all(isinstance(value, str) for value in texts.values()) or not isinstance(time, int | float):
        return None
    if not isinstance(table, int):
        return None
    if not (texts["c"] and texts["i"] and texts["a"]):
        return None
    try:
        address6 = beside(bytes.fromhex(texts["6"]), texts["a"]) if texts["6"] else ""
    except (ValueError, OSError):
        return None
    return Attachment(
        container_id=texts["c"],
        ifname=texts["i"],
        address=texts["a"],
        host_ifname=host_ifname,
        namespace=texts["s"],
        name=texts["n"],
        uid=texts["u"],
        attached_at=float(time),
        mtu=mtu,
        ports=texts["p"],
        address6=address6,
        table=table,
    )


def _dump(fields: dict[str, Any]) -> bytes:
    return compact.encode(fields).encode()
