"""The loop: take a resource from the queue, observe it, plan, carry the plan out, and know when to look again.

What a plan contains is decided by ``reconcile``; here is only what must happen whatever it contains.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from llm_operator.errors import Conflict, OperatorError, Unavailable
from llm_operator.execution import LeadershipLost
from llm_operator.metrics import Metrics
from llm_operator.observation import Memory
from llm_operator.observed import Manifest, Observed, Refusal
from llm_operator.outcomes import to_outcome
from llm_operator.reconcile.plan import Plan
from llm_operator.store import ResourceKey
from llm_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

AWAY_SECONDS = 20.0
"""An API server that comes back after a long while is not left waiting for longer."""

Planner = Callable[[Any, datetime], Plan]
"""``plan_fine_tune`` or ``plan_inference`` with the settings bound."""


class Leading(Protocol):
    async def wait(self) -> None: ...


class Observing(Protocol):
    async def observe(self, key: ResourceKey, memory: Memory | None) -> Observed | None: ...


class Executing(Protocol):
    async def carry_out(self, plan: Plan, document: Manifest) -> tuple[Refusal, ...]: ...


class Controller:
    """Reconciles what the queue holds; ``work`` may run several times over."""

    def __init__(
        self,
        queue: WorkQueue[ResourceKey],
        observer: Observing,
        planners: Mapping[str, Planner],
        execution: Executing,
        leading: Leading,
        metrics: Metrics,
    ) -> None:
        self._queue = queue
        self._observer = observer
        self._planners = planners
        self._execution = execution
        self._leading = leading
        self._metrics = metrics
        self._memories: dict[ResourceKey, Memory] = {}
        # A plan takes milliseconds. One at a time lets watches and probes be answered in between.
        self._turn = asyncio.Lock()

    async def work(self) -> None:
        """Never returns."""
        while True:
            key = await self._queue.get()
            try:
                await self._leading.wait()
                await self._reconcile_safely(key)
            finally:
                self._queue.done(key)

    async def _reconcile_safely(self, key: ResourceKey) -> None:
        started = time.perf_counter()
        try:
            await self._reconcile(key)
        except LeadershipLost:
            self._queue.add(key)
        except OperatorError as error:
            self._retry(key, error)
        except Exception as error:
            # A fault of ours in one resource must not stop the others.
            logger.exception("%s %s/%s can't be reconciled", *key)
            self._retry(key, error)
        self._metrics.reconcile_seconds.labels(key.kind).observe(time.perf_counter() - started)

    async def _reconcile(self, key: ResourceKey) -> None:
        observed = await self._observer.observe(key, self._memories.get(key))
        if observed is None:
            self._forget(key)
            return
        memory = self._remember(key, observed.document)
        async with self._turn:
            plan = self._planners[key.kind](observed, datetime.now(UTC))
        refusals = await self._execution.carry_out(plan, observed.document)
        if plan.status is not None:
            memory.status_written_at = datetime.now(UTC)
            self._count(key, observed.document, plan.status)
        self._metrics.phases.put(key, _phase(plan.status, observed.document))
        self._schedule(key, plan, memory, refusals)

    def _schedule(self, key: ResourceKey, plan: Plan, memory: Memory, refusals: tuple[Refusal, ...]) -> None:
        if refusals != memory.refusals:
            # The next plan writes into the status what was refused, or that nothing is any more.
            memory.refusals = refusals
            self._queue.add(key)
        if refusals:
            self._queue.retry(key)
        else:
            self._queue.forget(key)
        if plan.again_after_seconds is not None:
            self._queue.add_later(key, plan.again_after_seconds)

    def _retry(self, key: ResourceKey, error: Exception) -> None:
        self._metrics.reconcile_errors.labels(key.kind, type(error).__name__).inc()
        pause_seconds = self._queue.retry(key, AWAY_SECONDS if isinstance(error, Unavailable) else None)
        if isinstance(error, Conflict):
            level = logging.DEBUG  # somebody was faster; its watch will say what became of it
        elif isinstance(error, Unavailable):
            level = logging.WARNING
        else:
            level = logging.ERROR
        logger.log(level, "%s %s/%s: %s; again in %.1f s", *key, error, pause_seconds)

    def _remember(self, key: ResourceKey, document: Manifest) -> Memory:
        uid = document["metadata"]["uid"]
        memory = self._memories.get(key)
        if memory is None or memory.uid != uid:
            memory = self._memories[key] = Memory(uid)
        return memory

    def _forget(self, key: ResourceKey) -> None:
        self._memories.pop(key, None)
        self._queue.forget(key)
        self._metrics.phases.forget(key)

    def _count(self, key: ResourceKey, document: Manifest, status: Mapping[str, Any]) -> None:
        outcome = to_outcome(key, document, status)
        if outcome is not None:
            self._metrics.count_run(outcome)


def _phase(status: Mapping[str, Any] | None, document: Manifest) -> str:
    shown = document.get("status", {}) if status is None else status
    phase: str = shown.get("phase", "Pending")
    return phase
