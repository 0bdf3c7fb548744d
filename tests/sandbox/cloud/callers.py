"""The WSGI layer that knows the caller: identity, authorization, the log, and what moto must not answer itself."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from .awserrors import Answer, error_answer, error_code_of
from .calls import Call, CallLog, read_call
from .identity import CALLER, IdentityStore, Principal
from .lock import API_LOCK
from .signatures import Refused, read_scope, verify

__all__ = ["Callers", "Intercept", "Request", "WsgiApp", "call_app", "locked"]

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_NOBODY: Final = Principal("unknown", "anonymous", "anonymous")


class Request:
    """A received request with its body read: the method, path, query, lower-case headers and the body."""

    __slots__ = ("body", "environ", "headers", "method", "path", "query", "target")

    def __init__(self, environ: dict[str, Any]) -> None:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        self.body: bytes = environ["wsgi.input"].read(length) if length else b""
        environ["wsgi.input"] = io.BytesIO(self.body)
        self.environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
        self.query: str = environ.get("QUERY_STRING", "")
        self.target: str = environ.get("RAW_URI", self.path + (f"?{self.query}" if self.query else ""))
        self.headers: dict[str, str] = {
            name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")
        }
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if environ.get(name):
                self.headers[name.replace("_", "-").lower()] = environ[name]


Intercept = Callable[[Principal, Call, Request], Answer | None]
"""Answers a call in moto's place, or does something first and returns ``None``. Runs without the API lock."""


def call_app(app: WsgiApp, environ: dict[str, Any]) -> Answer:
    """Run a WSGI application to its end."""
    seen: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        seen[:] = [int(status.split()[0]), tuple(headers)]
        return lambda _data: None

    chunks = app(environ, start_response)
    try:
        body = b"".join(chunks)
    finally:
        close = getattr(chunks, "close", None)
        if close:
            close()
    return Answer(seen[0], seen[1], body)


def locked(app: WsgiApp) -> WsgiApp:
    """The application with the API lock held around each request, its whole body included."""

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with API_LOCK:
            answer = call_app(app, environ)
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", list(answer.headers))
        return [answer.body]

    return call


class Callers:
    """Says who calls and whether they may, and passes on what is allowed.

    ``authorize`` returns the reason of a denial, or ``None``. ``intercepts`` maps (service, action).
    """

    def __init__(
        self,
        app: WsgiApp,
        identity: IdentityStore,
        log: CallLog,
        authorize: Callable[[Principal, Call], str | None],
        intercepts: Mapping[tuple[str, str], Intercept],
    ) -> None:
        self._app = app
        self._identity = identity
        self._log = log
        self._authorize = authorize
        self._intercepts = intercepts

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = self._answer(Request(environ))
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", list(answer.headers))
        return [answer.body]

    def _answer(self, request: Request) -> Answer:
        scope = read_scope(request.headers.get("authorization", ""))
        service = scope.service if scope else "sts"
        call = read_call(service, request.method, request.path, request.query, request.headers, request.body)
        sent_json = "x-amz-target" in request.headers
        principal = _NOBODY
        try:
            if scope is None:
                raise Refused("MissingAuthenticationToken", "Request is missing Authentication Token")
            principal = verify(self._identity, scope, request.method, request.target, request.headers, request.body)
            denial = self._authorize(principal, call)
            if denial:
                raise Refused("AccessDenied", denial)
        except Refused as refused:
            answer = error_answer(service, refused.code, str(refused), sent_json=sent_json)
        else:
            answer = self._serve(principal, call, request)
        outcome = "ok" if answer.status < 400 else error_code_of(answer.body, answer.headers)
        self._log.add(principal, call, outcome)
        return answer

    def _serve(self, principal: Principal, call: Call, request: Request) -> Answer:
        token = CALLER.set(principal)
        try:
            intercept = self._intercepts.get((call.service, call.action))
            answer = intercept(principal, call, request) if intercept else None
            return answer or call_app(self._app, request.environ)
        finally:
            CALLER.reset(token)
