"""kopf's part: it watches, and hands over what it sees. Nothing is decided here and nothing of kopf goes any further.

Only raw events are handled: kopf's other handlers keep their state in annotations of the user's objects, and its timers
and daemons need finalizers, which hold a namespace up when the operator is away.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import kopf

from llm_operator.feed import Feed
from llm_operator.health import INACTIVE_SECONDS, WATCH_SECONDS
from llm_operator.watched import ALL, EVENTS, OBJECTS


class NoMemory(kopf.DiffBaseStorage):
    """kopf copies each object it sees, to compare it with what its other handlers have seen; there are none."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        return


def build_settings() -> kopf.OperatorSettings:
    """A watcher of known kinds that writes nothing."""
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = NoMemory()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.queueing.idle_timeout = 0.1
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.inactivity_timeout = INACTIVE_SECONDS
    settings.watching.chunk_size = 500
    settings.networking.connect_timeout = 5
    # An API server that comes back is noticed within seconds; one that is away for long is waited for.
    settings.networking.error_backoffs = (1, 1, 2, 3, *(5,) * 60)
    for kind in ALL:
        if kind.label_selector is not None:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.label_selector
        if kind.field_selector is not None:
            settings.watching.field_selectors[kind.group, kind.version, kind.plural] = kind.field_selector
    return settings


def build_registry(
    feed: Feed, login: Callable[..., Awaitable[kopf.AiohttpSession]], stop: Callable[[], Awaitable[None]]
) -> kopf.OperatorRegistry:
    """``login`` opens the session that watches; ``stop`` is awaited when the operator ends."""
    registry = kopf.OperatorRegistry()
    for kind in OBJECTS:
        kopf.on.event(kind.group, kind.version, kind.plural, id=f"see-{kind.plural}", registry=registry)(_see(feed))
    kopf.on.event("", EVENTS.version, EVENTS.plural, id="see-events", registry=registry)(_see_warning(feed))
    kopf.on.login(id="login", registry=registry)(login)
    kopf.on.cleanup(id="stop", registry=registry)(_stop(stop))
    return registry


def _see(feed: Feed) -> Callable[..., Awaitable[None]]:
    async def see(event: kopf.RawEvent, **_: Any) -> None:
        feed.take(event)

    return see


def _see_warning(feed: Feed) -> Callable[..., Awaitable[None]]:
    async def see_warning(event: kopf.RawEvent, **_: Any) -> None:
        feed.take_warning(event)

    return see_warning


def _stop(stop: Callable[[], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def end(**_: Any) -> None:
        await stop()

    return end
