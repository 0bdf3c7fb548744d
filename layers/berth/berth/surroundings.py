"""The policy as far as the network around a node lets it be followed. Pure.

What cannot be followed is a bad value like any other: it is reported and the default is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from berth.growth import usable_subnets
from berth.model import Limits, NodePolicy, NodeView, PolicyProblem, SubnetView

__all__ = ["fit_network", "lacks_pod_subnet"]


def fit_network(policy: NodePolicy, view: NodeView, limits: Limits, subnets: Sequence[SubnetView]) -> NodePolicy:
    """``policy`` without subnets that no selector finds, groups that are not allowed, and IPv6 where there is none."""
    return _fit_families(_fit_groups(_fit_subnets(policy, view, subnets), view), view, limits, subnets)


def lacks_pod_subnet(policy: NodePolicy, view: NodeView, subnets: Sequence[SubnetView]) -> bool:
    """Whether ``policy``, before it was fitted, names subnets for pods of which the node's zone has none."""
    named = policy.subnets is not None or policy.policy.spare_primary
    return named and bool(subnets) and not usable_subnets(view, policy, subnets)


def _with(policy: NodePolicy, tag: str, value: str, message: str) -> NodePolicy:
    return replace(policy, problems=(*policy.problems, PolicyProblem(tag, value, message)))


def _fit_subnets(policy: NodePolicy, view: NodeView, subnets: Sequence[SubnetView]) -> NodePolicy:
    policy = _fit_selector(policy, view, subnets)
    if not lacks_pod_subnet(policy, view, subnets):
        return policy
    message = f"no subnet in {view.instance.zone} is tagged berth:allowed; there is none that pods could have"
    return _with(policy, "berth:primary-serves-pods", "false", message)


def _fit_selector(policy: NodePolicy, view: NodeView, subnets: Sequence[SubnetView]) -> NodePolicy:
    if policy.subnets is None or not subnets or usable_subnets(view, policy, subnets):
        return policy
    key, value = policy.subnets
    text = key if value is None else f"{key}={value}"
    message = f"matches no subnet tagged berth:allowed in {view.instance.zone}; using any subnet there that is"
    return replace(_with(policy, "berth:subnets", text, message), subnets=None)


def _fit_groups(policy: NodePolicy, view: NodeView) -> NodePolicy:
    """New interfaces fall back to the primary's groups; those that are there keep what they have."""
    strange = sorted(set(policy.groups or ()) - view.allowed_groups)
    if not strange:
        return policy
    message = (
        f"{', '.join(strange)} not tagged berth:allowed in {view.instance.vpc_id}; new interfaces get the primary's"
    )
    told = _with(policy, "berth:security-groups", ",".join(policy.groups or ()), message)
    return replace(told, groups=None, hold_groups=True)


def _fit_families(policy: NodePolicy, view: NodeView, limits: Limits, subnets: Sequence[SubnetView]) -> NodePolicy:
    families = policy.policy.ip_families
    if families == "ipv4":
        return policy
    own = next((s for s in subnets if s.id == view.instance.subnet_id), None)
    if policy.policy.spare_primary:
        usable = usable_subnets(view, policy, subnets)
        own = next((s for s in usable if s.ipv6), usable[0] if usable else None)
    if not limits.ipv6:
        message = f"{view.instance.type} cannot have IPv6 prefixes (Nitro types can); using ipv4"
    elif own is not None and not own.ipv6:
        message = f"{own.id} has no IPv6 CIDR; associate one with it; using ipv4"
    else:
        return policy
    return replace(
        _with(policy, "berth:ip-families", families, message), policy=replace(policy.policy, ip_families="ipv4")
    )
