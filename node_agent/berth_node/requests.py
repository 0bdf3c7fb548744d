"""What a request says beyond its arguments: its network namespace, its previous result, its list of valid pods."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from berth_node import pod_annotations, portmap, skel
from berth_node.desk import Desk
from berth_node.journal import Entry
from berth_node.names import alias_key, host_ifname
from berth_node.netns import check_netns
from berth_node.pod import Pod
from berth_node.pool import Key
from berth_node.seams import Attachment
from berth_node.skel import Call, CniError

__all__ = [
    "check_call_netns",
    "compare_grant",
    "compare_result",
    "log_unknown_annotations",
    "refuse_lost_ports",
    "refuse_public_address",
    "refuse_security_groups",
    "refuse_taken_ports",
    "valid_attachments",
]

_log = logging.getLogger(__name__)
_MOST_TOLD: Final = 1000  # whoever makes pods chooses the keys


def compare_result(entry: Entry, previous: dict[str, Any]) -> list[str]:
    """An address of ours that the runtime has in its result but the desk lends to nobody is a lost pod."""
    ips = previous.get("ips")
    listed = [ip.get("address") for ip in ips if isinstance(ip, dict)] if isinstance(ips, list) else []
    mine = [f"{address}/{128 if ':' in address else 32}" for address in entry.attachment.addresses]
    told = ", ".join(map(str, listed)) or "no address"
    return [f"prevResult: lists {told}, not {address}" for address in mine if address not in listed]


def compare_grant(key: Key, desk: Desk) -> list[str]:
    """What a pod was promised with its ADD and has not got any more."""
    request = desk.requests.of.get(key)
    entry = desk.entries.get(key)
    asked = pod_annotations.asked(entry.attachment.annotations) if entry else pod_annotations.NOTHING
    if request is None or not asked.waits:
        return []
    missing = desk.requests.missing(request, public=asked.wait)
    return [f"{pod_annotations.PUBLIC}: {missing}"] if missing else []


def refuse_public_address(pod: Pod, desk: Desk) -> None:
    """Raises :class:`CniError` for a pod that will have no address which EC2 could associate a public one with."""
    if pod.asked.public and desk.prefixes.families == "ipv6":
        raise CniError(
            skel.INVALID_CONFIG,
            f"annotation {pod_annotations.PUBLIC!r}: this node's pods have IPv6 alone, and public addresses are IPv4's",
        )


def refuse_security_groups(pod: Pod, desk: Desk) -> None:
    """Raises :class:`CniError` for a pod that wants an interface of its own where pods have IPv6."""
    if pod.asked.groups and desk.prefixes.families != "ipv4":
        raise CniError(
            skel.INVALID_CONFIG,
            f"annotation {pod_annotations.GROUPS!r}: this node's pods have IPv6, which a pod with an interface of its "
            "own cannot have; run it on nodes with berth:ip-families=ipv4",
        )


def refuse_taken_ports(pod: Pod, entries: Mapping[Key, Entry]) -> None:
    """Raises :class:`CniError` when an earlier entry of another pod has one of the host ports that this pod asks for.

    Only entries before the pod's own count (all, while it has none): of two pods that got their addresses at once, the
    first keeps the port. A former container of the same pod is about to be taken down: its ports move.
    """
    if not pod.ports:
        return
    wanted, name = portmap.decode(pod.ports), host_ifname(*pod.key, pod.namespace, pod.name)
    for key, entry in entries.items():
        other = entry.attachment
        if alias_key(key) == alias_key(pod.key):
            return
        if not other.ports or other.host_ifname == name:
            continue
        for mapping in wanted:
            if any(portmap.clash(mapping, taken) for taken in portmap.decode(other.ports)):
                who = f"pod {other.namespace}/{other.name}" if other.name else f"container {other.container_id}"
                raise CniError(
                    skel.PORT_TAKEN,
                    f"host port {mapping.asked} is lent to {who} ({other.address}); delete it, or choose another port",
                )


def refuse_lost_ports(attachment: Attachment) -> None:
    """Raises :class:`CniError` when a host port is asked for on an address of a family that the pod has not got."""
    if not attachment.ports:
        return
    mappings = portmap.decode(attachment.ports)
    lent = {m for a in attachment.addresses for m in portmap.of_family(mappings, ipv6=":" in a)}
    for mapping in mappings:
        if mapping not in lent:
            has = " and ".join(attachment.addresses)
            raise CniError(
                skel.INVALID_CONFIG,
                f"host port {mapping.asked} cannot lead to a pod that has {has} alone: take hostIP away",
            )


def log_unknown_annotations(pod: Pod, told: set[str]) -> None:
    """Log each key of ours that means nothing to this version, once: those in ``told`` have been."""
    for key in pod_annotations.unknown(pod.annotations):
        if key not in told and len(told) < _MOST_TOLD:
            told.add(key)
            about = {"annotation": key, "namespace": pod.namespace, "pod": pod.name, "container": pod.key[0]}
            _log.warning("a pod has an annotation that this version does not know; it is ignored", extra=about)


def valid_attachments(call: Call) -> frozenset[Key]:
    """The pods that a GC says are still there, as :func:`berth_node.names.alias_key` spells them.

    Raises :class:`CniError` for a list that cannot be read.
    """
    # libcni also sends the older misspelt key; a missing one must not be read as "nothing is valid".
    listed = call.config.get("cni.dev/valid-attachments", call.config.get("cni.dev/attachments"))
    if not isinstance(listed, list):
        raise CniError(skel.INVALID_CONFIG, "GC needs the list 'cni.dev/valid-attachments' in the configuration")
    valid = set()
    for item in listed:
        key = (item.get("containerID"), item.get("ifname")) if isinstance(item, dict) else (None, None)
        if not isinstance(key[0], str) or not isinstance(key[1], str):
            wrong = f"each of 'cni.dev/valid-attachments' needs 'containerID' and 'ifname', got {item!r:.80}"
            raise CniError(skel.INVALID_CONFIG, wrong)
        valid.add(alias_key((key[0], key[1])))
    return frozenset(valid)


_NETNS_COMMANDS: Final = frozenset({"ADD", "CHECK"})


def check_call_netns(call: Call, netns_fd: int | None, error: int) -> None:
    """CNI_NETNS must be a network namespace other than the node's. Raises :class:`CniError` 8."""
    if call.command in _NETNS_COMMANDS:
        problem = check_netns(netns_fd, error)
        if problem:
            raise CniError(skel.INVALID_NETNS, f"CNI_NETNS {call.netns!r} {problem}")
