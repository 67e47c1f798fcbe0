"""When a run has ended, and what it took: read off the change from one status to the next, so each run counts once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llm_operator.observed import Manifest
from llm_operator.store import ResourceKey

ENDED = frozenset({"Succeeded", "Failed"})
_VERDICTS = ("Succeeded", "Complete", "SpecValid")
"""Conditions that say why a run ended, the most telling first."""


@dataclass(frozen=True)
class Outcome:
    """One run that has just ended."""

    kind: str
    namespace: str
    reason: str
    duration_seconds: float | None
    """From the first attempt's start to the last one's end; None where no attempt is known."""
    accelerator: str | None
    accelerator_seconds: float
    """Accelerators asked for, over all nodes, times how long its attempts ran."""


def to_outcome(key: ResourceKey, document: Manifest, status: Mapping[str, Any]) -> Outcome | None:
    """The run that ``status`` says has ended and ``document``'s own status didn't; None if there is none."""
    before = document.get("status") or {}
    if status.get("phase") not in ENDED or (before.get("phase") in ENDED and _run(before) == _run(status)):
        return None
    spans = _spans(status.get("attempts", ()))
    resource, count = _accelerators(document["spec"])
    busy_seconds = sum((end - start).total_seconds() for start, end in spans)
    whole_seconds = (spans[-1][1] - spans[0][0]).total_seconds() if spans else None
    return Outcome(key.kind, key.namespace, _reason(status), whole_seconds, resource, count * busy_seconds)


def _run(status: Mapping[str, Any]) -> str | None:
    name: str | None = (status.get("run") or {}).get("name")
    return name


def _reason(status: Mapping[str, Any]) -> str:
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    said: str = next((conditions[type_]["reason"] for type_ in _VERDICTS if type_ in conditions), "Unexpected")
    return said


def _spans(attempts: Sequence[Mapping[str, Any]]) -> list[tuple[datetime, datetime]]:
    return [
        (datetime.fromisoformat(attempt["startedAt"]), datetime.fromisoformat(attempt["endedAt"]))
        for attempt in attempts
        if "startedAt" in attempt and "endedAt" in attempt
    ]


def _accelerators(spec: Mapping[str, Any]) -> tuple[str | None, int]:
    compute = spec.get("compute") or {}
    accelerators = compute.get("accelerators")
    if not accelerators:
        return None, 0
    return accelerators.get("resource", "nvidia.com/gpu"), accelerators.get("count", 0) * compute.get("nodes", 1)
