"""What the whole test run asked of IAM, and what the deployed policies allow. See ``tests/sandbox/cloud/usage.py``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.sandbox.cloud.iam import Access, Statement, parse_policy
from tests.sandbox.cloud.usage import DIRECTORY
from tests.unit.control.stack_template import load_template

__all__ = ["NODE", "Grant", "Use", "deployed", "documents_of", "grants", "uses"]

_ROLE: Final = re.compile(r"-(\w+Role)-[0-9A-Z]+$")
_NODE_POLICY: Final = re.compile(r"(^|-)NodePolicy(-|$)")
NODE: Final = "Node"


@dataclass(frozen=True, slots=True)
class Use:
    """One kind of access. ``role`` is the role's name in the template, or Node, and ``named`` its name in the sandbox;
    ``granted`` are policy, statement, and the keys of its conditions that the request had."""

    kind: str
    role: str
    named: str
    access: Access
    allowed: bool
    granted: tuple[tuple[str, str, frozenset[str]], ...]


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """One action that one statement allows a role. ``statement`` is its Sid, or its number."""

    role: str
    policy: str
    statement: str
    action: str
    keys: frozenset[str] = field(compare=False, default=frozenset())

    def __str__(self) -> str:
        return f"{self.role}/{self.policy}/{self.statement}: {self.action}"


@cache
def _lines() -> tuple[Mapping[str, Any], ...]:
    directory = os.environ.get(DIRECTORY)
    if not directory or not (found := sorted(Path(directory).glob("usage-*.jsonl"))):
        raise FileNotFoundError(
            f"{DIRECTORY}={directory!r} has no record of a test run: this suite judges the one before it. "
            "`make test` runs both; by hand, set the variable to an absolute path and run tests/e2e first."
        )
    return tuple(json.loads(line) for path in found for line in path.read_text().splitlines())


def _documents() -> Iterator[tuple[str, str, str]]:
    """Role in the sandbox, policy, text; of this stack's roles alone: tests of the sandbox itself have others."""
    for line in _lines():
        for policy, text in line.get("documents", {}).items():
            if _logical(line["role"], policy) is not None:
                yield line["role"], policy, text


def _logical(role: str, policy: str) -> str | None:
    if _NODE_POLICY.search(policy):
        return NODE
    match = _ROLE.search(role)
    return match[1] if match and match[1] in _roles_of_the_template() else None


@cache
def _roles_of_the_template() -> frozenset[str]:
    """Tests of the sandbox itself deploy stacks with other roles."""
    return frozenset(k for k, r in load_template()["Resources"].items() if r["Type"] == "AWS::IAM::Role")


@cache
def deployed() -> Mapping[str, Mapping[str, str]]:
    """By role, by policy: the policy's text as it was deployed last."""
    found: dict[str, dict[str, str]] = {}
    for role, policy, text in _documents():
        logical = _logical(role, policy)
        assert logical is not None
        found.setdefault(logical, {})[_policy_name(policy)] = text
    return found


@cache
def documents_of(named: str) -> tuple[str, ...]:
    """The texts of the policies of one role in the sandbox, as they were deployed last."""
    found = {policy: text for role, policy, text in _documents() if role == named}
    return tuple(found.values())


def _policy_name(policy: str) -> str:
    return "NodePolicy" if _NODE_POLICY.search(policy) else policy


def grants() -> tuple[Grant, ...]:
    """Everything that the deployed policies allow, action by action."""
    found = set()
    for role, policies in deployed().items():
        for policy, text in policies.items():
            for number, statement in enumerate(parse_policy(text)):
                for action in statement.actions if statement.allow else ():
                    found.add(Grant(role, policy, statement.sid or str(number), action, _tested(statement)))
    return tuple(sorted(found))


def _tested(statement: Statement) -> frozenset[str]:
    """The keys that a request must have for the statement to mean anything; a Null condition may ask for absence."""
    absent = {c.key for c in statement.conditions if c.operator == "Null" and "true" in c.values}
    return frozenset(c.key for c in statement.conditions if c.key not in absent)


@cache
def uses() -> tuple[Use, ...]:
    """Everything that functions and nodes of the deployed stacks asked for."""
    ours = {role: logical for role, policy, _ in _documents() if (logical := _logical(role, policy))}
    return tuple(
        Use(
            line["kind"],
            ours[line["role"]],
            line["role"],
            Access(line["action"], line["resource"], {k: tuple(v) for k, v in line["context"].items()}),
            line["decision"] == "allow",
            tuple((_policy_name(u["policy"]), u["statement"], frozenset(u["keys"])) for u in line["used"]),
        )
        for line in _lines()
        if "action" in line and line["role"] in ours
    )
