"""``/_sandbox/…``: what the driver asks and tells the sandbox itself, beside AWS's API. On loopback listeners alone.

The requests carry ``Authorization: Bearer <admin key>``; bodies and answers are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from . import sqs
from .callers import Request, WsgiApp
from .identity import ADMIN_KEY
from .server import LISTENER, LOOPBACK

if TYPE_CHECKING:
    from .platform import Platform

__all__ = ["Control", "Handler"]

PREFIX: Final = "/_sandbox/"

Handler = Callable[[Mapping[str, Any]], Any]
"""Takes the request's JSON object (empty for GET), returns what is answered. ``LookupError``, ``ValueError``: 400."""


class Control:
    """Built-in: ``calls``, ``queues``, ``state``, ``fire`` {"rule"}, ``events`` {"source", "detail-type", "detail"}."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._handlers: dict[str, Handler] = {
            "calls": lambda _: platform.calls.counts(),
            "queues": lambda _: sqs.depths(),
            "state": lambda _: {"workers": platform.workers.state(), "pollers": platform.pollers.state()},
            "fire": self._fire,
            "events": self._emit,
        }

    def add(self, name: str, handler: Handler) -> None:
        """Serve ``/_sandbox/<name>``."""
        self._handlers[name] = handler

    def beside(self, app: WsgiApp) -> WsgiApp:
        """The application with these paths in front."""

        def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            path = str(environ["PATH_INFO"])
            if not path.startswith(PREFIX) or environ.get(LISTENER) != LOOPBACK:
                return app(environ, start_response)
            status, value = self._answer(path.removeprefix(PREFIX), Request(environ))
            start_response(f"{status.value} {status.phrase}", [("Content-Type", "application/json")])
            return [json.dumps(value, default=str).encode()]

        return call

    def _answer(self, name: str, request: Request) -> tuple[HTTPStatus, Any]:
        if request.headers.get("authorization") != f"Bearer {ADMIN_KEY}":
            return HTTPStatus.FORBIDDEN, {"error": "send Authorization: Bearer and the administrator's key"}
        handler = self._handlers.get(name)
        if handler is None:
            return HTTPStatus.NOT_FOUND, {"error": f"there are {sorted(self._handlers)}"}
        try:
            return HTTPStatus.OK, handler(json.loads(request.body or b"{}"))
        except (LookupError, ValueError) as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}

    def _fire(self, body: Mapping[str, Any]) -> Any:
        self._platform.schedules.fire(str(body["rule"]))
        return {}

    def _emit(self, body: Mapping[str, Any]) -> Any:
        """Put an event in the name of an AWS service, which PutEvents refuses."""
        identity = self._platform.events.emit(
            str(body["source"]), str(body["detail-type"]), body.get("detail") or {}, body.get("resources") or ()
        )
        return {"id": identity}
