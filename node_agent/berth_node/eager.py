"""Starting a coroutine at once, and making a task of it only if it has to wait.

Most requests need nothing that is not there: then a task, two turns of the event loop and their bookkeeping would be a
good part of what they cost. Python has eager tasks only from 3.12 on.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

__all__ = ["begin"]


def begin(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Run it until it is done (None) or first waits (a task that does the rest). Raises what it raises until then.

    Call it in the running loop's thread, outside of a coroutine that must not be delayed. Until it first waits it has
    no current task: ``asyncio.timeout`` and the like come after that.
    """
    try:
        waits_for = coroutine.send(None)
    except StopIteration:
        return None
    return asyncio.get_running_loop().create_task(_rest(coroutine, waits_for))


async def _rest(coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
    await _resumed(coroutine, waits_for)


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Hand on what it waits for, and to it what comes of that, a cancellation too."""
    step: Callable[[], Any]
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:
            thrown = error
            step = lambda: coroutine.throw(thrown)  # noqa: E731, B023 - called before the next turn
        else:
            step = lambda: coroutine.send(sent)  # noqa: E731, B023
        try:
            waits_for = step()
        except StopIteration:
            return
