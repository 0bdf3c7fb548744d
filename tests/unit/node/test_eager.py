"""A coroutine that is begun at once, and goes on as a task if it has to wait."""

from __future__ import annotations

import asyncio

import pytest
from berth_node.eager import begin


def test_what_never_waits_is_done_at_once() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("all of it")

    async def main() -> None:
        assert begin(work()) is None
        assert done == ["all of it"]

    asyncio.run(main())


def test_what_waits_goes_on_as_a_task() -> None:
    async def main() -> list[str]:
        steps, loop = [], asyncio.get_running_loop()
        first, second = loop.create_future(), asyncio.Event()

        async def work() -> None:
            steps.append("begun")
            steps.append(await first)
            await second.wait()
            await asyncio.sleep(0)
            steps.append("ended")

        task = begin(work())
        assert task
        assert steps == ["begun"]
        first.set_result("waited")
        await asyncio.sleep(0)
        second.set()
        await task
        return steps

    assert asyncio.run(main()) == ["begun", "waited", "ended"]


@pytest.mark.parametrize("waits", [False, True])
def test_what_it_raises_is_raised_where_it_is_awaited(waits: bool) -> None:
    async def work() -> None:
        if waits:
            await asyncio.sleep(0)
        raise KeyError("broken")

    async def main() -> None:
        task = begin(work())
        assert task
        await task

    with pytest.raises(KeyError, match="broken"):
        asyncio.run(main())


def test_a_failure_that_it_awaits_reaches_it() -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        failing = asyncio.get_running_loop().create_future()

        async def work() -> None:
            try:
                await failing
            except ValueError as error:
                seen.append(str(error))

        task = begin(work())
        assert task
        failing.set_exception(ValueError("from outside"))
        await task
        return seen

    assert asyncio.run(main()) == ["from outside"]


def test_a_cancelled_task_cleans_up() -> None:
    async def main() -> list[str]:
        seen: list[str] = []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                seen.append("cleaned")

        task = begin(work())
        assert task
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return seen

    assert asyncio.run(main()) == ["cleaned"]
