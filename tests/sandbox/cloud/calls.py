"""What was asked, read out of an HTTP request of any of AWS's protocols, and the log of who asked it."""

from __future__ import annotations

import functools
import json
import re
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import botocore.session
from botocore.model import ServiceModel

from .identity import Principal

__all__ = ["Call", "CallLog", "read_call", "service_model"]

_SERVICES: Final = {"monitoring": "cloudwatch", "states": "stepfunctions", "elasticloadbalancing": "elbv2"}
"""Signing names whose botocore service is called otherwise."""

_RPC_PATH: Final = re.compile(r"/service/[^/]+/operation/(\w+)$")


@dataclass(frozen=True, slots=True)
class Call:
    """One API call. ``service`` is the signing name (IAM's prefix of the action), ``action`` the operation's name.

    ``params`` are the members of the request: JSON as sent, or the flat fields of the query protocol
    (``TagSpecification.1.Tag.1.Key``), or the parts of the path of a REST call.
    """

    service: str
    action: str
    params: Mapping[str, Any] = field(default_factory=dict)


@functools.cache
def service_model(service: str) -> ServiceModel | None:
    """botocore's model of a service by its signing name, or ``None`` for a service that botocore does not have."""
    try:
        return botocore.session.get_session().get_service_model(_SERVICES.get(service, service))
    except Exception:  # botocore raises several kinds, depending on what part of the model is missing
        return None


def read_call(service: str, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Call:
    """Read the operation and its parameters. ``path`` is decoded, ``headers`` has lower-case names."""
    target = headers.get("x-amz-target")
    if target:
        return Call(service, target.rpartition(".")[2], _json(body))
    if rpc := _RPC_PATH.search(path):
        return Call(service, rpc[1])
    form = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        form |= dict(urllib.parse.parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
    if "Action" in form:
        if service == "sqs" and path.count("/") == 2:
            form.setdefault("QueueUrl", path)  # the query protocol may post to the queue itself
        return Call(service, form.pop("Action"), form)
    for operation, pattern, wanted in _rest_operations(service):
        match = pattern.fullmatch(path) if operation[1] == method else None
        if match and all(k in form if v is None else form.get(k) == v for k, v in wanted):
            found = {k: urllib.parse.unquote(v) for k, v in match.groupdict().items()}
            name = operation[0]
            if name == "CopyObject" and "x-amz-copy-source" not in headers:
                name = "PutObject"  # the same method and path
            return Call(service, name, {**_json(body), **found})
    return Call(service, f"{method} {path}")


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


_Rest = tuple[tuple[str, str], re.Pattern[str], tuple[tuple[str, str | None], ...]]


@functools.cache
def _rest_operations(service: str) -> tuple[_Rest, ...]:
    """(name, method), path and fixed query of each operation of a REST service, the most specific first."""
    model = service_model(service)
    found: list[tuple[int, _Rest]] = []
    for name in model.operation_names if model else ():
        http = model.operation_model(name).http if model else {}
        uri, _, query = http.get("requestUri", "").partition("?")
        if not uri:
            continue
        wanted = tuple((k, v or None) for k, _, v in (p.partition("=") for p in query.split("&")) if k)
        found.append((-len(uri) - 100 * len(wanted), ((name, http["method"]), _path_pattern(uri), wanted)))
    return tuple(entry for _, entry in sorted(found, key=lambda f: (f[0], f[1][0])))


def _path_pattern(uri: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+\+?\})", uri.rstrip("/"))
    text = ""
    for part in parts:
        if part.startswith("{"):
            name = part.strip("{}+")
            text += f"(?P<{name}>.+)" if part.endswith("+}") else f"(?P<{name}>[^/]+)"
        else:
            text += re.escape(part)
    return re.compile(text + "/?")


class CallLog:
    """Every call with its caller and outcome: counted in memory, and one JSON object a line in ``path``, begun anew."""

    def __init__(self, path: Path | None = None) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.Lock()
        self._file = path.open("w", buffering=1) if path else None

    def add(self, principal: Principal, call: Call, outcome: str) -> None:
        """``outcome`` is ``ok`` or the error code of the answer."""
        action = f"{call.service}:{call.action}"
        line = {"time": round(time.time(), 3), "kind": principal.kind, "principal": principal.arn}
        with self._lock:
            self._counts[principal.kind, action, outcome] += 1
            if self._file:
                self._file.write(json.dumps({**line, "action": action, "outcome": outcome}) + "\n")

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Kind of principal → ``service:Action`` → outcome → how often."""
        with self._lock:
            items = sorted(self._counts.items())
        result: dict[str, dict[str, dict[str, int]]] = {}
        for (kind, action, outcome), count in items:
            result.setdefault(kind, {}).setdefault(action, {})[outcome] = count
        return result

    def close(self) -> None:
        if self._file:
            self._file.close()
