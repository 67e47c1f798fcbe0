"""The slow round: finds what the watches missed, and has every resource looked at again.

A watch that was cut off for long lists anew what there is, but does not say what has gone meanwhile. That is looked for
at once, and in every round, as nothing else would find it.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from llm_operator.errors import ClusterError
from llm_operator.feed import Feed
from llm_operator.observed import Manifest
from llm_operator.store import ObjectId, ResourceKey
from llm_operator.watched import OBJECTS, WatchedKind
from llm_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

GAP_SECONDS = 2.0
"""What cuts one watch off mostly cuts off the others too, a moment sooner or later."""


class Listing(Protocol):
    """What is needed of the cluster."""

    def list_metadata(
        self, api_version: str, kind: str, namespace: str | None, label_selector: str | None
    ) -> AsyncIterator[Manifest]: ...


class Resync:
    """Rounds of ``seconds``; ``namespaces`` holds None where all are watched."""

    def __init__(
        self,
        listing: Listing,
        feed: Feed,
        queue: WorkQueue[ResourceKey],
        namespaces: Sequence[str | None],
        seconds: float,
        gap_seconds: float = GAP_SECONDS,
    ) -> None:
        self._listing = listing
        self._feed = feed
        self._queue = queue
        self._namespaces = namespaces
        self._seconds = seconds
        self._gap_seconds = gap_seconds

    async def run(self) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(self._seconds * random.uniform(0.9, 1.1))
            await self.round()

    async def follow(self, gap: asyncio.Event) -> None:
        """Never returns; looks for what has gone whenever ``gap`` was set."""
        while True:
            await gap.wait()
            await asyncio.sleep(self._gap_seconds)
            gap.clear()
            await self._drop_all_vanished()

    async def round(self) -> None:
        await self._drop_all_vanished()
        for key in self._feed.store.resources():
            # All at once would be a wave of work every few minutes.
            self._queue.add_later(key, random.uniform(0, self._seconds / 2), unhurried=True)

    async def _drop_all_vanished(self) -> None:
        for kind in OBJECTS:
            try:
                await self._drop_vanished(kind)
            except ClusterError as error:
                logger.warning("%s can't be compared with the cluster now: %s", kind.plural, error)

    async def _drop_vanished(self, kind: WatchedKind) -> None:
        # What comes after this line may be missing from the list, and is not looked for in it.
        known = self._feed.store.identities(kind.kind)
        there: set[tuple[ObjectId, str]] = set()
        for namespace in self._namespaces:
            async for metadata in self._listing.list_metadata(
                kind.api_version, kind.kind, namespace, kind.label_selector
            ):
                there.add((ObjectId(kind.kind, metadata["namespace"], metadata["name"]), metadata["uid"]))
        for id_, uid in known.items():
            if (id_, uid) not in there:
                logger.info("%s %s/%s went unseen", *id_)
                self._feed.lose(id_, uid)
