"""Whether this process still hears the cluster, and since when not.

A watch that is quiet looks like one that is dead, and a cluster without a single resource is quiet for ever. So each
watch is closed by the server after WATCH_SECONDS and opened again, and an answer to that is a sign of life that needs
no event. Probes are answered from here; what serves them is elsewhere.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from types import SimpleNamespace

import aiohttp

WATCH_SECONDS = 60
"""How long the API server keeps a watch open."""
INACTIVE_SECONDS = 70
"""A watch that said nothing for this long is given up; the server should have closed it."""
SETTLED_SECONDS = 0.5
"""A beginning is over when nothing came for this long."""
STALE_SECONDS = 240
"""Three watches in a row could not be opened: something here is stuck, and a restart may help."""


class Heartbeats:
    """When each watch was last answered."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._heard: dict[str, float] = {}
        self.gap = asyncio.Event()
        """Set when a watch could not go on where it was: what has gone meanwhile, it will not tell."""

    def beat(self, watch: str) -> None:
        self._heard[watch] = self._clock()

    def has_heard(self, watches: Collection[str]) -> bool:
        # An API server behind a proxy has a path of its own before the one that is asked for.
        return all(any(heard.endswith(watch) for heard in self._heard) for watch in watches)

    def age_seconds(self) -> float:
        """Since the watch that has been silent longest was heard, or since the start if none was heard yet."""
        return self._clock() - min(self._heard.values(), default=self._started)

    def is_alive(self) -> bool:
        return self.age_seconds() < STALE_SECONDS

    def trace(self) -> aiohttp.TraceConfig:
        """For the session that watches: takes note of each watch that the server accepts, and of lists after that."""
        config = aiohttp.TraceConfig()
        config.on_request_end.append(self._note)
        return config

    async def _note(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, end: aiohttp.TraceRequestEndParams
    ) -> None:
        if end.response.status != 200:
            return
        if "watch" in end.url.query:
            self.beat(end.url.path)
        elif end.url.path in self._heard:
            self.gap.set()


async def wait_for_beginning(is_heard: Callable[[], bool], taken: Callable[[], int]) -> None:
    """Until all that there was when the watches began is known: whoever decides earlier decides on half of it.

    ``is_heard``: every list has been read, and its watch follows. ``taken`` counts what came out of them, which is
    handled a moment later.
    """
    while not is_heard():
        await asyncio.sleep(SETTLED_SECONDS / 5)
    before = -1
    while taken() != before:
        before = taken()
        await asyncio.sleep(SETTLED_SECONDS)
