"""The name of a pod's host link: readable tools and other agents on EKS nodes expect ``eni`` + 11 hex digits."""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["host_ifname"]

_PREFIX: Final = "eni"
_DIGITS: Final = 11  # 3 + 11 = 14 characters; the kernel's IFNAMSIZ allows 15


def host_ifname(container_id: str, ifname: str, namespace: str = "", pod: str = "") -> str:
    """The host end's name: from "namespace.pod" for the first interface of a named pod, else of this attachment.

    The first form is the one that network policy agents and operators compute for themselves. A pod restarted under
    its own name gets the same link name for another container: the data plane handles that meeting.
    """
    of = f"{namespace}.{pod}" if ifname == "eth0" and namespace and pod else f"{container_id}/{ifname}"
    digest = hashlib.sha1(of.encode(), usedforsecurity=False).hexdigest()
    return _PREFIX + digest[:_DIGITS]
