"""Writes ``layers/berth/berth/models``: botocore's service models, cut down to what the layer calls.

EC2's whole model takes longer to load than everything else of a cold start. botocore looks for models along a search
path (botocore.loaders), so a layer may carry smaller ones. ``make models`` runs this after botocore's version or the
layer's calls have changed; tests/unit/control/test_clients.py says when that is due.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from botocore import xform_name
from botocore.loaders import Loader

__all__ = ["SERVICES", "calls_in", "models"]

ROOT: Final = Path(__file__).resolve().parent.parent
LAYER: Final = ROOT / "layers" / "berth" / "berth"
TARGET: Final = LAYER / "models"
SERVICES: Final = ("autoscaling", "dynamodb", "ec2", "events", "sqs", "ssm")
_UNUSED: Final = frozenset({"documentation", "documentationUrl", "enum", "examples", "pattern"})
"""What botocore's clients do not read (enumerations are not validated), besides what nobody calls."""


def calls_in(folder: Path) -> set[str]:
    """Every name in the folder's modules that may be a client's method: attributes and strings.

    Not the CLI's, nor the flat-network check's: no node waits for those, and they load the whole model.
    """
    found: set[str] = set()
    for path in sorted(folder.rglob("*.py")):
        if not {"cli", "flat", "flat_survey.py"} & set(path.relative_to(folder).parts):
            found.update(_names(ast.walk(ast.parse(path.read_text()))))
    return found


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def models(names: set[str]) -> dict[str, str]:
    """Files by their path below the target: a model of each service with the operations among ``names``."""
    loader = Loader()
    files: dict[str, str] = {}
    for service in SERVICES:
        model = loader.load_service_model(service, "service-2")
        used = {o for o in model["operations"] if xform_name(o) in names}
        if used:
            # botocore asks this one for endpoints, where the user has switched that on
            discovery = {o for o, about in model["operations"].items() if about.get("endpointoperation")}
            version = loader.determine_latest_version(service, "service-2")
            files[f"{service}/{version}/service-2.json"] = _text(_trim(model, sorted(used | discovery)))
    files["endpoints.json"] = _text(_endpoints(loader.load_data("endpoints")))
    return files


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


def _trim(model: Mapping[str, Any], operations: Iterable[str]) -> dict[str, Any]:
    """The named operations and every shape that they reach."""
    shapes: dict[str, Any] = {}

    def take(reference: Mapping[str, Any]) -> None:
        name = reference["shape"]
        if name not in shapes:
            shape = shapes[name] = {k: v for k, v in model["shapes"][name].items() if k not in _UNUSED}
            members = shape.get("members", {})
            shape |= {"members": {k: _plain(v) for k, v in members.items()}} if "members" in shape else {}
            shape |= {k: _plain(shape[k]) for k in ("member", "key", "value") if k in shape}
            for inner in (*members.values(), *(shape[k] for k in ("member", "key", "value") if k in shape)):
                take(inner)

    kept = {}
    for name in operations:
        operation = kept[name] = {k: v for k, v in model["operations"][name].items() if k not in _UNUSED}
        for reference in (operation.get("input"), operation.get("output"), *operation.get("errors", ())):
            if reference:
                take(reference)
        for kind in ("input", "output"):
            operation |= {kind: _plain(operation[kind])} if kind in operation else {}
        operation |= {"errors": [_plain(e) for e in operation["errors"]]} if "errors" in operation else {}
    rest = {k: v for k, v in model.items() if k not in (*_UNUSED, "operations", "shapes")}
    return {**rest, "operations": kept, "shapes": shapes}


def _plain(reference: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in reference.items() if k not in _UNUSED}


def _endpoints(data: Mapping[str, Any]) -> dict[str, Any]:
    """All partitions and regions, and of the services only ours."""
    return {
        **data,
        "partitions": [
            {**p, "services": {k: v for k, v in p["services"].items() if k in SERVICES}} for p in data["partitions"]
        ],
    }


def main() -> int:
    """Write the files and remove those that are no longer needed."""
    files = models(calls_in(LAYER))
    for path in sorted(TARGET.rglob("*.json")):
        if path.relative_to(TARGET).as_posix() not in files:
            path.unlink()
    for name, text in files.items():
        (TARGET / name).parent.mkdir(parents=True, exist_ok=True)
        (TARGET / name).write_text(text)
        print(f"{len(text):>8}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
