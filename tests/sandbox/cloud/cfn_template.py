"""Templates as CloudFormation takes them: parameters checked, the SAM transform applied, unknown types refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from moto.cloudformation import parsing
from moto.cloudformation.exceptions import ValidationError
from samtranslator.model.exceptions import InvalidDocumentException
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from .identity import REGION

__all__ = ["expand", "needed_capabilities", "transformed"]

_SAM: Final = "AWS::Serverless-2016-10-31"
_NAMED_IAM: Final = {
    "AWS::IAM::Group": "GroupName",
    "AWS::IAM::InstanceProfile": "InstanceProfileName",
    "AWS::IAM::ManagedPolicy": "ManagedPolicyName",
    "AWS::IAM::Role": "RoleName",
    "AWS::IAM::User": "UserName",
}
_IAM: Final = frozenset({*_NAMED_IAM, "AWS::IAM::AccessKey", "AWS::IAM::Policy", "AWS::IAM::UserToGroupAddition"})


class _BundledPolicies:
    """samtranslator falls back to the list of managed policies that it carries."""

    def load(self) -> dict[str, str]:
        return {}


def expand(template: str, parameters: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The template without SAM resources, and the parameters with the template's defaults.

    Raises moto's ``ValidationError`` with every problem the transform finds, as CloudFormation does.
    """
    parsed, values = transformed(template, parameters)
    _check_types(parsed)
    for resource in parsed["Resources"].values():
        # kept on delete in both cases; they differ only in a create that fails, which is handled apart
        if resource.get("DeletionPolicy") == "RetainExceptOnCreate":
            resource["DeletionPolicy"] = "Retain"
    return json.dumps(parsed), values


def transformed(template: str, parameters: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The same, parsed, with types that the sandbox lacks."""
    parsed: dict[str, Any] = yaml_parse(template)
    defaults = {n: str(p["Default"]) for n, p in (parsed.get("Parameters") or {}).items() if "Default" in p}
    values = {**defaults, **{k: _text(v) for k, v in parameters.items()}}
    _check_parameters(parsed.get("Parameters") or {}, values)
    declared = parsed.get("Transform") or []
    if _SAM in (declared if isinstance(declared, list) else [declared]):
        os.environ.setdefault("AWS_DEFAULT_REGION", REGION)  # samtranslator asks boto3 for the partition
        try:
            parsed = transform(parsed, dict(values), _BundledPolicies())
        except InvalidDocumentException as error:
            causes = "; ".join(c.message for c in error.causes) or error.message
            raise ValidationError(message=f"Transform {_SAM} failed with: {causes}") from None
    return parsed, values


def _text(value: Any) -> str:
    # a list's previous value comes back from moto as a list
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


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


def needed_capabilities(template: str, *, directly: bool) -> set[str]:
    """What the caller must acknowledge (CloudFormation API reference, CreateStack, Capabilities).

    ``directly``: without a change set that shows what the transform makes.
    """
    parsed = (yaml_parse(template) if template else None) or {}
    needed = {"CAPABILITY_AUTO_EXPAND"} if directly and parsed.get("Transform") else set()
    for resource in (parsed.get("Resources") or {}).values():
        kind, properties = resource["Type"], resource.get("Properties") or {}
        if _NAMED_IAM.get(kind) in properties:
            needed.add("CAPABILITY_NAMED_IAM")
        elif kind in _IAM or (kind == "AWS::Serverless::Function" and "Role" not in properties):
            # a function without a role gets one by the transform
            needed.add("CAPABILITY_IAM")
    return needed
