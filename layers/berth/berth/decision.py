"""A decision: what a plan was made from, and the plan. Enough to make it again, and small enough for a log line. Pure.

As JSON, values that equal a field's default are left out, and so is all that the planner does not look at: other tags,
subnets of other zones, groups nobody asked about, counters. CloudWatch takes lines of up to 256 KB (CloudWatch Logs
quotas, "Event size"); a node with 15 full interfaces of single addresses needs half of that, an
ordinary one a hundredth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from typing import Any, Final

from berth.calls import Call
from berth.contract import Order
from berth.model import NODE_TAG_PREFIX, Limits, NodePolicy, NodeView, SubnetView
from berth.own_interfaces import for_itself
from berth.plan import Plan, plan, plan_absence, plan_death

__all__ = ["VERSION", "Decision", "Recorder", "Rules", "encode", "prune", "replan"]

VERSION: Final = 1
"""Of the JSON. A field is added with a default; what a field means never changes."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a living node is planned by, beside the view."""

    policy: NodePolicy
    limits: Limits
    subnets: tuple[SubnetView, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """``rules`` is None for a node that is gone; ``absent`` says that its death is not confirmed."""

    view: NodeView
    plan: Plan
    rules: Rules | None = None
    absent: bool = False

    @property
    def quiet(self) -> bool:
        """Nothing to do, nothing missing, nothing to wait for."""
        return self.plan == Plan()


def replan(decision: Decision) -> Plan:
    """The plan that this version makes of the same values."""
    rules = decision.rules
    if rules is not None:
        return plan(decision.view, rules.policy, rules.limits, rules.subnets)
    return plan_absence(decision.view) if decision.absent else plan_death(decision.view)


@dataclass(slots=True)
class Recorder:
    """A planner that keeps its decisions. One that is only what is left of the one before is not kept again."""

    planner: Callable[[NodeView], Plan]
    rules: Rules | None = None
    decisions: list[Decision] = field(default_factory=list)
    _last: tuple[Call, ...] | None = None

    def __call__(self, view: NodeView) -> Plan:
        made = self.planner(view)
        if self._last is None or not _is_rest(made.calls, self._last):
            self.decisions.append(Decision(view, made, self.rules, absent=self.planner is plan_absence))
        self._last = made.calls
        return made


def _is_rest(calls: Sequence[Call], before: Sequence[Call]) -> bool:
    """Whether ``calls`` are those of ``before``, or all of them but one: the one that was made."""
    return calls == before or any((*before[:i], *before[i + 1 :]) == calls for i in range(len(before)))


# ------------------------------------------------------------------------------------------------------- writing


def prune(decision: Decision) -> Decision:
    """The same decision without what no planner looks at. Nothing in it is secret, and neither are EC2's answers."""
    view, rules = decision.view, decision.rules
    near = {view.instance.subnet_id, *(i.subnet_id for i in (*view.interfaces, *view.standby))}
    asked = {g for i in view.interfaces for g in i.groups} | set((rules.policy.groups if rules else None) or ())
    asked |= {g for r in for_itself(view).values() for g in r.groups.split(",")}
    asked |= {g for _, groups in (rules.policy.pod_groups.profiles if rules else ()) for g in groups}
    tags = tuple((k, v) for k, v in view.instance.tags if k.startswith(("berth:", NODE_TAG_PREFIX)))
    view = replace(
        view,
        instance=replace(view.instance, tags=tags),
        allowed_groups=view.allowed_groups & asked,
        record=replace(view.record, accepted=Order(), no_snat_cidrs=()) if view.record else None,
        report=replace(view.report, order=Order()) if view.report else None,
        notes=replace(view.notes, next_look=0.0, looks=0, problems="", unmet_requests=()),
    )
    if rules is None:
        return replace(decision, view=view)
    selector = rules.policy.subnets[0] if rules.policy.subnets else None
    here = (view.instance.zone, view.instance.vpc_id)
    subnets = (s for s in rules.subnets if (s.zone, s.vpc_id) == here or s.id in near)
    kept = tuple(replace(s, tags=tuple(t for t in s.tags if t[0] == selector)) for s in subnets)
    return replace(decision, view=view, rules=replace(rules, subnets=kept))


def encode(decision: Decision) -> dict[str, Any]:
    """The decision as JSON's own types, without defaults. ``berth.cli.decoding`` reads it."""
    return {"v": VERSION, **_dump(decision)}


def _dump(value: Any) -> Any:
    if is_dataclass(value):
        kind = {"call": type(value).__name__} if isinstance(value, Call) else {}
        found = ((f.name, getattr(value, f.name)) for f in fields(value) if not _is_default(f, value))
        return kind | {name: _dump(v) for name, v in found}
    if isinstance(value, tuple):
        return [_dump(v) for v in value]
    return sorted(map(_dump, value)) if isinstance(value, frozenset) else value


def _is_default(f: Field[Any], owner: Any) -> bool:
    default = f.default_factory() if f.default_factory is not MISSING else f.default
    return bool(default == getattr(owner, f.name))
