"""Which permissions were used: what functions and nodes asked for, with the statements that answered.

Kept for the whole test run in the directory that ``BERTH_IAM_USAGE`` names, one file for each process and one line for
each kind of access, so that ``tests/iam`` can compare what the deployed policies allow with what was needed.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .iam import Access, Decision, Statement, applies
from .identity import Principal

__all__ = ["DIRECTORY", "UsageLog"]

DIRECTORY: Final = "BERTH_IAM_USAGE"


class UsageLog:
    """Writes nothing unless the environment names a directory. Safe to use from several threads."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._directory = Path(environ[DIRECTORY]) if environ.get(DIRECTORY) else None
        self._seen: set[tuple[Any, ...]] = set()
        self._lock = threading.Lock()

    def add(
        self,
        principal: Principal,
        access: Access,
        policies: Sequence[tuple[str, str, tuple[Statement, ...]]],
        decision: Decision,
    ) -> None:
        """``policies`` are the role's: name, text, statements. ``decision`` is what came of them together."""
        if self._directory is None or principal.kind not in ("function", "node") or principal.role is None:
            return
        used = [
            {"policy": name, "statement": s.sid or str(n), "keys": sorted(_keys(s) & access.context.keys())}
            for name, _, statements in policies
            for n, s in enumerate(statements)
            if applies(s, access)
        ]
        key = (principal.role, access.action, _kind(access.resource), decision, json.dumps(used))
        documents = {name: text for name, text, _ in policies}
        with self._lock:
            self._once((principal.role, *documents.items()), {"role": principal.role, "documents": documents})
            self._once(
                key,
                {
                    "kind": principal.kind,
                    "role": principal.role,
                    "action": access.action,
                    "resource": access.resource,
                    "decision": decision,
                    "used": used,
                    "context": {k: list(v) for k, v in sorted(access.context.items())},
                },
            )

    def _once(self, key: tuple[Any, ...], line: Mapping[str, Any]) -> None:
        if key in self._seen or self._directory is None:
            return
        self._seen.add(key)
        self._directory.mkdir(parents=True, exist_ok=True)
        # several worlds have processes of the same number: the file is opened for appending
        with (self._directory / f"usage-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _keys(statement: Statement) -> set[str]:
    return {c.key for c in statement.conditions}


def _kind(resource: str) -> str:
    """An ARN without the name of the very thing: what differs only in that is one kind of access."""
    head, slash, _ = resource.partition("/")
    return head + slash if slash else resource
