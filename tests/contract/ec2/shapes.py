"""Checks EC2's XML answers against botocore's model: only known members, of the right types, and none missing.

botocore's own parser silently drops what it does not know, so an answer that merely parses proves little.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from botocore.model import ListShape, OperationModel, Shape, StructureShape

__all__ = ["violations"]

_TYPES = {
    "integer": r"-?\d+",
    "long": r"-?\d+",
    "float": r"-?\d+(\.\d+)?",
    "double": r"-?\d+(\.\d+)?",
    "boolean": r"true|false",
    "timestamp": r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z",
}


def violations(operation: OperationModel, body: bytes) -> list[str]:
    """What is wrong with a successful answer, as ``path: complaint``."""
    root = ElementTree.fromstring(body)
    found: list[str] = []
    name = _local(root)
    if name != f"{operation.name}Response":
        found.append(f"/: root is {name}")
    shape = operation.output_shape
    children = [child for child in root if _local(child) != "requestId"]
    if not any(_local(child) == "requestId" for child in root):
        found.append("/: no requestId")
    if shape is None:
        found += [f"/{_local(child)}: unknown member" for child in children if _local(child) != "return"]
    else:
        _structure(shape, children, "", found)
    return found


def _local(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def _structure(shape: StructureShape, children: list[Any], path: str, found: list[str]) -> None:
    members = {str(m.serialization.get("name", key)): (key, m) for key, m in shape.members.items()}
    seen: set[str] = set()
    for child in children:
        name = _local(child)
        if name not in members:
            found.append(f"{path}/{name}: unknown member of {shape.name}")
            continue
        key, member = members[name]
        if key in seen:
            found.append(f"{path}/{name}: twice")
        seen.add(key)
        _value(member, child, f"{path}/{name}", found)
    found += [f"{path}: {key} is missing" for key in shape.required_members if key not in seen]


def _value(shape: Shape, element: Any, path: str, found: list[str]) -> None:
    if isinstance(shape, StructureShape):
        _structure(shape, list(element), path, found)
    elif isinstance(shape, ListShape):
        for child in element:
            if _local(child) != shape.member.serialization.get("name", "item"):
                found.append(f"{path}/{_local(child)}: not a list item")
            _value(shape.member, child, f"{path}[]", found)
    else:
        text = element.text or ""
        pattern = _TYPES.get(shape.type_name)
        if pattern and not re.fullmatch(pattern, text):
            found.append(f"{path}: {text!r} is no {shape.type_name}")
        allowed = getattr(shape, "enum", None)
        if allowed and text not in allowed:
            found.append(f"{path}: {text!r} is not one of {', '.join(allowed)}")
