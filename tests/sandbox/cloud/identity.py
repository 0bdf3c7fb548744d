"""Who calls: the principals of the simulated account and their credentials.

A node's session is what its instance profile hands out through instance metadata, a function's is what Lambda puts in
its environment. Both are assumed-role sessions: ``aws:userid`` is ``ROLEID:session-name``, where EC2 uses the instance
id as session name and Lambda the function's name (IAM user guide, "Policy variables", table of principal values).
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from moto.iam.models import iam_backends

from .lock import API_LOCK

__all__ = [
    "ACCOUNT",
    "ADMIN",
    "ADMIN_KEY",
    "CALLER",
    "EVENTBRIDGE",
    "REGION",
    "IdentityStore",
    "Principal",
    "PrincipalKind",
    "SessionCredentials",
    "arn",
    "role_id",
]

ACCOUNT: Final = "123456789012"
REGION: Final = "eu-west-1"
ADMIN_KEY: Final = "berth-admin"
"""Access key id and secret of the driver, who is allowed everything."""

LIFETIME: Final = timedelta(hours=6)
"""What EC2 gives a role's session in instance metadata."""

PrincipalKind = Literal["admin", "node", "function", "service", "unknown"]

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def arn(service: str, resource: str, region: str = REGION) -> str:
    """An ARN of this account."""
    return f"arn:aws:{service}:{region}:{ACCOUNT}:{resource}"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. ``user_id`` is ``aws:userid`` and SQS's ``SenderId``; ``role`` the name of the session's role."""

    kind: PrincipalKind
    arn: str
    user_id: str
    role: str | None = None
    instance_arn: str | None = None
    function_arn: str | None = None

    @property
    def session_name(self) -> str:
        """The instance id of a node, the name of a function."""
        return self.user_id.partition(":")[2]


EVENTBRIDGE: Final = Principal("service", "events.amazonaws.com", "AIDAIENQZJOLO23YVJ4VO")
"""EventBridge, which sends to queues by its service principal. (The id: Lambda developer guide, SQS sample events.)"""

ADMIN: Final = Principal("admin", f"arn:aws:iam::{ACCOUNT}:user/admin", "AIDABERTHADMINISTRATO")

CALLER: Final[ContextVar[Principal]] = ContextVar("CALLER", default=ADMIN)
"""Whose request is being served in this thread. Work of the sandbox itself counts as the administrator's."""


@dataclass(frozen=True, slots=True)
class SessionCredentials:
    """Temporary credentials. ``expiration`` is aware, in UTC. The secrets never appear in a repr."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expiration: datetime


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows about an access key. ``credentials`` is ``None`` for the administrator."""

    principal: Principal
    secret: str = field(repr=False)
    credentials: SessionCredentials | None = None


def role_id(role_name: str) -> str:
    """The ``AROA…`` id of a role: IAM's own where the role exists, else one derived from the name."""
    with API_LOCK:
        for role in iam_backends[ACCOUNT]["aws"].roles.values():
            if role.name == role_name:
                return str(role.id)
    digest = hashlib.sha256(role_name.encode()).digest()
    return "AROA" + "".join(_ALPHABET[byte % 32] for byte in digest[:17])


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


class IdentityStore:
    """Issues sessions and finds them again by access key id. Safe to use from several threads."""

    def __init__(self, lifetime: timedelta = LIFETIME) -> None:
        self._lifetime = lifetime
        self._known: dict[str, Known] = {ADMIN_KEY: Known(ADMIN, ADMIN_KEY)}
        self._current: dict[tuple[str, str], SessionCredentials] = {}
        self._lock = threading.Lock()

    def credentials_for_instance(self, instance_id: str, instance_arn: str, role_name: str) -> SessionCredentials:
        """The session of an instance's role, renewed when less than half of its life is left."""
        principal = _session("node", role_name, instance_id, instance_arn=instance_arn)
        return self._session(principal)

    def credentials_for_function(self, function_name: str, role_arn: str) -> SessionCredentials:
        """The session that Lambda gives to an execution environment of the function."""
        role_name = role_arn.rpartition("/")[2]
        principal = _session(
            "function", role_name, function_name, function_arn=arn("lambda", f"function:{function_name}")
        )
        return self._session(principal)

    def known(self, access_key_id: str) -> Known | None:
        """The principal and secret behind an access key id, if this store issued it."""
        with self._lock:
            return self._known.get(access_key_id)

    def _session(self, principal: Principal) -> SessionCredentials:
        now = datetime.now(UTC)
        with self._lock:
            current = self._current.get((principal.arn, principal.user_id))
            if current and current.expiration - now > self._lifetime / 2:
                return current
            fresh = SessionCredentials(
                f"ASIA{_random(16)}", secrets.token_urlsafe(30), secrets.token_urlsafe(120), now + self._lifetime
            )
            self._current[principal.arn, principal.user_id] = fresh
            self._known[fresh.access_key_id] = Known(principal, fresh.secret_access_key, fresh)
            return fresh


def _session(
    kind: PrincipalKind,
    role_name: str,
    session_name: str,
    *,
    instance_arn: str | None = None,
    function_arn: str | None = None,
) -> Principal:
    return Principal(
        kind=kind,
        arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/{role_name}/{session_name}",
        user_id=f"{role_id(role_name)}:{session_name}",
        role=role_name,
        instance_arn=instance_arn,
        function_arn=function_arn,
    )
