"""CloudFormation: the SAM transform, and stacks that either come up whole or say which resource failed and go away."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from moto.cloudformation import parsing, responses
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import CloudFormationBackend, Event, Stack
from samtranslator.model.exceptions import InvalidDocumentException
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from . import cfn_properties, cfn_types
from .cfn_properties import KEPT_ON_UPDATE, apply_properties
from .identity import REGION
from .patching import replace

__all__ = ["expand", "install"]

_SAM: Final = "AWS::Serverless-2016-10-31"


class _BundledPolicies:
    """samtranslator falls back to the list of managed policies that it carries."""

    def load(self) -> dict[str, str]:
        return {}


def expand(template: str, parameters: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The template without SAM resources, and the parameters with the template's defaults.

    Raises moto's ``ValidationError`` with every problem the transform finds, as CloudFormation does.
    """
    parsed = yaml_parse(template)
    defaults = {n: str(p["Default"]) for n, p in (parsed.get("Parameters") or {}).items() if "Default" in p}
    values = {**defaults, **{k: str(v) for k, v in parameters.items()}}
    _check_parameters(parsed.get("Parameters") or {}, values)
    declared = parsed.get("Transform") or []
    if _SAM in (declared if isinstance(declared, list) else [declared]):
        os.environ.setdefault("AWS_DEFAULT_REGION", REGION)  # samtranslator asks boto3 for the partition
        try:
            parsed = transform(parsed, dict(values), _BundledPolicies())
        except InvalidDocumentException as error:
            causes = "; ".join(c.message for c in error.causes) or error.message
            raise ValidationError(message=f"Transform {_SAM} failed with: {causes}") from None
    _check_types(parsed)
    for resource in parsed["Resources"].values():
        # kept on delete in both cases; they differ only in a create that fails, which is handled here
        if resource.get("DeletionPolicy") == "RetainExceptOnCreate":
            resource["DeletionPolicy"] = "Retain"
    return json.dumps(parsed), values


def _check_parameters(declared: Mapping[str, Mapping[str, Any]], values: Mapping[str, str]) -> None:
    unknown = sorted(set(values) - set(declared))
    if unknown:
        raise ValidationError(message=f"Parameters: {unknown} do not exist in the template")
    missing = sorted(set(declared) - set(values))
    if missing:
        raise ValidationError(message=f"Parameters: {missing} must have values")
    for name, rules in declared.items():
        listed = rules.get("Type", "").startswith(("List<", "CommaDelimitedList"))
        for value in values[name].split(",") if listed else [values[name]]:
            _check_parameter(name, rules, value)


def _check_parameter(name: str, rules: Mapping[str, Any], value: str) -> None:
    allowed = [str(v) for v in rules.get("AllowedValues") or []]
    if allowed and value not in allowed:
        raise ValidationError(message=f"Parameter '{name}' must be one of AllowedValues: {', '.join(allowed)}")
    if rules.get("AllowedPattern") and not re.fullmatch(rules["AllowedPattern"], value):
        raise ValidationError(message=f"Parameter '{name}' must match pattern {rules['AllowedPattern']}, got {value!r}")
    if rules.get("Type") == "Number":
        number = float(value)
        if number < float(rules.get("MinValue", number)) or number > float(rules.get("MaxValue", number)):
            raise ValidationError(message=f"Parameter '{name}' is out of range: {value}")


def _check_types(template: Mapping[str, Any]) -> None:
    known = parsing.get_model_map()
    unknown = sorted({r["Type"] for r in template["Resources"].values()} - set(known) - set(parsing.NULL_MODELS))
    unknown = [t for t in unknown if not t.startswith("Custom::")]
    if unknown:
        # moto would skip them and call the stack complete
        raise ValidationError(message=f"Template format error: Unrecognized resource types: {unknown}")


# ------------------------------------------------------------------------------------------------------- resources


class _ResourceFailedError(Exception):
    def __init__(self, logical_id: str, kind: str, reason: str) -> None:
        super().__init__(f"{logical_id} ({kind}): {reason}")
        self.logical_id, self.kind, self.reason = logical_id, kind, reason


def _parse_resource(original: Any) -> Any:
    def parse_resource(resource_json: dict[str, Any], resources_map: Any) -> Any:
        parsed = original(resource_json, resources_map)
        if parsed:
            _read_json_text(parsed[1]["Properties"])
        return parsed

    return parse_resource


def _read_json_text(properties: dict[str, Any]) -> None:
    """A property of type Json may be given as text, which is how a key of a policy comes to hold a parameter."""
    for holder in (properties, *(properties.get("Policies") or [])):
        if isinstance(holder, dict) and isinstance(holder.get("PolicyDocument"), str):
            holder["PolicyDocument"] = json.loads(holder["PolicyDocument"])


def _create(original: Any) -> Any:
    def parse_and_create_resource(
        logical_id: str, resource_json: dict[str, Any], resources_map: Any, **where: str
    ) -> Any:
        try:
            resource = original(logical_id, resource_json, resources_map, **where)
            if resource is not None:
                _apply(resource_json, resource, resources_map)
        except _ResourceFailedError:
            raise
        except Exception as error:
            reason = getattr(error, "message", None) or str(error) or repr(error)
            raise _ResourceFailedError(logical_id, resource_json["Type"], reason) from error
        return resource

    return parse_and_create_resource


def _update(original: Any) -> Any:
    def parse_and_update_resource(
        logical_id: str, resource_json: dict[str, Any], resources_map: Any, **where: str
    ) -> Any:
        if resource_json["Type"] in KEPT_ON_UPDATE:
            resource = resources_map[logical_id]
        else:
            resource = original(logical_id, resource_json, resources_map, **where)
        resource = resource or resources_map[logical_id]
        _apply(resource_json, resource, resources_map)
        return resource

    return parse_and_update_resource


def _apply(resource_json: dict[str, Any], resource: Any, resources_map: Any) -> None:
    _, cleaned, kind = parsing.parse_resource(resource_json, resources_map)
    apply_properties(kind, resource, cleaned["Properties"])


# ---------------------------------------------------------------------------------------------------------- stacks


def _create_stack(original: Any) -> Any:
    def create_stack(self: CloudFormationBackend, name: str, template: str, parameters: Any, **rest: Any) -> Stack:
        template, parameters = expand(template, parameters)
        try:
            created: Stack = original(self, name, template, parameters, **rest)
            return created
        except _ResourceFailedError as failure:
            # CreateStack itself succeeds; the stack's events tell of the failure
            stack = next(s for s in self.stacks.values() if s.name == name)
            _roll_back(stack, failure)
            return stack

    return create_stack


def _roll_back(stack: Stack, failure: _ResourceFailedError) -> None:
    event = Event(
        stack_id=stack.stack_id,
        stack_name=stack.name,
        logical_resource_id=failure.logical_id,
        physical_resource_id="",
        resource_type=failure.kind,
        resource_status="CREATE_FAILED",
        resource_status_reason=failure.reason,
        resource_properties=None,
    )
    stack.events.append(event)
    for resource in stack.resource_map._resource_json_map.values():
        resource.pop("DeletionPolicy", None)
    try:
        stack.delete()
        stack.status = "ROLLBACK_COMPLETE"
    except Exception as error:
        stack.status = "ROLLBACK_FAILED"
        stack._add_stack_event("ROLLBACK_FAILED", resource_status_reason=str(error))
        return
    stack._add_stack_event("ROLLBACK_COMPLETE")


def _create_change_set(original: Any) -> Any:
    def create_change_set(self: CloudFormationBackend, **arguments: Any) -> Any:
        template, parameters = expand(arguments["template"], arguments["parameters"])
        return original(self, **{**arguments, "template": template, "parameters": parameters})

    return create_change_set


def _execute_change_set(original: Any) -> Any:
    def execute_change_set(self: CloudFormationBackend, change_set_name: str, stack_name: str | None = None) -> None:
        change_set: Any = self.describe_change_set(change_set_name)
        stack = self.stacks[change_set.stack_id]
        try:
            original(self, change_set_name, stack_name)
        except _ResourceFailedError as failure:
            _roll_back(stack, failure)
            return
        # moto forgets the outputs of a stack that a change set made
        stack.template_dict = change_set.template_dict
        stack.description = change_set.template_dict.get("Description")
        stack.output_map = stack._create_output_map()

    return execute_change_set


def _update_stack(original: Any) -> Any:
    def update_stack(
        self: CloudFormationBackend, name: str, template: str, role_arn: Any, parameters: list[Any], tags: Any
    ) -> Stack:
        stack = self.get_stack(name)
        values = self._resolve_update_parameters(instance=stack, incoming_params=parameters)
        expanded, values = expand(template or str(stack.template), values)
        given = [{"ParameterKey": k, "ParameterValue": v} for k, v in values.items()]
        updated: Stack = original(self, name, expanded, role_arn, given, tags)
        return updated

    return update_stack


def _delete_stack(original: Any) -> Any:
    def delete_stack(self: CloudFormationBackend, name_or_stack_id: str) -> None:
        stack = next((s for s in self.stacks.values() if name_or_stack_id in (s.name, s.stack_id)), None)
        try:
            original(self, name_or_stack_id)
        except Exception as error:
            if stack is None:
                raise
            # DeleteStack succeeds; the stack stays, with what could not be deleted and the reason in its events
            self.stacks[stack.stack_id] = stack
            stack.status = "DELETE_FAILED"
            stack._add_stack_event("DELETE_FAILED", resource_status_reason=str(error))

    return delete_stack


def _template_url(original: Any) -> Any:
    def get_stack_from_s3_url(url: str, account_id: str, partition: str) -> Any:
        # moto takes the first label of the host for a bucket, unless the host is localhost
        return original(re.sub(r"^https?://[\d.]+(:\d+)?/", "http://localhost/", url), account_id, partition)

    return get_stack_from_s3_url


_installed = False


def install() -> None:
    """Put all of this into moto, once in a process."""
    global _installed
    if _installed:
        return
    _installed = True
    cfn_properties.install()
    cfn_types.install()
    for owner, name, wrap in (
        (parsing, "parse_resource", _parse_resource),
        (parsing, "parse_and_create_resource", _create),
        (parsing, "parse_and_update_resource", _update),
        (CloudFormationBackend, "create_stack", _create_stack),
        (CloudFormationBackend, "create_change_set", _create_change_set),
        (CloudFormationBackend, "execute_change_set", _execute_change_set),
        (CloudFormationBackend, "update_stack", _update_stack),
        (CloudFormationBackend, "delete_stack", _delete_stack),
        (responses, "get_stack_from_s3_url", _template_url),
    ):
        replace(owner, name, wrap(getattr(owner, name)))
