"""A stack's resources: created, changed and removed one after another, each telling what became of it in the events."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from moto.cloudformation import parsing
from moto.cloudformation.models import Change, ChangeSet, Event, Stack
from moto.cloudformation.parsing import ResourceMap

from .cfn_properties import KEPT_ON_UPDATE, apply_properties
from .patching import replace

__all__ = ["ResourceFailedError", "add_event", "install"]

_SUBSTITUTED: Final = re.compile(r"\$\{([^!][^}]*)\}")
_PASSES: Final = 5
"""A change or removal that depends on another one is tried again after it."""


class ResourceFailedError(Exception):
    """A resource could not be made or changed. The message has its logical id, its type and the reason."""

    def __init__(self, logical_id: str, kind: str, error: Exception) -> None:
        self.logical_id, self.kind = logical_id, kind
        self.reason = getattr(error, "message", None) or str(error) or repr(error)
        super().__init__(f"{logical_id} ({kind}): {self.reason}")


def add_event(
    stack: Stack, logical_id: str, kind: str, status: str, *, resource: Any = None, reason: str | None = None
) -> None:
    """Add an event of one resource to its stack."""
    event = Event(
        stack_id=stack.stack_id,
        stack_name=stack.name,
        logical_resource_id=logical_id,
        physical_resource_id=str(getattr(resource, "physical_resource_id", None) or ""),
        resource_type=kind,
        resource_status=status,
        resource_status_reason=reason,
        resource_properties=None,
    )
    stack.events.append(event)


def _tell(resources_map: Any, logical_id: str, kind: str, status: str, **more: Any) -> None:
    add_event(resources_map.stack, logical_id, kind, status, **more)


# --------------------------------------------------------------------------------------------------- one resource


def _parse_resource(original: Any) -> Any:
    def parse_resource(resource_json: dict[str, Any], resources_map: Any) -> Any:
        parsed = original(resource_json, resources_map)
        if parsed:
            _drop_no_value(parsed[1]["Properties"])
            _read_json_text(parsed[1]["Properties"])
        return parsed

    return parse_resource


def _drop_no_value(value: Any) -> None:
    """``AWS::NoValue`` takes an element out of a list too (CloudFormation, pseudo parameters); moto leaves None."""
    if isinstance(value, list):
        value[:] = [v for v in value if v is not None]
    for held in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _drop_no_value(held)


def _read_json_text(properties: dict[str, Any]) -> None:
    """A property of type Json may be given as text, which is how a key of a policy comes to hold a parameter."""
    for holder in (properties, *(properties.get("Policies") or [])):
        if isinstance(holder, dict) and isinstance(holder.get("PolicyDocument"), str):
            holder["PolicyDocument"] = json.loads(holder["PolicyDocument"])


def _create(original: Any) -> Any:
    def parse_and_create_resource(
        logical_id: str, resource_json: dict[str, Any], resources_map: Any, **where: str
    ) -> Any:
        kind = resource_json["Type"]
        try:
            resource = original(logical_id, resource_json, resources_map, **where)
            if resource is not None:
                _apply_or_remove(resource_json, resource, resources_map)
        except ResourceFailedError:
            raise
        except Exception as error:
            raise ResourceFailedError(logical_id, kind, error) from error
        if resource is not None:
            _tell(resources_map, logical_id, kind, "CREATE_COMPLETE", resource=resource)
        return resource

    return parse_and_create_resource


def _update(original: Any) -> Any:
    def parse_and_update_resource(
        logical_id: str, resource_json: dict[str, Any], resources_map: Any, **where: str
    ) -> Any:
        kind = resource_json["Type"]
        if kind == "AWS::Events::Rule":
            # moto makes a new rule; by another name it would lose who may be invoked by it
            named = {"Name": resources_map[logical_id].name, **(resource_json.get("Properties") or {})}
            resource_json = {**resource_json, "Properties": named}
        try:
            changed = None if kind in KEPT_ON_UPDATE else original(logical_id, resource_json, resources_map, **where)
            resource = changed or resources_map[logical_id]
            _apply(resource_json, resource, resources_map)
        except ResourceFailedError:
            raise
        except Exception as error:
            raise ResourceFailedError(logical_id, kind, error) from error
        _tell(resources_map, logical_id, kind, "UPDATE_COMPLETE", resource=resource)
        return resource

    return parse_and_update_resource


def _apply(resource_json: dict[str, Any], resource: Any, resources_map: Any) -> None:
    _, cleaned, kind = parsing.parse_resource(resource_json, resources_map)
    apply_properties(kind, resource, cleaned["Properties"])


def _apply_or_remove(resource_json: dict[str, Any], resource: Any, resources_map: Any) -> None:
    try:
        _apply(resource_json, resource, resources_map)
    except Exception:
        # the stack does not know it yet, so nobody else would
        resources_map._delete_resource(resource, resource_json)
        raise


def _remove_one(original: Any) -> Any:
    def _delete_resource(self: ResourceMap, resource: Any, resource_json: dict[str, Any]) -> None:
        original(self, resource, resource_json)
        _tell(self, resource.logical_resource_id, resource_json["Type"], "DELETE_COMPLETE", resource=resource)

    return _delete_resource


def _remove_all(original: Any) -> Any:
    def delete(self: ResourceMap) -> None:
        original(self)
        for logical_id, kept in self._resource_json_map.items():
            if logical_id in self._parsed_resources and kept.get("DeletionPolicy") == "Retain":
                _tell(self, logical_id, kept["Type"], "DELETE_SKIPPED", resource=self._parsed_resources[logical_id])

    return delete


# ------------------------------------------------------------------------------------------------- what has changed


def _differences(self: ResourceMap, template: dict[str, Any], parameters: Any = None) -> dict[str, list[str]]:
    """Logical ids by action. moto sees a parameter's change in ``Ref`` alone, not in ``Fn::Sub`` and in conditions."""
    old, new = self._resource_json_map, template["Resources"]
    given = parameters or {}
    changed = {name for name in given if self.input_parameters.get(name) != given[name]}
    conditions = template.get("Conditions") or {}
    return {
        "Add": [n for n in new if n not in old],
        "Modify": [
            n
            for n in new
            if n in old and (_differ(new[n], old[n]) or not changed.isdisjoint(_names(new[n], conditions)))
        ],
        "Remove": [n for n in old if n not in new],
    }


def _differ(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    # moto adds empty properties to a resource that it has made
    return {"Properties": {}, **new} != {"Properties": {}, **old}


def _names(value: Any, conditions: Mapping[str, Any]) -> Iterator[str]:
    """All that a part of a template refers to, through its conditions too."""
    if isinstance(value, list):
        for item in value:
            yield from _names(item, conditions)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key == "Ref":
            yield inner
        elif key == "Fn::Sub":
            yield from _SUBSTITUTED.findall(inner if isinstance(inner, str) else inner[0])
        elif key in ("Fn::If", "Condition"):
            yield from _names(conditions.get(inner[0] if isinstance(inner, list) else str(inner), {}), conditions)
        yield from _names(inner, conditions)


def _changes(self: ChangeSet) -> list[Change]:
    template = self.template_dict
    found = self.stack.resource_map.build_resource_diff(template, self.parameters)
    kinds = {**self.stack.resource_map._resource_json_map, **template["Resources"]}
    return [Change(action, name, kinds[name]["Type"]) for action, names in found.items() for name in names]


def _change_all(self: ResourceMap, template: dict[str, Any], parameters: Any = None) -> None:
    """Bring the resources to a template. What left the template goes last, as CloudFormation's clean-up does."""
    actions = self.build_resource_diff(template, parameters)
    before = self._resource_json_map
    self._template = template
    if parameters:
        self.input_parameters = parameters
    self._resource_json_map = template["Resources"]
    self.load()
    # a resource whose condition is false is in the template and not in the stack
    there = {n for n in before if self._parsed_resources.get(n) is not None}
    wanted = [n for n in self._resource_json_map if _is_wanted(self, n)]
    added = [n for n in wanted if n not in there]
    for name in added:
        self._parsed_resources.pop(name, None)
    for name in added:
        _make(self, name)  # and what it refers to
    changed = [n for n in actions["Modify"] if n in wanted and n in there]
    _repeat(changed, lambda name: self._parsed_resources.update({name: _changed(self, name)}))
    gone = [n for n in before if n in there and n not in wanted]
    kept = [n for n in gone if before[n].get("DeletionPolicy") == "Retain"]
    _repeat(
        [n for n in gone if n not in kept],
        lambda name: self._delete_resource(self._parsed_resources[name], before[name]),
    )
    for name in gone:
        self._parsed_resources.pop(name)


def _is_wanted(resources_map: ResourceMap, name: str) -> bool:
    condition = resources_map._resource_json_map[name].get("Condition")
    return condition is None or bool(resources_map.lazy_condition_map[condition])


def _make(resources_map: ResourceMap, name: str) -> None:
    needed = resources_map._resource_json_map[name].get("DependsOn") or []
    for other in [needed] if isinstance(needed, str) else needed:
        _make(resources_map, other)
    resources_map[name]  # moto's map makes what it is asked for


def _changed(resources_map: ResourceMap, name: str) -> Any:
    return parsing.parse_and_update_resource(
        name,
        copy.deepcopy(resources_map._resource_json_map[name]),
        resources_map,
        account_id=resources_map._account_id,
        region_name=resources_map._region_name,
    )


def _repeat(names: list[str], action: Callable[[str], Any]) -> None:
    waiting, failure = list(names), None
    for _ in range(_PASSES):
        for name in list(waiting):
            try:
                action(name)
            except Exception as error:
                failure = error
            else:
                waiting.remove(name)
        if not waiting:
            return
    if failure is not None:
        raise failure


def _with_stack(original: Any) -> Any:
    def _create_resource_map(self: Stack) -> Any:
        made: Any = original(self)
        made.stack = self
        return made

    return _create_resource_map


def install() -> None:
    """Put all of this into moto. Call once in a process."""
    for owner, name, wrap in (
        (parsing, "parse_resource", _parse_resource),
        (parsing, "parse_and_create_resource", _create),
        (parsing, "parse_and_update_resource", _update),
        (ResourceMap, "_delete_resource", _remove_one),
        (ResourceMap, "delete", _remove_all),
        (Stack, "_create_resource_map", _with_stack),
    ):
        replace(owner, name, wrap(getattr(owner, name)))
    replace(ResourceMap, "build_resource_diff", _differences)
    replace(ResourceMap, "update", _change_all)
    replace(ChangeSet, "diff", _changes)
