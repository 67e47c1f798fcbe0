"""The engine: one thread that owns a model and serves requests of token ids, as many at once as the cache allows.

Requests come in through a queue and are answered by callbacks, token by token. A step reads what is new of every
running sequence in one forward pass; sequences join and leave between steps. Knows no text, config or HTTP.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, TypeVar

import torch

from llm_runner.generate.cache import BLOCK_TOKENS
from llm_runner.generate.engine_forward import Forward
from llm_runner.generate.engine_request import (
    Deliver,
    End,
    EndReason,
    Overloaded,
    PromptTooLong,
    Request,
    Token,
)
from llm_runner.generate.engine_sampling import choose_tokens
from llm_runner.generate.engine_schedule import Limits, Schedule, Share
from llm_runner.generate.engine_sequence import Work, build_work

T = TypeVar("T")


class Observer(Protocol):
    """Who wants to know how the engine does; called on its thread."""

    def stepped(self, *, sequences: int, tokens: int, seconds: float) -> None: ...

    def started(self, *, prompt_tokens: int, cached_tokens: int, seconds: float) -> None:
        """The first token came ``seconds`` after the request."""
        ...

    def ended(self, *, reason: EndReason, new_tokens: int, seconds: float, first_token_seconds: float | None) -> None:
        """Both times count from the request; there is no first token where none came."""
        ...


class Unobserved:
    """Nobody wants to know."""

    def stepped(self, *, sequences: int, tokens: int, seconds: float) -> None:
        pass

    def started(self, *, prompt_tokens: int, cached_tokens: int, seconds: float) -> None:
        pass

    def ended(self, *, reason: EndReason, new_tokens: int, seconds: float, first_token_seconds: float | None) -> None:
        pass


@dataclass(frozen=True)
class EngineLimits:
    """What the engine takes on."""

    context_tokens: int
    """Most tokens of prompt and answer together."""
    running: int = 16
    waiting: int = 16
    """Requests that may wait; more are refused."""
    step_tokens: int = 512


@dataclass(frozen=True)
class Load:
    """How busy the engine is."""

    running: int
    waiting: int
    used_blocks: int
    block_count: int
    preemptions: int


class Engine:
    """Start it, submit requests from any thread, close it."""

    def __init__(self, forward: Forward, limits: EngineLimits, observer: Observer | None = None) -> None:
        self._forward = forward
        self._limits = limits
        self._observer: Observer = Unobserved() if observer is None else observer
        self._schedule = Schedule(
            forward.block_count,
            Limits(limits.running, max(limits.step_tokens, limits.running)),
            shares_prefixes=forward.shares_prefixes,
        )
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._works: dict[int, Work] = {}
        self._lock = threading.Lock()
        self._open = 0
        self._submitted = 0
        self._failure: BaseException | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def context_tokens(self) -> int:
        """The longest sequence that the model and the cache can hold."""
        return min(self._limits.context_tokens, self._forward.block_count * BLOCK_TOKENS)

    @property
    def failure(self) -> BaseException | None:
        """What ended the engine, if something did."""
        return self._failure

    @property
    def has_ended(self) -> bool:
        """Whether it takes nothing on any more, ever."""
        return self._failure is not None or self._is_closing

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return self._failure is None and not self._is_closing

    @property
    def open_requests(self) -> int:
        """Requests that wait or run."""
        return self._open

    def load(self) -> Load:
        schedule = self._schedule
        return Load(
            running=len(schedule.running),
            waiting=max(self._open - len(schedule.running), 0),
            used_blocks=schedule.pool.used_count,
            block_count=schedule.pool.count,
            preemptions=schedule.preemptions,
        )

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: Request, deliver: Deliver) -> int:
        """Takes a request on; gives the number to cancel it by. ``deliver`` is called on the engine's thread.

        Raises:
            Overloaded: too many are waiting, or the engine has ended.
            PromptTooLong: there would be no room for a single token.
        """
        limit = self.context_tokens
        if len(request.prompt_ids) >= limit:
            raise PromptTooLong(len(request.prompt_ids), limit)
        with self._lock:
            if not self.is_open:
                raise Overloaded("the engine has ended")
            if self._open >= self._limits.running + self._limits.waiting:
                raise Overloaded(f"{self._open} requests are being worked on or waiting")
            self._open += 1
            self._submitted += 1
            work = build_work(self._submitted, request, deliver, monotonic())
        self._inbox.put(lambda: self._add(work))
        return work.number

    def cancel(self, number: int) -> None:
        """Ends a request early; one that is over already stays so."""
        self._inbox.put(lambda: self._cancel(number))

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Runs something else that needs the model on the engine's thread, between two steps."""
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)

        self._inbox.put(run)
        return future

    def close(self) -> None:
        """Ends what is still open, and the thread."""
        with self._lock:
            self._is_closing = True
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        reason, error = EndReason.CANCELLED, None
        try:
            with torch.inference_mode():
                while self._receive():
                    self._step()
        except BaseException as failure:
            reason, error = EndReason.FAILED, failure
            self._failure = failure
        for work in list(self._works.values()):
            self._end(work, End(reason, error if isinstance(error, Exception) else None))

    def _receive(self) -> bool:
        """Does what came in; waits for something only where there is nothing else to do. False: it is over."""
        is_idle = not self._works
        while True:
            try:
                action = self._inbox.get(block=is_idle)
            except queue.Empty:
                return True
            if action is None:
                return False
            action()
            is_idle = False

    def _add(self, work: Work) -> None:
        self._works[work.number] = work
        self._schedule.add(work)

    def _cancel(self, number: int) -> None:
        work = self._works.get(number)
        if work is not None:
            self._end(work, End(EndReason.CANCELLED, cached_tokens=work.cached_tokens))

    def _step(self) -> None:
        self._end_late()
        shares = self._schedule.plan_step()
        if not shares:
            return
        started = monotonic()
        logits = self._forward([share.work.piece(share.count) for share in shares])
        sampled = [share.work for share in shares if share.count == share.work.left]
        self._schedule.finish_step(shares)
        tokens = choose_tokens(logits, sampled) if sampled else []
        self._tell(shares, monotonic() - started)
        for work, token in zip(sampled, tokens, strict=True):
            self._go_on(work, token)

    def _tell(self, shares: Sequence[Share], seconds: float) -> None:
        tokens = sum(share.count for share in shares)
        self._observer.stepped(sequences=len(shares), tokens=tokens, seconds=seconds)

    def _end_late(self) -> None:
        now = monotonic()
        for work in list(self._works.values()):
            if work.deadline_seconds is not None and now >= work.deadline_seconds:
                self._end(work, End(EndReason.TIME, cached_tokens=work.cached_tokens))

    def _go_on(self, work: Work, token: Token | Exception) -> None:
        if isinstance(token, Exception):
            self._end(work, End(EndReason.FAILED, token), is_broken=isinstance(token, ArithmeticError))
            return
        if work.first_token_seconds is None:
            work.first_token_seconds = monotonic() - work.arrived_seconds
            self._observer.started(
                prompt_tokens=work.prompt_tokens,
                cached_tokens=work.cached_tokens,
                seconds=work.first_token_seconds,
            )
        if token.id in work.request.stop_ids:
            self._end(work, End(EndReason.STOP, cached_tokens=work.cached_tokens))
            return
        work.token_ids.append(token.id)
        work.deliver(token)
        if work.new_tokens >= work.request.max_new_tokens or len(work.token_ids) >= self.context_tokens:
            self._end(work, End(EndReason.LENGTH, cached_tokens=work.cached_tokens))

    def _end(self, work: Work, end: End, *, is_broken: bool = False) -> None:
        broken = self._schedule.remove(work, is_broken=is_broken)
        self._forward.forget(work.number, broken)
        del self._works[work.number]
        with self._lock:
            self._open -= 1
        self._observer.ended(
            reason=end.reason,
            new_tokens=work.new_tokens,
            seconds=monotonic() - work.arrived_seconds,
            first_token_seconds=work.first_token_seconds,
        )
        work.deliver(end)
