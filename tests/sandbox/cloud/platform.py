"""The simulated platform put together: one API server and everything behind it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

from . import cloudformation, s3_events, sqs
from .asyncinvoke import AsyncInvoker
from .authorizer import Authorizer
from .awserrors import Answer, error_answer
from .callers import Callers, Request, WsgiApp, locked
from .calls import Call, CallLog
from .control import Control
from .identity import ACCOUNT, IdentityStore, Principal
from .pollers import Pollers
from .schedules import Schedules
from .server import Server, moto_app
from .targets import EventBridge, send_to_queue
from .workers import NoSuchFunctionError, ThrottledError, Workers

__all__ = ["Platform"]

Middleware = Callable[[WsgiApp], WsgiApp]


class Platform:
    """moto with identity, IAM, delivery and Lambda. One at a time in a process: it replaces parts of moto.

    ``root`` holds its files (calls.jsonl, log/, lambda/). ``middlewares`` wrap moto, the first one outermost; they run
    after authorization and without the API lock, which is taken behind them. ``acceleration`` makes schedules and
    retries of asynchronous invocations faster.
    """

    def __init__(self, root: Path, *, middlewares: Sequence[Middleware] = (), acceleration: float = 1.0) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.identity = IdentityStore()
        self.calls = CallLog(root / "calls.jsonl")
        self.authorizer = Authorizer()
        self.workers = Workers(root, self.identity, self.authorizer.role_may)
        send = send_to_queue(self.authorizer.may_send)
        self.invoker = AsyncInvoker(self.workers, send, acceleration)
        self.events = EventBridge(send, self.authorizer.may_invoke, self.invoker)
        self.pollers = Pollers(self.workers, self.authorizer.role_may)
        self.schedules = Schedules(self.events, self.authorizer.role_may, acceleration)
        self.control = Control(self)
        app = locked(moto_app())
        for wrap in reversed(middlewares):
            app = wrap(app)
        intercepts = {
            ("lambda", "Invoke"): self._invoke,
            ("sqs", "ReceiveMessage"): sqs.wait_for_long_poll,
            ("sts", "GetCallerIdentity"): _caller_identity,
        }
        callers = Callers(app, self.identity, self.calls, self.authorizer.authorize, intercepts)
        self.server = Server(self.control.beside(callers))
        self.endpoint = ""

    def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Install the additions, listen for the driver and the functions, and return the endpoint's URL."""
        sqs.install()
        cloudformation.install()
        self.events.install()
        s3_events.install(self.events)
        self.endpoint = f"http://{host}:{self.server.listen(host, port)}"
        self.workers.endpoint = self.endpoint
        self.pollers.install()
        self.schedules.start()
        return self.endpoint

    def close(self) -> None:
        """Stop everything; the account's state stays in moto until it is reset."""
        self.schedules.close()
        self.pollers.close()
        self.invoker.close()
        self.workers.close()
        self.server.close()
        self.calls.close()

    def _invoke(self, _principal: Principal, call: Call, request: Request) -> Answer:
        """Lambda Invoke, without the API lock: the function calls back while it runs."""
        function = str(call.params.get("FunctionName", ""))
        kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
        try:
            self.workers.has_room(function)
            if kind == "DryRun":
                return Answer(204, (), b"")
            if kind == "Event":
                self.invoker.submit(function, request.body or b"{}")
                return Answer(202, (), b"")
            outcome = self.workers.invoke(function, request.body or b"{}", wait=False)
        except NoSuchFunctionError as error:
            return _with_status(404, error_answer("lambda", "ResourceNotFoundException", str(error)))
        except ThrottledError as error:
            return _with_status(429, error_answer("lambda", "TooManyRequestsException", str(error)))
        headers = [("Content-Type", "application/json"), ("X-Amz-Executed-Version", "$LATEST")]
        if not outcome.ok:
            headers.append(("X-Amz-Function-Error", "Unhandled"))
        if request.headers.get("x-amz-log-type") == "Tail":
            headers.append(("X-Amz-Log-Result", base64.b64encode(outcome.log.encode()[-4096:]).decode()))
        return Answer(200, tuple(headers), outcome.payload.encode())


def _with_status(status: int, answer: Answer) -> Answer:
    return Answer(status, answer.headers, answer.body)


def _caller_identity(principal: Principal, _call: Call, _request: Request) -> Answer:
    body = (
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
        f"<Arn>{principal.arn}</Arn><UserId>{principal.user_id}</UserId><Account>{ACCOUNT}</Account>"
        "</GetCallerIdentityResult></GetCallerIdentityResponse>"
    )
    return Answer(200, (("Content-Type", "text/xml"),), body.encode())
