"""Events about a resource, worked out from its status before and after: each change is told once. Pure."""

from collections.abc import Iterator, Sequence
from typing import Literal

from llm_api.conditions import Condition, Reason, find_condition
from llm_api.finetune import Attempt, FineTuneCondition, FineTuneStatus
from llm_api.inference import InferenceCondition, InferenceStatus
from llm_api.report import FINAL_FAILURES

from llm_operator.reconcile.plan import EventNote
from llm_operator.status.attempts import has_failed

MAX_EVENT_CHARACTERS = 1000
"""The API server takes 1024."""
QUIET_REASONS = {
    Reason.VALID,
    Reason.WAITING,
    Reason.SUSPENDED,
    Reason.QUEUED,
    Reason.STARTING,
    Reason.RUNNING,
    Reason.SUCCEEDED,
    Reason.STOPPED,
    Reason.PEER_LOST,
    Reason.FINE_TUNE_NOT_FINISHED,
}
"""Reasons that nobody has to do anything about."""


def announce_fine_tune(old: FineTuneStatus, new: FineTuneStatus) -> tuple[EventNote, ...]:
    conditions = FineTuneCondition
    notes = [*_phase_note(old.phase, new.phase, find_condition(new.conditions, conditions.RUNNING))]
    notes += _fault_note(old.conditions, new.conditions, conditions.SPEC_VALID)
    notes += _fault_note(old.conditions, new.conditions, conditions.RUNNING)
    if new.phase != "Failed":
        notes += _attempt_notes(old.attempts, new.attempts)
    return tuple(notes)


def announce_inference(old: InferenceStatus, new: InferenceStatus) -> tuple[EventNote, ...]:
    conditions = InferenceCondition
    telling = (find_condition(new.conditions, kind) for kind in (conditions.READY, conditions.COMPLETE))
    notes = [*_phase_note(old.phase, new.phase, next(filter(None, telling), None))]
    for kind in (conditions.SPEC_VALID, conditions.MODEL_READY, conditions.AVAILABLE, conditions.COMPLETE):
        notes += _fault_note(old.conditions, new.conditions, kind)
    return tuple(notes)


def _phase_note(old: str | None, new: str | None, condition: Condition | None) -> Iterator[EventNote]:
    """A failure is told by what is wrong, not by the phase."""
    if new is None or new in (old, "Failed"):
        return
    message = condition.message if condition is not None and condition.message else f"phase is {new}"
    yield _note("Normal", new, message)


def _fault_note(old: Sequence[Condition], new: Sequence[Condition], type_: str) -> Iterator[EventNote]:
    before, after = find_condition(old, type_), find_condition(new, type_)
    if after is None or after.status != "False" or after.reason in QUIET_REASONS:
        return
    if before is not None and (before.status, before.reason) == (after.status, after.reason):
        return
    yield _note("Warning", after.reason, after.message)


def _attempt_notes(old: Sequence[Attempt], new: Sequence[Attempt]) -> Iterator[EventNote]:
    """Of those that others follow."""
    told = {attempt.started_at for attempt in old if has_failed(attempt)}
    for attempt in new:
        if has_failed(attempt) and attempt.exit_code not in FINAL_FAILURES and attempt.started_at not in told:
            yield _note("Warning", "AttemptFailed", f"{attempt.reason}: {attempt.message}")


def _note(type_: Literal["Normal", "Warning"], reason: str, message: str) -> EventNote:
    kept = message if len(message) <= MAX_EVENT_CHARACTERS else message[: MAX_EVENT_CHARACTERS - 2] + " …"
    return EventNote(type_, reason, kept)
