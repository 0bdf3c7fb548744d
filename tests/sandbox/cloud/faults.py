"""Scripted faults: a call that fails before it has an effect, or after it (its answer is lost), or is slow.

The answer is lost in two ways: another one is sent, or the connection is closed without any.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .awserrors import error_answer
from .callers import WsgiApp, call_app
from .calls import Call
from .middleware import StartResponse, call_of, respond

__all__ = ["Fault", "Faults"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One script line.

    ``action`` is an API action, ``service`` the signing name. ``when`` is ``before`` (no effect), ``after`` (the call
    did its work and the answer is lost) or ``slow`` (only ``delay``). ``skip`` calls go through first, then ``times``
    are hit (None: all). ``matches`` narrows by the request's parameters, flat as in the query protocol.
    """

    action: str
    when: Literal["before", "after", "cut", "slow"] = "before"
    code: str = "InternalError"
    message: str = "An internal error has occurred"
    status: int = 500
    delay: float = 0.0
    skip: int = 0
    times: int | None = 1
    service: str = "ec2"
    matches: Callable[[Mapping[str, Any]], bool] | None = None


@dataclass(slots=True)
class _Armed:
    fault: Fault
    seen: int = 0
    hits: int = 0


class Faults:
    """Applies the faults that were added, in order; the first that fits a call is the one that happens."""

    def __init__(self, app: WsgiApp, faults: Iterable[Fault] = (), sleep: Callable[[float], None] = time.sleep) -> None:
        self._app, self._sleep = app, sleep
        self._armed = [_Armed(fault) for fault in faults]
        self._lock = threading.Lock()

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._armed.extend(_Armed(fault) for fault in faults)

    def clear(self) -> None:
        with self._lock:
            self._armed.clear()

    def hits(self) -> int:
        """How many calls were hit since the last ``clear``."""
        with self._lock:
            return sum(armed.hits for armed in self._armed)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        call = call_of(environ)
        fault = self._pick(call) if call else None
        if fault is None or call is None:
            return self._app(environ, start_response)
        if fault.delay:
            self._sleep(fault.delay)
        if fault.when == "slow":
            return self._app(environ, start_response)
        if fault.when in ("after", "cut"):
            call_app(self._app, environ)
        if fault.when == "cut":
            _hang_up(environ)
        failure = error_answer(call.service, fault.code, fault.message, sent_json="HTTP_X_AMZ_TARGET" in environ)
        return respond(replace(failure, status=fault.status), start_response)

    def _pick(self, call: Call) -> Fault | None:
        with self._lock:
            for armed in self._armed:
                fault = armed.fault
                if (fault.service, fault.action) != (call.service, call.action):
                    continue
                if fault.matches is not None and not fault.matches(call.params):
                    continue
                armed.seen += 1
                if armed.seen <= fault.skip or (fault.times is not None and armed.hits >= fault.times):
                    continue
                armed.hits += 1
                return fault
        return None


def _hang_up(environ: dict[str, Any]) -> None:
    """Close the caller's connection; what is answered then goes nowhere."""
    connection = environ.get("werkzeug.socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
