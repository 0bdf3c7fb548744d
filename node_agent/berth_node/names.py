"""Names in the kernel. Tools and other agents on EKS nodes expect ``eni`` + 11 hex digits for a pod's host link."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

__all__ = ["alias_key", "host_ifname", "short_id"]

_PREFIX: Final = "eni"
_DIGITS: Final = 11  # 3 + 11 = 14 characters; the kernel's IFNAMSIZ allows 15
_LONGEST_ID: Final = 120
_DIGEST: Final = 24


_sha1: Callable[..., Any]
try:
    # Python's own: OpenSSL's takes several times as long to get going, for as few bytes as a name has
    from _sha1 import sha1 as _sha1  # type: ignore[import-not-found, no-redef]
except ImportError:
    _sha1 = hashlib.sha1


def short_id(container_id: str) -> str:
    """A container id as a link's alias (255 bytes) holds it: itself, unless it is longer than 120 characters.

    ``#`` is in no container id, so a shortened one is nobody else's; shortening it again changes nothing.
    """
    if len(container_id) <= _LONGEST_ID and container_id.isascii():
        return container_id
    digest = hashlib.sha256(container_id.encode()).hexdigest()[:_DIGEST]
    return container_id.encode("ascii", "ignore").decode()[: _LONGEST_ID - _DIGEST - 1] + "#" + digest


def alias_key(key: tuple[str, str]) -> tuple[str, str]:
    """(container id, interface name) as the alias holds it."""
    return short_id(key[0]), key[1]


def host_ifname(container_id: str, ifname: str, namespace: str = "", pod: str = "") -> str:
    """The host end's name: from "namespace.pod" for the first interface of a named pod, else of this attachment.

    The first form is the one that network policy agents and operators compute for themselves. A pod restarted under
    its own name gets the same link name for another container: the data plane handles that meeting.
    """
    of = f"{namespace}.{pod}" if ifname == "eth0" and namespace and pod else f"{container_id}/{ifname}"
    digest: str = _sha1(of.encode(), usedforsecurity=False).hexdigest()
    return _PREFIX + digest[:_DIGITS]
