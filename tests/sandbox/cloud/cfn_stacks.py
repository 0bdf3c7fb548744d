"""Stacks and change sets: they end whole, or back where they were with the reason in the stack's events."""

from __future__ import annotations

from typing import Any

from moto.cloudformation.exceptions import CloudFormationError, ValidationError
from moto.cloudformation.models import CloudFormationBackend, Stack
from moto.cloudformation.responses import CloudFormationResponse
from moto.core.responses import ActionResult

from .cfn_resources import ResourceFailedError, add_event
from .cfn_template import expand, needed_capabilities
from .patching import replace

__all__ = ["install"]


class InsufficientCapabilitiesError(CloudFormationError):
    code = "InsufficientCapabilitiesException"


def _named(backend: CloudFormationBackend, name: str) -> Stack | None:
    return next((s for s in backend.stacks.values() if name in (s.name, s.stack_id)), None)


# ---------------------------------------------------------------------------------------------------------- create


def _create_stack(original: Any) -> Any:
    def create_stack(self: CloudFormationBackend, name: str, template: str, parameters: Any, **rest: Any) -> Any:
        expanded, parameters = expand(template, parameters)
        try:
            stack = original(self, name, expanded, parameters, **rest)
        except ResourceFailedError as failure:
            # CreateStack itself succeeds; the stack's events tell of the failure
            stack = next(s for s in self.stacks.values() if s.name == name)
            _take_back(stack, failure)
        stack.submitted = template
        return stack

    return create_stack


def _take_back(stack: Stack, failure: ResourceFailedError) -> None:
    """A create that failed leaves nothing, not even what DeletionPolicy would keep (RetainExceptOnCreate)."""
    add_event(stack, failure.logical_id, failure.kind, "CREATE_FAILED", reason=failure.reason)
    for resource in stack.resource_map._resource_json_map.values():
        resource.pop("DeletionPolicy", None)
    stack._add_stack_event("ROLLBACK_IN_PROGRESS", resource_status_reason=f"failed: [{failure.logical_id}]")
    try:
        stack.resource_map.delete()
        stack.status = "ROLLBACK_COMPLETE"
    except Exception as error:
        stack.status = "ROLLBACK_FAILED"
        stack._add_stack_event("ROLLBACK_FAILED", resource_status_reason=str(error))
        return
    stack._add_stack_event("ROLLBACK_COMPLETE")


# ----------------------------------------------------------------------------------------------------- change sets


def _create_change_set(original: Any) -> Any:
    def create_change_set(self: CloudFormationBackend, **arguments: Any) -> Any:
        stack = _named(self, arguments["stack_name"])
        if arguments["change_set_type"] == "UPDATE":
            _may_update(stack)
        elif stack and stack.status != "REVIEW_IN_PROGRESS":
            raise ValidationError(
                message=f"Stack [{stack.name}] already exists and cannot be created again with the changeSet "
                f"[{arguments['change_set_name']}]."
            )
        elif stack:
            # one that an earlier change set began; moto would make a second stack of the same name
            del self.stacks[stack.stack_id]
        expanded, parameters = expand(arguments["template"], arguments["parameters"])
        made = original(self, **{**arguments, "template": expanded, "parameters": parameters})
        change_set: Any = self.change_sets[made[0]]
        change_set.submitted = arguments["template"]
        return made

    return create_change_set


def _may_update(stack: Stack | None) -> None:
    if stack and stack.status == "ROLLBACK_COMPLETE":
        raise ValidationError(message=f"Stack:{stack.stack_id} is in ROLLBACK_COMPLETE state and can not be updated.")


def _execute_change_set(original: Any) -> Any:
    def execute_change_set(self: CloudFormationBackend, change_set_name: str, stack_name: str | None = None) -> None:
        change_set: Any = self.describe_change_set(change_set_name)
        stack: Any = self.stacks[change_set.stack_id]
        before = stack.template, stack.parameters
        try:
            original(self, change_set_name, stack_name)
        except ResourceFailedError as failure:
            change_set.execution_status = "EXECUTE_FAILED"
            if change_set.change_set_type == "CREATE":
                _take_back(stack, failure)
            else:
                _go_back(stack, failure, *before)
            return
        stack.submitted = change_set.submitted
        stack.parameters = change_set.parameters
        # moto forgets the outputs of a stack that a change set made
        stack.template_dict = change_set.template_dict
        stack.description = change_set.template_dict.get("Description")
        stack.output_map = stack._create_output_map()

    return execute_change_set


# ------------------------------------------------------------------------------------------------ update and delete


def _go_back(stack: Stack, failure: ResourceFailedError, template: str, parameters: dict[str, str]) -> None:
    """An update that failed: the resources are as they were before it."""
    add_event(stack, failure.logical_id, failure.kind, "UPDATE_FAILED", reason=failure.reason)
    stack._add_stack_event("UPDATE_ROLLBACK_IN_PROGRESS", resource_status_reason=f"failed: [{failure.logical_id}]")
    stack.template, stack.parameters = template, parameters
    stack._parse_template()
    try:
        stack.resource_map.update(stack.template_dict, parameters)
        stack.status = "UPDATE_ROLLBACK_COMPLETE"
    except Exception as error:
        stack.status = "UPDATE_ROLLBACK_FAILED"
        stack._add_stack_event("UPDATE_ROLLBACK_FAILED", resource_status_reason=str(error))
        return
    stack._add_stack_event("UPDATE_ROLLBACK_COMPLETE")


def _update_stack(original: Any) -> Any:
    def update_stack(
        self: CloudFormationBackend, name: str, template: str, role_arn: Any, parameters: list[Any], tags: Any
    ) -> Any:
        stack: Any = self.get_stack(name)
        before = str(stack.template), stack.parameters
        values = self._resolve_update_parameters(instance=stack, incoming_params=parameters)
        expanded, values = expand(template or before[0], values)
        given = [{"ParameterKey": k, "ParameterValue": v} for k, v in values.items()]
        try:
            original(self, name, expanded, role_arn, given, tags)
        except ResourceFailedError as failure:
            _go_back(stack, failure, *before)
        else:
            stack.submitted = template or stack.submitted
        return stack

    return update_stack


def _delete_stack(original: Any) -> Any:
    def delete_stack(self: CloudFormationBackend, name_or_stack_id: str) -> None:
        stack = _named(self, name_or_stack_id)
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


# ------------------------------------------------------------------------------------------------------- requests


def _acknowledged(original: Any) -> Any:
    """Templates that make identities are refused without the caller's word that this is meant."""

    def handle(self: CloudFormationResponse) -> Any:
        url = self._get_param("TemplateURL")
        body = self._get_stack_from_s3_url(url) if url else self._get_param("TemplateBody")
        given = set(self._get_param("Capabilities", []))
        if "CAPABILITY_NAMED_IAM" in given:
            given.add("CAPABILITY_IAM")
        missing = needed_capabilities(body or "", directly=original.__name__ != "create_change_set") - given
        if missing:
            raise InsufficientCapabilitiesError(f"Requires capabilities : [{', '.join(sorted(missing))}]")
        return original(self)

    return handle


def _check_for_changes(self: CloudFormationResponse, incoming: list[Any] | None, body: str, stack: Any) -> None:
    """UpdateStack without changes is refused. A change set without changes is made, and says so (status FAILED)."""
    if self._get_param("ChangeSetName"):
        return
    values = {**stack.parameters, **self._get_param_values(incoming or [], stack.parameters)}
    if body in (getattr(stack, "submitted", None), stack.template) and values == stack.parameters:
        raise ValidationError(message="No updates are to be performed.")


def _get_template(self: CloudFormationResponse) -> ActionResult:
    stack = self.cloudformation_backend.get_stack(self._get_param("StackName"))
    processed = self._get_param("TemplateStage", "Processed") == "Processed"
    body = stack.template if processed else getattr(stack, "submitted", stack.template)
    return ActionResult({"TemplateBody": body, "StagesAvailable": ["Original", "Processed"]})


def _parameter_list(stack: Stack) -> list[dict[str, str]]:
    """moto gives lists where text belongs, and hides by value instead of by name."""
    hidden = stack.resource_map.no_echo_parameter_keys if stack.parameters else ()
    return [
        {"ParameterKey": name, "ParameterValue": "****" if name in hidden else str(value)}
        for name, value in stack.parameters.items()
    ]


def install() -> None:
    """Put all of this into moto. Call once in a process."""
    for owner, name, wrap in (
        (CloudFormationBackend, "create_stack", _create_stack),
        (CloudFormationBackend, "create_change_set", _create_change_set),
        (CloudFormationBackend, "execute_change_set", _execute_change_set),
        (CloudFormationBackend, "update_stack", _update_stack),
        (CloudFormationBackend, "delete_stack", _delete_stack),
        (CloudFormationResponse, "create_stack", _acknowledged),
        (CloudFormationResponse, "create_change_set", _acknowledged),
        (CloudFormationResponse, "update_stack", _acknowledged),
    ):
        replace(owner, name, wrap(getattr(owner, name)))
    replace(CloudFormationResponse, "get_template", _get_template)
    replace(CloudFormationResponse, "_validate_different_update", _check_for_changes)
    replace(Stack, "parameter_list", property(_parameter_list))
