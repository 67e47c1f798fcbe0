"""The starts of a run, one by one: what is known from earlier, and what its pods say now.

A pod that is gone leaves its attempt behind in the status. Of several nodes the first stands for all.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from llm_api.conditions import Reason
from llm_api.finetune import MAX_ATTEMPTS, Attempt
from llm_api.report import ExitCode

from llm_operator.observed import ProgressReport
from llm_operator.status.endings import explain_ending
from llm_operator.status.pods import PodView

MAX_MESSAGE_CHARACTERS = 1024
GONE = "its pod is gone; what it said last is not known"


def merge_attempts(
    known: Sequence[Attempt], pods: Iterable[PodView], reports: Mapping[str, ProgressReport], now: datetime
) -> list[Attempt]:
    """Oldest first, at most MAX_ATTEMPTS, the newest kept."""
    seen = {pod.started_at: pod for pod in pods if pod.index == 0 and pod.started_at is not None}
    earlier = {attempt.started_at: attempt for attempt in known}
    merged = [_close(attempt, now) for start, attempt in earlier.items() if start not in seen]
    merged += [to_attempt(pod, start, earlier.get(start), reports.get(pod.name)) for start, pod in seen.items()]
    return sorted(merged, key=lambda attempt: attempt.started_at)[-MAX_ATTEMPTS:]


def to_attempt(pod: PodView, started_at: datetime, known: Attempt | None, report: ProgressReport | None) -> Attempt:
    resumed = _resumed_from(pod, known, report)
    if pod.is_running or (pod.ended is None and pod.disruption is None):
        return Attempt(started_at=started_at, resumed_from_step=resumed)
    ended = pod.ended
    found = explain_ending(pod)
    return Attempt(
        started_at=started_at,
        resumed_from_step=resumed,
        ended_at=None if ended is None else ended.at,
        exit_code=None if ended is None else ended.exit_code,
        reason=found.reason,
        message=found.message[:MAX_MESSAGE_CHARACTERS],
    )


def has_failed(attempt: Attempt) -> bool:
    """Whether it ended by a fault that counts: neither well, nor stopped from outside."""
    return attempt.exit_code is not None and attempt.exit_code not in (ExitCode.DONE, ExitCode.STOPPED)


def _resumed_from(pod: PodView, known: Attempt | None, report: ProgressReport | None) -> int | None:
    outcome = None if pod.ended is None else pod.ended.outcome
    said = [
        None if outcome is None else outcome.resumed_from_step,
        None if report is None else report.progress.resumed_from_step,
        None if known is None else known.resumed_from_step,
    ]
    return next((step for step in said if step is not None), None)


def _close(attempt: Attempt, now: datetime) -> Attempt:
    if attempt.ended_at is not None:
        return attempt
    reason = Reason.STOPPED if attempt.reason is None else attempt.reason
    message = attempt.message if attempt.message else GONE
    return attempt.model_copy(update={"ended_at": now, "reason": reason, "message": message})
