"""Lambda: finds the deployed function and runs it in an environment, within its concurrency."""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from moto.awslambda.models import LambdaFunction, lambda_backends

from .environments import CodeStore, Environment, Outcome, Spec
from .functionlogs import FunctionLogs
from .identity import ACCOUNT, REGION, IdentityStore, arn
from .lock import API_LOCK

__all__ = ["NoSuchFunctionError", "RoleMay", "ThrottledError", "Workers", "find_function"]

RoleMay = Callable[[str, str, str], bool]
"""(role ARN, action, resource) → whether the role's policies allow it."""

DEFAULT_CONCURRENCY: Final = 8
"""Environments of a function without reserved concurrency. (An account of AWS shares 1000; a laptop does not.)"""


class NoSuchFunctionError(LookupError):
    """There is no such function."""


class ThrottledError(Exception):
    """All of the function's concurrency is in use."""


def find_function(name_or_arn: str) -> LambdaFunction | None:
    """The deployed function by name or ARN. The API lock must be held."""
    parts = name_or_arn.split(":")
    name = parts[6] if len(parts) > 6 else parts[-1] if len(parts) < 3 else parts[2]
    return next((f for f in lambda_backends[ACCOUNT][REGION].list_functions() if f.function_name == name), None)


class Workers:
    """All execution environments. ``endpoint`` is where functions reach the API: set it before the first invocation."""

    def __init__(self, root: Path, identity: IdentityStore, role_may: RoleMay) -> None:
        self.endpoint = ""
        self._identity = identity
        self._role_may = role_may
        self._code = CodeStore(root / "lambda")
        self._logs = FunctionLogs(root / "log")
        self._changed = threading.Condition()
        self._idle: list[Environment] = []
        self._busy: Counter[str] = Counter()
        self._running: set[Environment] = set()
        self._closed = False

    def invoke(self, function: str, event: bytes, *, wait: bool = True) -> Outcome:
        """Run ``function`` (name or ARN) on ``event`` (JSON) and return what it gave.

        With ``wait`` it queues for concurrency, else :class:`ThrottledError`. Raises :class:`NoSuchFunctionError`.
        Must not be called with the API lock held: the function calls back.
        """
        name, limit = self._limit(function)
        self._enter(name, limit, wait=wait)
        try:
            environment = self._take(function)
            try:
                outcome = environment.invoke(event)
            finally:
                self._give_back(environment)
        finally:
            with self._changed:
                self._busy[name] -= 1
                self._changed.notify_all()
        return outcome

    def has_room(self, function: str) -> bool:
        """Whether an invocation would start at once."""
        name, limit = self._limit(function)
        return self._busy[name] < limit

    def state(self) -> dict[str, Any]:
        """Busy and idle environments by function."""
        with self._changed:
            idle = Counter(e.spec.name for e in self._idle)
            return {"busy": {k: v for k, v in self._busy.items() if v}, "idle": dict(idle)}

    def close(self) -> None:
        """Kill every environment."""
        with self._changed:
            self._closed = True
            environments = [*self._idle, *self._running]
            self._idle.clear()
            self._changed.notify_all()
        for environment in environments:
            environment.close()
        self._logs.close()

    def _limit(self, function: str) -> tuple[str, int]:
        with API_LOCK:
            found = find_function(function)
            if found is None:
                raise NoSuchFunctionError(f"Function not found: {function}")
            reserved = found.reserved_concurrency
            return found.function_name, DEFAULT_CONCURRENCY if reserved is None else int(reserved)

    def _enter(self, name: str, limit: int, *, wait: bool) -> None:
        with self._changed:
            if limit == 0 or (not wait and self._busy[name] >= limit):
                raise ThrottledError(f"Rate Exceeded: {name} runs {limit} at most")
            self._changed.wait_for(lambda: self._closed or self._busy[name] < limit)
            if self._closed:
                raise ThrottledError("the sandbox is closing")
            self._busy[name] += 1

    def _take(self, function: str) -> Environment:
        with API_LOCK:
            found = find_function(function)
            if found is None:
                raise NoSuchFunctionError(f"Function not found: {function}")
            spec = _spec(found)
        stale: list[Environment] = []
        with self._changed:
            same = [e for e in self._idle if e.spec == spec]
            if not same:
                stale = [e for e in self._idle if e.spec.name == spec.name]
            self._idle = [e for e in self._idle if e not in stale]
            environment = same[-1] if same else None
            if environment:
                self._idle.remove(environment)
                self._running.add(environment)
        for old in stale:
            old.close()  # a new revision was deployed
        if environment is None:
            environment = self._start(found, spec)
            with self._changed:
                self._running.add(environment)
        return environment

    def _give_back(self, environment: Environment) -> None:
        with self._changed:
            self._running.discard(environment)
            if environment.alive and not self._closed:
                self._idle.append(environment)

    def _start(self, function: LambdaFunction, spec: Spec) -> Environment:
        with API_LOCK:
            layers: list[Any] = [lambda_backends[ACCOUNT][REGION].layers_versions_by_arn(n) for n in spec.layers]
            code = [(spec.code, function.code_bytes), *((v.code_sha_256, v.code_bytes) for v in reversed(layers))]
        folders = [self._code.unpack(digest, data) for digest, data in code]
        paths = (folders[0], *(folder / "python" for folder in folders[1:]))
        stream = f"[$LATEST]{uuid.uuid4().hex}"
        group = _log_group(function)
        # Lambda writes with the function's role; without the permission there are no logs, and the function runs
        stored = self._role_may(spec.role, "logs:PutLogEvents", arn("logs", f"log-group:{group}:log-stream:{stream}"))
        if self._role_may(spec.role, "logs:CreateLogGroup", arn("logs", f"log-group:{group}")):
            self._logs.make_group(group)

        def write(line: str) -> None:
            self._logs.write(spec.name, group if stored else None, stream, line)

        return Environment(spec, paths, self._code.runtime(), self._environ(spec, group, stream), write)

    def _environ(self, spec: Spec, group: str, stream: str) -> dict[str, str]:
        session = self._identity.credentials_for_function(spec.name, spec.role)
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": "/tmp",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{spec.runtime}",
            "AWS_LAMBDA_FUNCTION_NAME": spec.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(spec.memory),
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": group,
            "AWS_LAMBDA_LOG_STREAM_NAME": stream,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": session.access_key_id,
            "AWS_SECRET_ACCESS_KEY": session.secret_access_key,
            "AWS_SESSION_TOKEN": session.session_token,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def _log_group(function: LambdaFunction) -> str:
    configured = getattr(function, "logging_config", None) or {}
    return str(configured.get("LogGroup") or f"/aws/lambda/{function.function_name}")


def _spec(function: LambdaFunction) -> Spec:
    return Spec(
        name=function.function_name,
        arn=function.function_arn,
        handler=function.handler or "",
        runtime=function.run_time or "",
        memory=int(function.memory_size),
        timeout=float(function.timeout),
        role=function.role,
        code=function.code_sha_256,
        layers=tuple(layer["Arn"] for layer in function.layers),
        variables=tuple(sorted((k, str(v)) for k, v in function.environment_vars.items())),
    )
