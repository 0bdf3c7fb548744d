"""A node's policy from its instance tags: the stack's defaults, overridden tag by tag. Pure.

A bad value never stops a node: it is reported as a :class:`~berth.model.PolicyProblem` and the default is used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from berth.contract import IP_FAMILIES, MODES, Policy
from berth.model import NODE_TAG_PREFIX, Limits, NodePolicy, PolicyProblem

__all__ = ["POLICY_TAGS", "cluster_of", "cluster_problem", "fingerprint", "fit_policy", "parse_policy"]

POLICY_TAGS: Final = (
    "berth:cooldown-seconds",
    "berth:ip-families",
    "berth:max-pods",
    "berth:minimum-addresses",
    "berth:mode",
    "berth:pod-interfaces",
    "berth:primary-serves-pods",
    "berth:security-groups",
    "berth:subnets",
    "berth:unmanaged",
    "berth:warm-addresses",
)
_GROUP: Final = re.compile(r"sg-[0-9a-f]{8,17}")
_WORDS: Final = {"true": True, "yes": True, "1": True, "": True, "false": False, "no": False, "0": False}


def cluster_of(tags: Mapping[str, str], clusters: Iterable[str]) -> str | None:
    """The first of ``clusters`` (sorted) whose cluster tag the instance carries; None: not a node of ours."""
    for name in sorted(clusters):
        if tags.get(NODE_TAG_PREFIX + name) in ("owned", "shared"):
            return name
    return None


def is_managed(tags: Mapping[str, str], clusters: Iterable[str]) -> bool:
    """Whether the instance is to be looked after: a node of ours, and not unmanaged by its tag."""
    return cluster_of(tags, clusters) is not None and not _flag(tags, "berth:unmanaged", [])


def cluster_problem(tags: Mapping[str, str], clusters: Iterable[str], *, reports: bool) -> PolicyProblem | None:
    """Why an instance that seems meant to be a node is none: its cluster tag has a strange value, or it has none.

    ``reports``: an agent runs on it. Other instances without the tag are nobody's concern.
    """
    keys = [NODE_TAG_PREFIX + name for name in sorted(clusters)]
    for key in keys:
        if key in tags:
            return PolicyProblem(key, tags[key], "expected owned or shared; the instance is not served")
    message = f"an agent reports, but none of {', '.join(keys)} is set to owned or shared; the instance is not served"
    return PolicyProblem(keys[0], "", message) if reports else None


def fit_policy(policy: NodePolicy, instance_type: str, limits: Limits) -> NodePolicy:
    """The policy as far as the instance type can follow it."""
    if policy.policy.mode == "addresses" or limits.prefixes:
        return policy
    message = "only instance types on Nitro can have prefixes; using addresses"
    problem = PolicyProblem("berth:mode", "prefixes", f"{instance_type}: {message}")
    fitted = replace(policy.policy, mode="addresses")
    return replace(policy, policy=fitted, problems=(*policy.problems, problem))


def fingerprint(problems: Iterable[PolicyProblem]) -> str:
    """Short text that changes when the problems do, so that each is told once; "" if there are none."""
    text = "\n".join(sorted(f"{p.key}={p.value}: {p.message}" for p in problems))
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""


def parse_policy(tags: Mapping[str, str], defaults: Policy, subnets: str = "") -> NodePolicy:
    """Read the ``berth:`` tags of an instance. ``subnets`` is the default of ``berth:subnets``, "" for none."""
    problems: list[PolicyProblem] = []
    policy = _families(tags, _mode(tags, _numbers(tags, defaults, problems), problems), problems)
    own = _number(tags, problems, "berth:pod-interfaces", 0, 0, 64)
    serves = _flag(tags, "berth:primary-serves-pods", problems, default=not defaults.spare_primary)
    policy = replace(policy, spare_primary=not serves)
    return NodePolicy(
        policy=policy,
        subnets=_selector(tags, subnets, problems),
        groups=_groups(tags, problems),
        unmanaged=_flag(tags, "berth:unmanaged", problems),
        pod_interfaces=own,
        problems=(*problems, *_unknown(tags)),
    )


def _numbers(tags: Mapping[str, str], policy: Policy, problems: list[PolicyProblem]) -> Policy:
    def number(tag: str, default: int, lowest: int, highest: int) -> int:
        return _number(tags, problems, tag, default, lowest, highest)

    return replace(
        policy,
        warm_addresses=number("berth:warm-addresses", policy.warm_addresses, 0, 4096),
        minimum_addresses=number("berth:minimum-addresses", policy.minimum_addresses, 0, 4096),
        max_pods=number("berth:max-pods", policy.max_pods, 1, 4096),
        cooldown_seconds=number("berth:cooldown-seconds", policy.cooldown_seconds, 0, 86_400),
    )


def _number(
    tags: Mapping[str, str], problems: list[PolicyProblem], tag: str, default: int, lowest: int, highest: int
) -> int:
    text = tags.get(tag)
    if text is None:
        return default
    # isdecimal alone would accept other scripts' digits, which int() reads too but nobody means
    if text.isascii() and text.isdecimal() and len(text) <= 6 and lowest <= int(text) <= highest:
        return int(text)
    problems.append(PolicyProblem(tag, text, f"expected a whole number from {lowest} to {highest}; using {default}"))
    return default


def _mode(tags: Mapping[str, str], policy: Policy, problems: list[PolicyProblem]) -> Policy:
    text = tags.get("berth:mode")
    if text is None:
        return policy
    for mode in MODES:
        if text == mode:
            return replace(policy, mode=mode)
    problems.append(PolicyProblem("berth:mode", text, f"expected {' or '.join(MODES)}; using {policy.mode}"))
    return policy


def _families(tags: Mapping[str, str], policy: Policy, problems: list[PolicyProblem]) -> Policy:
    text = tags.get("berth:ip-families", policy.ip_families)
    for families in IP_FAMILIES:
        if text == families:
            return replace(policy, ip_families=families)
    message = f"expected one of {', '.join(IP_FAMILIES)}; using {policy.ip_families}"
    problems.append(PolicyProblem("berth:ip-families", text, message))
    return policy


def _selector(tags: Mapping[str, str], default: str, problems: list[PolicyProblem]) -> tuple[str, str | None] | None:
    text, usual = tags.get("berth:subnets"), _selected(default)
    if text is None:
        return usual
    found = _selected(text)
    if found is None:
        used = default if usual else "any subnet tagged berth:allowed"
        message = f"expected tag=value or tag, to select subnets by; using {used}"
        problems.append(PolicyProblem("berth:subnets", text, message))
    return found or usual


def _selected(text: str) -> tuple[str, str | None] | None:
    key, equals, value = text.partition("=")
    return (key.strip(), value.strip() if equals else None) if key.strip() else None


def _groups(tags: Mapping[str, str], problems: list[PolicyProblem]) -> tuple[str, ...] | None:
    text = tags.get("berth:security-groups")
    if text is None:
        return None
    names = sorted({part for part in re.split(r"[\s,/+]+", text) if part})
    if names and len(names) <= 16 and all(_GROUP.fullmatch(n) for n in names):
        return tuple(names)
    message = "expected 1 to 16 security group ids such as sg-0123456789abcdef0; using the primary interface's"
    problems.append(PolicyProblem("berth:security-groups", text, message))
    return None


def _flag(tags: Mapping[str, str], tag: str, problems: list[PolicyProblem], *, default: bool = False) -> bool:
    text = tags.get(tag)
    if text is None:
        return default
    word = _WORDS.get(text.lower())
    if word is None:
        problems.append(PolicyProblem(tag, text, f"expected true or false; using {str(default).lower()}"))
    return default if word is None else word


def _unknown(tags: Mapping[str, str]) -> Iterable[PolicyProblem]:
    """A misspelt tag would be ignored without a word otherwise."""
    for tag, value in sorted(tags.items()):
        if tag.startswith("berth:") and tag not in POLICY_TAGS:
            yield PolicyProblem(tag, value, f"no such policy tag; known are {', '.join(POLICY_TAGS)}")
