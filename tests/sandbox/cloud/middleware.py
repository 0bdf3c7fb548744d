"""What the layers in front of moto share: reading which call a request is, and answering in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from .awserrors import Answer
from .callers import Request
from .calls import Call, read_call
from .signatures import read_scope

__all__ = ["StartResponse", "call_of", "respond"]

StartResponse = Callable[..., Any]


def call_of(environ: dict[str, Any]) -> Call | None:
    """The call of a signed request, or ``None``. The body stays readable for whoever comes next."""
    request = Request(environ)
    scope = read_scope(request.headers.get("authorization", ""))
    if scope is None:
        return None
    return read_call(scope.service, request.method, request.path, request.query, request.headers, request.body)


def respond(answer: Answer, start_response: StartResponse) -> Iterable[bytes]:
    """Send a finished answer."""
    headers = [(n, v) for n, v in answer.headers if n.lower() != "content-length"]
    headers.append(("Content-Length", str(len(answer.body))))
    start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", headers)
    return [answer.body]
