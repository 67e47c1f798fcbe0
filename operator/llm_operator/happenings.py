"""Warnings that Kubernetes recorded about pods, Jobs and Deployments: often the only place that says why none starts.

Bounded, since other people's warnings come by as well; whose they are shows only when the object is known.
"""

from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

from llm_operator.observed import ClusterEvent, Manifest
from llm_operator.store import ObjectId

MAX_OBJECTS = 5_000
MAX_REASONS = 16
"""Different reasons that are remembered of one object."""
KUEUE_GROUP = "kueue.x-k8s.io/"
KINDS = frozenset({"Pod", "Job", "Deployment", "HorizontalPodAutoscaler"})


class Happenings:
    """By object, the newest of each reason."""

    def __init__(self) -> None:
        self._by_object: OrderedDict[ObjectId, dict[str, ClusterEvent]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_object)

    def put(self, manifest: Manifest) -> ObjectId | None:
        """The object that it is about; None if it is of no interest or not new."""
        about = _about(manifest)
        if about is None:
            return None
        event = _to_event(about, manifest)
        events = self._by_object.setdefault(about, {})
        self._by_object.move_to_end(about)
        if events.get(event.reason) == event:
            return None
        events.pop(event.reason, None)
        events[event.reason] = event
        _shorten(events, MAX_REASONS)
        _shorten(self._by_object, MAX_OBJECTS)
        return about

    def forget(self, about: ObjectId) -> None:
        self._by_object.pop(about, None)

    def about(self, id_: ObjectId) -> list[ClusterEvent]:
        """The earliest first."""
        return sorted(self._by_object.get(id_, {}).values(), key=lambda event: event.last_seen_at)


def _shorten(entries: dict[Any, Any], most: int) -> None:
    while len(entries) > most:
        del entries[next(iter(entries))]


def _about(manifest: Manifest) -> ObjectId | None:
    about = manifest.get("involvedObject", {})
    if "namespace" not in about:
        return None
    job = _queued_job(about)
    if job is None and about.get("kind") not in KINDS:
        return None
    return ObjectId(about["kind"] if job is None else "Job", about["namespace"], about["name"] if job is None else job)


def _queued_job(about: Manifest) -> str | None:
    """The Job that a Workload of Kueue's stands for, by its name: job-JOB-HASH.

    https://kueue.sigs.k8s.io/docs/tasks/troubleshooting/troubleshooting_jobs/#identifying-the-workload-for-your-job
    """
    if about.get("kind") != "Workload" or not str(about.get("apiVersion", "")).startswith(KUEUE_GROUP):
        return None
    kind, _, rest = str(about["name"]).partition("-")
    return rest.rpartition("-")[0] if kind == "job" else None


def _to_event(about: ObjectId, manifest: Manifest) -> ClusterEvent:
    return ClusterEvent(
        kind=about.kind,
        name=about.name,
        reason=manifest.get("reason") or "",
        message=manifest.get("message") or "",
        last_seen_at=_last_seen(manifest),
    )


def _last_seen(manifest: Manifest) -> datetime:
    """Old and new recorders fill in different fields."""
    series = manifest.get("series") or {}
    times = (series.get("lastObservedTime"), manifest.get("lastTimestamp"), manifest.get("eventTime"))
    known = [time for time in (*times, manifest["metadata"].get("creationTimestamp")) if time is not None]
    return datetime.fromisoformat(known[0]) if known else datetime.now(UTC)
