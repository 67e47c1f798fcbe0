"""Whether a status is worth a write: never if nothing changed, and not too often if only the progress did."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from llm_api.issues import InvalidConfig, load
from llm_api.resource import Status

AnyStatus = TypeVar("AnyStatus", bound=Status)
PROGRESS_KEYS = ("progress", "lossCurve")


@dataclass(frozen=True)
class Writing:
    status: dict[str, Any] | None
    """None: nothing is written now."""
    again_after_seconds: float | None = None
    """When it may be written, if only the time is against it."""


def read_status(model: type[AnyStatus], document: Mapping[str, Any]) -> AnyStatus:
    """The stored status; empty where there is none, or none that this version can read."""
    try:
        return load(model, document.get("status") or {})
    except InvalidConfig:
        return model()


def plan_writing(
    document: Mapping[str, Any], status: Status, written_at: datetime | None, interval_seconds: float, now: datetime
) -> Writing:
    stored = document.get("status") or {}
    new = to_manifest(status)
    if new == stored:
        return Writing(None)
    if written_at is not None and _without_progress(new) == _without_progress(stored):
        left = interval_seconds - (now - written_at).total_seconds()
        if left > 0:
            return Writing(None, left)
    return Writing(new)


def to_manifest(status: Status) -> dict[str, Any]:
    """Without what is empty, but for counts: autoscalers read a replicas of 0."""
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: value for key, value in written.items() if value not in ([], {}, "")}


def _without_progress(status: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in status.items() if key not in PROGRESS_KEYS}
