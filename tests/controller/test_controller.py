import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import pytest
from llm_operator.controller import Controller
from llm_operator.errors import OperatorError, Unavailable
from llm_operator.execution import LeadershipLost
from llm_operator.leader import SoleReplica
from llm_operator.metrics import Metrics
from llm_operator.observation import Memory
from llm_operator.observed import Observed, ObservedFineTune, Refusal
from llm_operator.reconcile.plan import Plan
from llm_operator.store import FINE_TUNE, ResourceKey
from llm_operator.workqueue import Backoff, WorkQueue
from prometheus_client import generate_latest

KEY = ResourceKey(FINE_TUNE, "team", "bot")


class Bench:
    """A controller at work, with what it works on under the test's control."""

    def __init__(self) -> None:
        self.queue: WorkQueue[ResourceKey] = WorkQueue(Backoff(first_seconds=0.01, jitter=0))
        self.metrics = Metrics()
        self.documents: dict[ResourceKey, dict[str, Any]] = {KEY: document()}
        self.memories: list[Memory | None] = []
        self.observed: list[Observed] = []
        self.plan: Callable[[Observed], Plan] = lambda observed: Plan()
        self.answers: list[tuple[Refusal, ...] | Exception] = []
        self.carried_out = 0

    async def observe(self, key: ResourceKey, memory: Memory | None) -> Observed | None:
        self.memories.append(memory)
        found = self.documents.get(key)
        refusals = () if memory is None else memory.refusals
        return None if found is None else ObservedFineTune(document=found, refusals=refusals)

    async def carry_out(self, plan: Plan, document: Mapping[str, Any]) -> tuple[Refusal, ...]:
        self.carried_out += 1
        answer = self.answers.pop(0) if self.answers else ()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _plan(self, observed: Observed, now: datetime) -> Plan:
        self.observed.append(observed)
        return self.plan(observed)

    def run(self, scenario: Callable[[], Awaitable[None]], workers: int = 2) -> None:
        async def work() -> None:
            controller = Controller(self.queue, self, {FINE_TUNE: self._plan}, self, SoleReplica(), self.metrics)
            tasks = [asyncio.create_task(controller.work()) for _ in range(workers)]
            async with asyncio.timeout(10):
                await scenario()
            for task in tasks:
                task.cancel()
            self.queue.close()

        asyncio.run(work())

    def metric(self, line: str) -> bool:
        return line in generate_latest(self.metrics.registry).decode()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await asyncio.sleep(0.002)


def document(phase: str | None = None) -> dict[str, Any]:
    status = {} if phase is None else {"phase": phase}
    return {"metadata": {"uid": "u", "name": "bot", "namespace": "team"}, "spec": {}, "status": status}


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_resource_that_needs_nothing_is_looked_at_once(bench: Bench) -> None:
    async def scenario() -> None:
        bench.queue.add(KEY)
        await bench.until(lambda: bench.carried_out == 1)
        await asyncio.sleep(0.05)
        assert bench.carried_out == 1

    bench.run(scenario)


def test_what_may_pass_is_tried_again_until_it_does(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.answers = [Unavailable("no answer"), Unavailable("no answer")]

    async def scenario() -> None:
        bench.queue.add(KEY)
        await bench.until(lambda: bench.carried_out == 3)

    bench.run(scenario)
    assert bench.metric('llm_operator_reconcile_errors_total{error="Unavailable",kind="LLMFineTune"} 2.0')
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.WARNING]


def test_a_fault_of_the_operator_in_one_resource_does_not_stop_the_others(bench: Bench) -> None:
    other = ResourceKey(FINE_TUNE, "team", "other")
    bench.documents[other] = document()
    bench.documents[other]["metadata"]["uid"] = "o"

    def plan(observed: Observed) -> Plan:
        if observed.document["metadata"]["uid"] == "u":
            raise ZeroDivisionError
        return Plan()

    bench.plan = plan

    async def scenario() -> None:
        bench.queue.add(KEY)
        bench.queue.add(other)
        await bench.until(lambda: bench.carried_out == 1 and len(bench.observed) > 3)

    bench.run(scenario, workers=1)


def test_a_lost_lease_loses_no_resource(bench: Bench) -> None:
    bench.answers = [LeadershipLost("gone")]

    async def scenario() -> None:
        bench.queue.add(KEY)
        await bench.until(lambda: bench.carried_out == 2)

    bench.run(scenario)


def test_a_refusal_is_told_to_the_next_plan_and_tried_again_ever_more_slowly(bench: Bench) -> None:
    refused = (Refusal("Job", "bot-1", "exceeded quota"),)
    bench.answers = [refused] * 4

    async def scenario() -> None:
        bench.queue.add(KEY)
        await bench.until(lambda: bench.carried_out == 6)
        await asyncio.sleep(0.1)
        assert bench.carried_out == 6, "once it is taken, and once more to say so"

    bench.run(scenario)
    assert [observed.refusals for observed in bench.observed] == [(), refused, refused, refused, refused, ()]


def test_a_plan_says_when_to_look_again(bench: Bench) -> None:
    bench.plan = lambda observed: Plan(again_after_seconds=0.01)

    async def scenario() -> None:
        bench.queue.add(KEY)
        await bench.until(lambda: bench.carried_out == 3)

    bench.run(scenario)


def test_the_time_of_the_last_status_is_remembered_for_this_very_resource(bench: Bench) -> None:
    bench.plan = lambda observed: Plan(status={"phase": "Training"})

    async def scenario() -> None:
        for uid in ("u", "u", "later"):
            bench.documents[KEY]["metadata"]["uid"] = uid
            looked = bench.carried_out
            bench.queue.add(KEY)
            await bench.until(lambda looked=looked: bench.carried_out > looked)  # type: ignore[misc]
            await asyncio.sleep(0.01)

    bench.run(scenario)
    first, second = bench.memories[:2]
    assert first is None
    assert second is not None
    assert second.status_written_at is not None


def test_phases_are_counted_while_their_resources_exist(bench: Bench) -> None:
    series = 'llm_operator_resources{kind="LLMFineTune",phase="Training"}'
    bench.plan = lambda observed: Plan(status={"phase": "Training"})

    async def scenario() -> None:
        bench.queue.add(KEY)
        await bench.until(lambda: bench.metric(f"{series} 1.0"))
        del bench.documents[KEY]
        bench.queue.add(KEY)
        await bench.until(lambda: not bench.metric(series))

    bench.run(scenario)


def test_an_error_class_of_the_operator_is_no_traceback(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.answers = [OperatorError("said plainly")]

    async def scenario() -> None:
        bench.queue.add(KEY)
        await bench.until(lambda: bench.carried_out == 2)

    bench.run(scenario)
    assert "said plainly" in caplog.text
    assert "Traceback" not in caplog.text
