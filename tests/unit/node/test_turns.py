"""Requests of one container, one after the other."""

from __future__ import annotations

import asyncio

import pytest
from berth_node.turns import Turn


def test_requests_of_one_container_take_turns_in_the_order_in_which_they_came() -> None:
    async def main() -> tuple[list[str], dict[str, list[asyncio.Lock]]]:
        turns: dict[str, list[asyncio.Lock]] = {}
        seen: list[str] = []

        async def request(name: str, container: str) -> None:
            async with Turn(turns, container):
                seen.append(f"{name} begins")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                seen.append(f"{name} ends")

        await asyncio.gather(request("one", "c"), request("two", "c"), request("other", "d"), request("three", "c"))
        return seen, turns

    seen, turns = asyncio.run(main())
    assert [line for line in seen if "other" not in line] == [
        *("one begins", "one ends", "two begins", "two ends", "three begins", "three ends")
    ]
    assert seen.index("other begins") < seen.index("one ends")
    assert turns == {}


def test_one_that_is_cancelled_while_it_waits_leaves_the_turn_to_the_next() -> None:
    async def main() -> dict[str, list[asyncio.Lock]]:
        turns: dict[str, list[asyncio.Lock]] = {}
        hold = asyncio.Event()

        async def request() -> None:
            async with Turn(turns, "c"):
                await hold.wait()

        first, second, third = (asyncio.create_task(request()) for _ in range(3))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        hold.set()
        await asyncio.gather(first, third)
        return turns

    assert asyncio.run(main()) == {}


def test_an_error_ends_a_turn_like_any_other() -> None:
    async def main() -> dict[str, list[asyncio.Lock]]:
        turns: dict[str, list[asyncio.Lock]] = {}
        with pytest.raises(KeyError):
            async with Turn(turns, "c"):
                raise KeyError("broken")
        return turns

    assert asyncio.run(main()) == {}
