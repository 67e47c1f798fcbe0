import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from llm_operator.workqueue import Backoff, WorkQueue


def run(work: Coroutine[Any, Any, None]) -> None:
    async def soon() -> None:
        async with asyncio.timeout(10):
            await work

    asyncio.run(soon())


def test_a_key_that_waits_is_not_added_again() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        for _ in range(3):
            queue.add("a")
        queue.add("b")
        assert len(queue) == 2
        assert [await queue.get(), await queue.get()] == ["a", "b"]

    run(scenario())


def test_a_key_that_changes_while_it_is_worked_on_comes_again_when_that_is_done() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        key = await queue.get()
        queue.add("a")
        assert len(queue) == 0, "two workers would have had it at once"
        queue.done(key)
        assert await queue.get() == "a"
        queue.done(key)
        assert len(queue) == 0

    run(scenario())


def test_no_key_is_lost_or_worked_on_twice_at_once_by_many_workers() -> None:
    async def scenario() -> None:
        queue: WorkQueue[int] = WorkQueue()
        busy: set[int] = set()
        seen: dict[int, int] = {}

        async def work() -> None:
            while True:
                key = await queue.get()
                assert key not in busy
                busy.add(key)
                wanted = wants[key]
                await asyncio.sleep(0)
                busy.discard(key)
                seen[key] = wanted
                queue.done(key)

        wants: dict[int, int] = {}
        workers = [asyncio.create_task(work()) for _ in range(8)]
        for round_ in range(20):
            for key in range(50):
                wants[key] = round_
                queue.add(key)
            await asyncio.sleep(0)
        while seen != dict.fromkeys(range(50), 19):
            await asyncio.sleep(0)
        for worker in workers:
            worker.cancel()

    run(scenario())


def test_the_earlier_of_two_pauses_counts() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        loop = asyncio.get_running_loop()
        started = loop.time()
        queue.add_later("a", 60)
        queue.add_later("a", 0.02)
        queue.add_later("a", 30)
        assert await queue.get() == "a"
        assert loop.time() - started < 5
        queue.done("a")
        await asyncio.sleep(0.05)
        assert len(queue) == 0, "the other pauses ended with it"

    run(scenario())


def test_a_key_that_fails_waits_longer_each_time_until_it_does_well() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue(Backoff(first_seconds=1, most_seconds=5, jitter=0))
        assert [queue.retry("a") for _ in range(5)] == [1, 2, 4, 5, 5]
        assert queue.retry("b") == 1
        queue.forget("a")
        assert queue.retry("a") == 1
        queue.close()

    run(scenario())


def test_a_pause_stays_finite_after_very_many_failures() -> None:
    backoff = Backoff(most_seconds=300, jitter=0)
    assert backoff.pause_seconds(1_000_000) == 300
    assert backoff.pause_seconds(1_000_000, most_seconds=20) == 20


def test_pauses_differ_so_that_what_failed_together_is_not_tried_together() -> None:
    backoff = Backoff(first_seconds=10, jitter=0.2)
    pauses = {backoff.pause_seconds(1) for _ in range(20)}
    assert len(pauses) > 1
    assert all(8 <= pause <= 12 for pause in pauses)


def test_what_was_to_come_later_does_not_come_after_the_end() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add_later("a", 0.01)
        queue.close()
        await asyncio.sleep(0.05)
        assert len(queue) == 0

    run(scenario())


def test_what_has_changed_comes_before_what_is_only_looked_at_again() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("round-1", unhurried=True)
        queue.add("round-2", unhurried=True)
        queue.add("changed")
        queue.add("round-2")
        assert len(queue) == 3
        assert [await queue.get() for _ in range(3)] == ["changed", "round-2", "round-1"]

    run(scenario())


def test_a_change_during_work_is_not_put_back_behind_the_slow_round() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        await queue.get()
        queue.add("a", unhurried=True)
        queue.add("a")
        queue.add("a", unhurried=True)
        queue.add("b", unhurried=True)
        queue.done("a")
        assert [await queue.get(), await queue.get()] == ["a", "b"]

    run(scenario())


def test_a_worker_waits_for_the_next_key() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        waiting = asyncio.create_task(queue.get())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await asyncio.shield(waiting)
        queue.add("a")
        assert await waiting == "a"

    run(scenario())
