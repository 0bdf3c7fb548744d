"""What an EventBridge target receives: the event, or what Input, InputPath and InputTransformer make of it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["target_input"]

_PATH_PART: Final = re.compile(r"\.([\w-]+)|\[(\d+|\*)\]")
_PLACEHOLDER: Final = re.compile(r"<([\w.-]+)>")
_MISSING: Final = object()


def target_input(event: Mapping[str, Any], target: Mapping[str, Any], rule_arn: str, rule_name: str) -> str:
    """The text that the target gets (EventBridge user guide, "Amazon EventBridge input transformation")."""
    if target.get("Input") is not None:
        return str(target["Input"])
    if target.get("InputPath"):
        found = _find(event, target["InputPath"])
        return json.dumps(None if found is _MISSING else found)
    transformer = target.get("InputTransformer")
    if transformer:
        return _transform(event, transformer, rule_arn, rule_name)
    return json.dumps(event)


def _transform(event: Mapping[str, Any], transformer: Mapping[str, Any], rule_arn: str, rule_name: str) -> str:
    values: dict[str, Any] = {
        "aws.events.rule-arn": rule_arn,
        "aws.events.rule-name": rule_name,
        "aws.events.event.ingestion-time": event.get("time"),
        "aws.events.event.json": event,
        "aws.events.event": {k: v for k, v in event.items() if k != "detail"},
    }
    for name, path in (transformer.get("InputPathsMap") or {}).items():
        values[name] = _find(event, path)
    return _fill(str(transformer["InputTemplate"]), values)


def _fill(template: str, values: Mapping[str, Any]) -> str:
    """Put the values in: bare text inside a JSON string, JSON outside of one."""
    parts, position = [], 0
    for match in _PLACEHOLDER.finditer(template):
        if match[1] not in values:
            continue
        before = template[position : match.start()]
        parts.append(before)
        inside = _in_string(template[: match.start()])
        parts.append(_text(values[match[1]]) if inside else _json(values[match[1]]))
        position = match.end()
    return "".join([*parts, template[position:]])


def _in_string(text: str) -> bool:
    return len(re.findall(r'(?<!\\)"', text)) % 2 == 1


def _json(value: Any) -> str:
    # a path that matches nothing gives an empty value (same page, "Input path")
    return '""' if value is _MISSING else json.dumps(value)


def _text(value: Any) -> str:
    if value is _MISSING:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return json.dumps(text)[1:-1]


def _find(value: Any, path: str) -> Any:
    """Follow ``$.detail.instance-id`` or ``$.resources[0]``."""
    for name, index in _PATH_PART.findall(path.removeprefix("$")):
        if name:
            value = value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING
        elif index == "*":
            return value if isinstance(value, list) else _MISSING
        else:
            position = int(index)
            value = value[position] if isinstance(value, list) and position < len(value) else _MISSING
        if value is _MISSING:
            return _MISSING
    return value
