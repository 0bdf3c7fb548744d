"""Interfaces that one pod has for itself: which are whose, which are kept, and which groups they are to have. Pure.

A pod asks for one in each of its node's reports, by a request with an id that never comes again once the pod is gone;
the interface carries that id as a tag from its creation on. So the newest report alone decides which of them are kept:
what it does not list nobody uses, since an agent gives a pod its interface only when the record answers a report of its
own that lists the pod (docs/decisions/0027).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from berth.contract import PodRequest
from berth.model import InterfaceView, NodeView, PodGroups

__all__ = ["asks_of", "for_itself", "groups_of", "kept", "loose", "resolve"]

_GROUP: Final = re.compile(r"sg-[0-9a-f]{8,17}")
_MOST_GROUPS: Final = 16
"""Security groups of one interface, with the quota raised as far as it goes ("Amazon VPC quotas", VPC User Guide)."""
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A namespace's name is a label as of RFC 1123 ("Namespaces", Kubernetes documentation). "" is that of no namespace."""
_LONGEST: Final = 256
"""Characters of a tag's value ("Tag your Amazon EC2 resources", EC2 User Guide)."""
_ANY: Final = "*"


def for_itself(view: NodeView) -> dict[str, PodRequest]:
    """The requests of the newest report that ask for an interface, or have one, by id, in the report's order.

    An agent that knows its pod from the kernel alone does not know any more what groups it asked for.
    """
    there = {i.pod for i in view.ours if i.pod}
    requests = view.report.requests if view.report else ()
    return {r.id: r for r in requests if r.groups or r.id in there}


def kept(view: NodeView) -> dict[str, InterfaceView]:
    """The interface of each request that has one. Of two for one request the attached one is kept, else the first."""
    wanted, found = for_itself(view), dict[str, InterfaceView]()
    for interface in sorted((i for i in view.ours if i.pod in wanted), key=lambda i: (not _held(i), i.id)):
        found.setdefault(interface.pod, interface)
    return found


def loose(view: NodeView) -> list[InterfaceView]:
    """Those of :func:`kept` that wait to be attached."""
    if not any(i.pod and i.attachment is None for i in view.interfaces):
        return []  # nearly always
    return [i for i in kept(view).values() if i.attachment is None and i.zone == view.instance.zone]


def _held(interface: InterfaceView) -> bool:
    return interface.attachment is not None and interface.attachment.status != "detaching"


# ------------------------------------------------------------------------------------------------ security groups


def asks_of(request: PodRequest) -> str:
    """What :data:`~berth.model.POD_ASKS_TAG` says of a request. A comma is no character of every service's tags."""
    return f"{request.namespace}/{request.groups.replace(',', '+')}"


def groups_of(
    request: PodRequest, rules: PodGroups, allowed: frozenset[str], asked: str = ""
) -> tuple[tuple[str, ...], str]:
    """The groups that a request's interface is to have, sorted, or why it can have none.

    ``asked`` is what the interface's tag says that was asked for: it counts where the request itself does not say.
    """
    if not request.groups:
        return resolve(asked, rules, allowed)
    if request.namespace and not _LABEL.fullmatch(request.namespace):
        return (), f"namespace {request.namespace!r:.80} is no name of a namespace (a label as of RFC 1123)"
    for what, text in (("id", request.id), ("namespace and groups", asks_of(request))):
        if len(text) > _LONGEST:
            return (), f"the request's {what} are longer than a tag's value may be ({_LONGEST} characters)"
    return resolve(asks_of(request), rules, allowed)


def resolve(asked: str, rules: PodGroups, allowed: frozenset[str] | None) -> tuple[tuple[str, ...], str]:
    """The groups that ``namespace/profile`` or ``namespace/sg-…+sg-…`` stands for, or why not.

    ``allowed`` are the groups tagged ``berth:allowed`` in the node's VPC, None if that is somebody else's to check.
    """
    namespace, _, names = asked.partition("/")
    wanted = [n for n in names.split("+") if n]
    direct = bool(wanted) and all(_GROUP.fullmatch(n) for n in wanted)
    profiles = dict(rules.profiles)
    if not direct and names not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        return (), f"no profile {names!r:.80} is configured (PodGroupProfiles has {known}), and it is no list of sg-…"
    may = _may_name(namespace, rules.namespaces)
    refused = [] if _ANY in may else sorted(set(wanted if direct else [names]) - may)
    if refused:
        return (
            (),
            f"namespace {namespace!r:.80} may not name {', '.join(refused)}: PodGroupNamespaces does not allow it",
        )
    groups = tuple(sorted(set(wanted if direct else profiles[names])))
    strange = sorted(set(groups) - allowed) if allowed is not None else []
    if strange:
        return (), f"{', '.join(strange)} not tagged berth:allowed in the node's VPC"
    if len(groups) > _MOST_GROUPS:
        return (), f"{len(groups)} security groups: an interface can have {_MOST_GROUPS} at the most"
    return groups, ""


def _may_name(namespace: str, rules: tuple[tuple[str, tuple[str, ...]], ...]) -> set[str]:
    named: Mapping[str, tuple[str, ...]] = dict(rules)
    return {*named.get(namespace, ()), *named.get(_ANY, ())}
