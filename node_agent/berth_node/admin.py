"""The operators' socket: one JSON object in, one out. Only root can open it, and it only reads."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from berth_node.sockets import bound

__all__ = ["Admin", "AgentDownError", "ask"]

_LIMIT: Final = 65536
_TIMEOUT: Final = 5.0
_LONG: Final = 60.0  # for an answer: a check of 250 pods beside a burst of new ones takes a while


class AgentDownError(Exception):
    """No agent answers. The message says where it was looked for."""


class Admin:
    """Serves ``await answer(request)`` at ``path``."""

    def __init__(self, path: Path, answer: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]) -> None:
        self._path, self._answer = path, answer
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen, mode 0600."""
        self._server = await asyncio.start_unix_server(self._serve, sock=bound(self._path), limit=_LIMIT)

    async def close(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                line = await reader.readline()
            async with asyncio.timeout(_LONG):
                try:
                    answer = await self._answer(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    answer = {"error": f"request not understood: {error}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError):
            return
        finally:
            writer.close()


def ask(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the agent; blocks. Raises :class:`AgentDownError`."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(_TIMEOUT)
            s.connect(str(path))
            s.sendall(json.dumps(request).encode() + b"\n")
            s.settimeout(_LONG)
            with s.makefile("rb") as file:
                answer = json.loads(file.readline())
    except (OSError, ValueError) as error:
        raise AgentDownError(
            f"no agent answers at {path} ({error}); is berth-node running? Only root may ask."
        ) from error
    if not isinstance(answer, dict):
        raise AgentDownError(f"the agent at {path} answered nonsense")
    return answer
