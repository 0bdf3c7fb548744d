"""IAM's policy language and evaluation, as a pure function of policies and one request.

Sources: IAM user guide, "Policy evaluation logic", "IAM JSON policy elements: Condition operators", "… Condition with
multiple keys or values" and "Policy variables". Unknown operators are an error, so that no policy is half understood.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

__all__ = ["Access", "Decision", "PolicyError", "Statement", "applies", "context", "evaluate", "parse_policy"]

Decision = Literal["allow", "deny", "none"]
"""``deny`` is an explicit deny; ``none`` an implicit one."""

Context = Mapping[str, tuple[str, ...]]


class PolicyError(ValueError):
    """A policy document that IAM would not accept, or that uses what this evaluator does not know."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator with one key. ``quantifier`` is ``ForAllValues``, ``ForAnyValue`` or empty."""

    quantifier: str
    operator: str
    if_exists: bool
    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. ``not_actions`` and the like say that the list is of what is *not* meant."""

    allow: bool
    actions: tuple[str, ...]
    not_actions: bool
    resources: tuple[str, ...]
    not_resources: bool
    conditions: tuple[Condition, ...] = ()
    principals: Mapping[str, tuple[str, ...]] | None = None
    not_principals: bool = False
    sid: str = ""


@dataclass(frozen=True, slots=True)
class Access:
    """One question: may this action be done to this resource? Context keys are lower case, values always a tuple."""

    action: str
    resource: str
    context: Context = field(default_factory=dict)


def context(values: Mapping[str, str | Iterable[str] | None]) -> dict[str, tuple[str, ...]]:
    """A request context out of plain values; ``None`` leaves the key out."""
    return {
        key.lower(): (value,) if isinstance(value, str) else tuple(value)
        for key, value in values.items()
        if value is not None
    }


# ------------------------------------------------------------------------------------------------------- reading


@functools.lru_cache(maxsize=512)
def parse_policy(document: str) -> tuple[Statement, ...]:
    """The statements of a JSON policy document. Raises :class:`PolicyError`."""
    try:
        policy = json.loads(document)
    except ValueError as error:
        raise PolicyError(f"the policy document is not JSON: {error}") from None
    statements = policy.get("Statement") or []
    return tuple(_statement(s) for s in (statements if isinstance(statements, list) else [statements]))


def _statement(raw: Mapping[str, Any]) -> Statement:
    if raw.get("Effect") not in ("Allow", "Deny"):
        raise PolicyError(f"Effect: expected Allow or Deny, got {raw.get('Effect')!r}")
    actions, not_actions = _either(raw, "Action")
    if "Resource" in raw or "NotResource" in raw:
        resources, not_resources = _either(raw, "Resource")
    else:
        resources, not_resources = ("*",), False
    principal = raw.get("Principal", raw.get("NotPrincipal"))
    return Statement(
        allow=raw["Effect"] == "Allow",
        actions=actions,
        not_actions=not_actions,
        resources=resources,
        not_resources=not_resources,
        conditions=tuple(_conditions(raw.get("Condition") or {})),
        principals=_principals(principal) if principal is not None else None,
        not_principals="NotPrincipal" in raw,
        sid=str(raw.get("Sid", "")),
    )


def _either(raw: Mapping[str, Any], name: str) -> tuple[tuple[str, ...], bool]:
    if name in raw:
        return _texts(raw[name]), False
    if f"Not{name}" in raw:
        return _texts(raw[f"Not{name}"]), True
    raise PolicyError(f"a statement needs {name} or Not{name}")


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(str(v).lower() if isinstance(v, bool) else str(v) for v in values)


def _principals(value: Any) -> dict[str, tuple[str, ...]]:
    return {"AWS": ("*",)} if value == "*" else {kind: _texts(names) for kind, names in value.items()}


def _conditions(raw: Mapping[str, Mapping[str, Any]]) -> Iterable[Condition]:
    for name, keys in raw.items():
        quantifier, _, operator = name.rpartition(":")
        if_exists = operator.endswith("IfExists")
        operator = operator.removesuffix("IfExists")
        if operator not in _TESTS and operator != "Null":
            raise PolicyError(f"Condition: this evaluator does not know {name}")
        if quantifier not in ("", "ForAllValues", "ForAnyValue"):
            raise PolicyError(f"Condition: {quantifier} is no set operator")
        for key, values in keys.items():
            yield Condition(quantifier, operator, if_exists, key.lower(), _texts(values))


# ---------------------------------------------------------------------------------------------------- evaluating


def evaluate(statements: Sequence[Statement], access: Access, principal: Mapping[str, str] | None = None) -> Decision:
    """Explicit deny wins, then allow, else none.

    ``principal`` (kind → name, as ``{"AWS": arn}`` or ``{"Service": "events.amazonaws.com"}``) is for resource-based
    policies, whose statements name one.
    """
    found: Decision = "none"
    for statement in statements:
        if applies(statement, access, principal):
            if not statement.allow:
                return "deny"
            found = "allow"
    return found


def applies(statement: Statement, access: Access, principal: Mapping[str, str] | None = None) -> bool:
    """Whether a statement speaks of this access (and of this principal, for resource-based policies)."""
    if principal is not None and not _names(statement, principal):
        return False
    if any(_like(access.action.lower(), a.lower()) for a in statement.actions) == statement.not_actions:
        return False
    patterns = [_expand(r, access.context) for r in statement.resources]
    if any(p is not None and _like(access.resource, p) for p in patterns) == statement.not_resources:
        return False
    return all(_holds(condition, access.context) for condition in statement.conditions)


def _names(statement: Statement, principal: Mapping[str, str]) -> bool:
    if statement.principals is None:
        return False
    named = any(
        name in ("*", value) or (kind == "AWS" and _is_account(name) and _account_of(name) == _account_of(value))
        for kind, value in principal.items()
        for name in statement.principals.get(kind, ())
    )
    return named != statement.not_principals


def _is_account(name: str) -> bool:
    return name.isdigit() or name.endswith(":root")


def _account_of(name: str) -> str:
    return name if name.isdigit() else (name.split(":") + [""] * 5)[4]


def _holds(condition: Condition, request: Context) -> bool:
    values = request.get(condition.key)
    if condition.operator == "Null":
        return any((values is None) == (wanted == "true") for wanted in condition.values)
    negated, test = _TESTS[condition.operator]
    if condition.quantifier == "ForAllValues":
        # true for a key that is absent, which is why such a policy also asks Null
        return all(_matches(v, condition.values, request, test) != negated for v in values or ())
    if condition.quantifier == "ForAnyValue":
        return any(_matches(v, condition.values, request, test) != negated for v in values or ())
    if values is None:
        # a negated operator matches an absent key; any other does not, unless it says IfExists
        return condition.if_exists or negated
    return any(_matches(v, condition.values, request, test) for v in values) != negated


def _matches(value: str, wanted: Sequence[str], request: Context, test: Callable[[str, str], bool]) -> bool:
    expanded = (_expand(w, request) for w in wanted)
    return any(pattern is not None and test(value, pattern) for pattern in expanded)


# Wildcards that came out of a variable's value are plain characters: they are marked while a pattern is expanded.
_LITERAL: Final = {"*": "\ue000", "?": "\ue001"}
_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")


def _expand(text: str, request: Context) -> str | None:
    """Put the variables in. ``None`` if one has no single value: then the element matches nothing."""
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        name = match[1]
        if name in ("*", "?", "$"):
            return _LITERAL.get(name, name)
        key, _, default = (part.strip() for part in name.partition(","))
        values = request.get(key.lower())
        if values is None or len(values) != 1:
            missing = missing or not default
            return default.strip("'")
        return values[0].replace("*", _LITERAL["*"]).replace("?", _LITERAL["?"])

    expanded = _VARIABLE.sub(value, text)
    return None if missing else expanded


@functools.lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": ".", _LITERAL["*"]: r"\*", _LITERAL["?"]: r"\?"}
    return re.compile("".join(parts.get(c) or re.escape(c) for c in pattern), re.DOTALL)


def _like(value: str, pattern: str) -> bool:
    return _glob(pattern).fullmatch(value) is not None


def _plain(pattern: str) -> str:
    return pattern.replace(_LITERAL["*"], "*").replace(_LITERAL["?"], "?")


def _arn_like(value: str, pattern: str) -> bool:
    """Each of the six parts separately (same guide, "Amazon Resource Name (ARN) condition operators")."""
    got, wanted = value.split(":", 5), pattern.split(":", 5)
    return len(got) == len(wanted) == 6 and all(_like(g, w) for g, w in zip(got, wanted, strict=True))


def _number(compare: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    return lambda value, wanted: compare(float(value), float(wanted))


def _date(compare: Callable[[datetime, datetime], bool]) -> Callable[[str, str], bool]:
    def read(text: str) -> datetime:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))

    return lambda value, wanted: compare(read(value), read(wanted))


def _equal(value: str, wanted: str) -> bool:
    return value == _plain(wanted)


def _equal_ignoring_case(value: str, wanted: str) -> bool:
    return value.lower() == _plain(wanted).lower()


_TESTS: Final[dict[str, tuple[bool, Callable[[str, str], bool]]]] = {
    "StringEquals": (False, _equal),
    "StringNotEquals": (True, _equal),
    "StringEqualsIgnoreCase": (False, _equal_ignoring_case),
    "StringNotEqualsIgnoreCase": (True, _equal_ignoring_case),
    "StringLike": (False, _like),
    "StringNotLike": (True, _like),
    "ArnEquals": (False, _arn_like),  # behaves as ArnLike (same page)
    "ArnLike": (False, _arn_like),
    "ArnNotEquals": (True, _arn_like),
    "ArnNotLike": (True, _arn_like),
    "Bool": (False, _equal_ignoring_case),
    "NumericEquals": (False, _number(lambda a, b: a == b)),
    "NumericNotEquals": (True, _number(lambda a, b: a == b)),
    "NumericLessThan": (False, _number(lambda a, b: a < b)),
    "NumericLessThanEquals": (False, _number(lambda a, b: a <= b)),
    "NumericGreaterThan": (False, _number(lambda a, b: a > b)),
    "NumericGreaterThanEquals": (False, _number(lambda a, b: a >= b)),
    "DateLessThan": (False, _date(lambda a, b: a < b)),
    "DateGreaterThan": (False, _date(lambda a, b: a > b)),
}
"""Operator → (negated, test of one value against one wanted value)."""
