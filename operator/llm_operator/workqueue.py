"""One queue of things to reconcile: each key waits at most once and is worked on by one worker at a time.

A key that is added while it is being worked on comes again afterwards, so no change is missed. A key that failed comes
again after a growing pause. What a key stands for, and what is done about it, is the worker's to know.
"""

import asyncio
import random
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Backoff:
    """Pauses before a key is tried again: doubled with each failure, up to a ceiling, and never two alike."""

    def __init__(self, first_seconds: float = 0.2, most_seconds: float = 300.0, jitter: float = 0.2) -> None:
        self._first_seconds = first_seconds
        self._most_seconds = most_seconds
        self._jitter = jitter

    def pause_seconds(self, failures: int, most_seconds: float | None = None) -> float:
        """``failures`` counts from 1; ``most_seconds`` is a ceiling for this one."""
        ceiling = self._most_seconds if most_seconds is None else most_seconds
        # 2 ** 60 pauses would be beyond any ceiling; larger powers are beyond a float.
        pause: float = min(ceiling, self._first_seconds * 2.0 ** min(failures - 1, 60))
        return pause * (1 + random.uniform(-self._jitter, self._jitter))


class WorkQueue(Generic[Key]):
    """For one event loop; nothing here blocks.

    What is unhurried, such as a slow round over everything, comes after all that has changed.
    """

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff = Backoff() if backoff is None else backoff
        # Dictionaries are sets that remember their order.
        self._hurried: dict[Key, None] = {}
        self._unhurried: dict[Key, None] = {}
        self._working: set[Key] = set()
        self._again: dict[Key, bool] = {}
        self._failures: dict[Key, int] = {}
        self._later: dict[tuple[Key, bool], asyncio.TimerHandle] = {}
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        """Keys that could be worked on now if a worker were free."""
        return len(self._hurried) + len(self._unhurried)

    def add(self, key: Key, unhurried: bool = False) -> None:
        """As soon as may be; nothing happens if it waits already."""
        if key in self._working:
            self._again[key] = unhurried and self._again.get(key, True)
            return
        if key in self._hurried:
            return
        if unhurried:
            self._unhurried[key] = None
        else:
            self._unhurried.pop(key, None)
            self._hurried[key] = None
        self._filled.set()

    def add_later(self, key: Key, pause_seconds: float, unhurried: bool = False) -> None:
        """After a pause; of several pauses of one key the one that ends first counts."""
        loop = asyncio.get_running_loop()
        planned = self._later.get((key, unhurried))
        if planned is not None:
            if planned.when() <= loop.time() + pause_seconds:
                return
            planned.cancel()
        self._later[key, unhurried] = loop.call_later(pause_seconds, self._add_due, key, unhurried)

    def retry(self, key: Key, most_seconds: float | None = None) -> float:
        """After a pause that grows with each call until ``forget``; returns the pause, in seconds."""
        self._failures[key] = self._failures.get(key, 0) + 1
        pause_seconds = self._backoff.pause_seconds(self._failures[key], most_seconds)
        self.add_later(key, pause_seconds)
        return pause_seconds

    def forget(self, key: Key) -> None:
        """The key did well: its next failure is the first."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The key that has waited longest among the hurried ones, or else among the others; ``done`` must follow."""
        while len(self) == 0:
            self._filled.clear()
            await self._filled.wait()
        lane = self._hurried or self._unhurried
        key = next(iter(lane))
        del lane[key]
        self._working.add(key)
        return key

    def done(self, key: Key) -> None:
        self._working.discard(key)
        if key in self._again:
            self.add(key, self._again.pop(key))

    def close(self) -> None:
        """Drops what was to come later."""
        for handle in self._later.values():
            handle.cancel()
        self._later.clear()

    def _add_due(self, key: Key, unhurried: bool) -> None:
        self._later.pop((key, unhurried), None)
        self.add(key, unhurried)
