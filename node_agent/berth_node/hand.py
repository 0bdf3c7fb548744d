"""The plugin's helping hand: it makes a pod's links while the agent chooses an address, and does what is left then.

The agent decides as ever, and writes the address down first. Killed at any point: a plugin that dies is noticed here
(:class:`HangUpError`), and its pair is taken away by its index; an agent that dies leaves an entry without ``wired``,
of which the next start finds out what there is, and a plugin that cannot tell what it did takes its pair away itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass, field
from typing import Final

from berth_node import wire
from berth_node.seams import Attachment, Rest
from berth_node.wire import Pair

__all__ = ["Hand", "HangUpError"]

_log = logging.getLogger(__name__)
_VERDICT: Final = 64
_LATER: Final = 0.003
"""Seconds until its verdict is looked for. Woken by it at once, the agent would take a processor from the plugin, for
whose end the runtime waits."""
_SECONDS: Final = 15.0
"""A plugin gives up after ten seconds of waiting for the kernel."""
_LATE: Final = f"it said nothing for {_SECONDS:g} s"


class HangUpError(Exception):
    """The plugin has gone, or nobody wants to wait for it any more: nobody knows how far it came.

    ``by_del``: because of a DEL.
    """

    def __init__(self, why: str, *, by_del: bool = False) -> None:
        super().__init__(why)
        self.by_del = by_del


@dataclass(slots=True)
class Hand:
    """One plugin that makes the links ``pair``. ``done`` once it has carried out everything, and answers."""

    connection: socket.socket
    pair: Pair
    done: bool = False
    refusal: int = 0
    """The error number of what the kernel refused."""
    _heard: asyncio.Future[bytes] | None = field(default=None)

    def fits(self, attachment: Attachment) -> bool:
        """Whether its pair is what this pod is to have. Host ports and interfaces of a pod's own need more."""
        plain = not attachment.ports and not attachment.table
        return plain and (attachment.host_ifname, attachment.mtu) == (self.pair.name, self.pair.mtu)

    async def carry_out(self, rest: Rest, output: bytes) -> bool:
        """Have it finish the pod and answer. False if the kernel refused: the plugin waits for another answer.

        Raises :class:`HangUpError`.
        """
        try:
            if not wire.send_rest(self.connection, rest.batches, rest.ignored, output):
                return False
            # what comes now is its verdict: not to be taken for a hang-up by who has watched for that till now
            asyncio.get_running_loop().remove_reader(self.connection)
            told = await self._hear()
        except OSError as error:
            raise HangUpError(str(error)) from error
        if told == b"berth/1 wired":
            self.done = True
            return True
        if not told.startswith(b"berth/1 refused "):
            raise HangUpError(f"it said {told!r}" if told else "it hung up")
        _log.info("the kernel refused a plugin's batch; the agent tries", extra={"batch_and_errno": told[16:].decode()})
        number = told.rpartition(b" ")[2]
        self.refusal = int(number) if number.isdigit() else 0
        return False

    @property
    def waits(self) -> bool:
        """Whether its verdict is awaited."""
        return self._heard is not None and not self._heard.done()

    def let_go(self, why: str, *, by_del: bool = False) -> None:
        """Wait for it no longer, unless it has spoken. What it says later it is told that nobody hears (EPIPE), and it
        undoes its work; an answer can still be sent to it."""
        heard = self._heard
        if heard is None or self._look():
            return
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)
        try:
            told = self.connection.recv(_VERDICT)  # it may have spoken in between
        except OSError:
            told = b""
        if told:
            heard.set_result(told)
        else:
            heard.set_exception(HangUpError(why, by_del=by_del))

    async def _hear(self) -> bytes:
        """Its next message; empty if it has hung up."""
        loop = asyncio.get_running_loop()
        self._heard = loop.create_future()
        timers = (loop.call_later(_LATER, self._listen), loop.call_later(_SECONDS, self.let_go, _LATE))
        try:
            return await self._heard
        finally:
            for timer in timers:
                timer.cancel()
            loop.remove_reader(self.connection)

    def _listen(self) -> None:
        if not self._look():
            asyncio.get_running_loop().add_reader(self.connection, self._look)

    def _look(self) -> bool:
        """Whether there is something to read, or was."""
        heard = self._heard
        if heard is None or heard.done():
            return True
        try:
            heard.set_result(self.connection.recv(_VERDICT))
        except BlockingIOError:
            return False
        except OSError as error:
            heard.set_exception(error)
        return True
