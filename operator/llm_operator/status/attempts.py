"""The starts of a run, one by one: what is known from earlier, and what its pods say now.

A pod that is gone leaves its attempt behind in the status. Of several nodes the first stands for all, and the one for
want of which it ended tells why.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from llm_api.conditions import Reason
from llm_api.finetune import MAX_ATTEMPTS, Attempt
from llm_api.report import UNCOUNTED, ExitCode

from llm_operator.observed import ProgressReport
from llm_operator.status.endings import explain_ending
from llm_operator.status.pods import PodView

MAX_MESSAGE_CHARACTERS = 1024
FOLLOWING = (Reason.STOPPED, Reason.PEER_LOST)
"""Reasons of a pod that ended because another did, or because it was asked to."""
GONE = "its pod is gone; what it said last is not known"


def merge_attempts(
    known: Sequence[Attempt], pods: Iterable[PodView], reports: Mapping[str, ProgressReport], now: datetime
) -> list[Attempt]:
    """Oldest first, at most MAX_ATTEMPTS, the newest kept."""
    pods = list(pods)
    seen = {pod.started_at: pod for pod in pods if pod.index == 0 and pod.started_at is not None}
    earlier = {attempt.started_at: attempt for attempt in known}
    merged = [_close(attempt, now) for start, attempt in earlier.items() if start not in seen]
    for start, pod in seen.items():
        attempt = to_attempt(pod, start, earlier.get(start), reports.get(pod.name))
        merged.append(_blame(attempt, earlier.get(start), find_culprit(pod, pods)))
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


def find_culprit(pod: PodView, pods: Sequence[PodView]) -> PodView | None:
    """Of several nodes' pods the one whose end made this one end, the earliest if there are more."""
    if pod.started_at is None or pod.ended is None or pod.disruption is not None or not is_follower(pod):
        return None
    partners = [
        partner
        for partner in pods
        if partner.index != pod.index
        and partner.created_at <= pod.ended.at
        and _ended_at(partner) >= pod.started_at
        and (partner.disruption is not None or (partner.ended is not None and not is_follower(partner)))
    ]
    return min(partners, key=_ended_at, default=None)


def is_follower(pod: PodView) -> bool:
    """Whether it ended because others did, or was asked to."""
    return pod.ended is not None and _is_well_or_uncounted(pod.ended.exit_code)


def _is_well_or_uncounted(code: int) -> bool:
    return code == ExitCode.DONE or code in UNCOUNTED


def _ended_at(pod: PodView) -> datetime:
    """Of one that is being ended and hasn't yet: later than any other."""
    return datetime.max.replace(tzinfo=UTC) if pod.ended is None else pod.ended.at


def _blame(attempt: Attempt, known: Attempt | None, culprit: PodView | None) -> Attempt:
    """A culprit that was seen once is remembered: its pod may be gone sooner than the first one's."""
    if culprit is None:
        is_told = known is not None and known.reason is not None and attempt.reason in FOLLOWING
        return known if known is not None and is_told else attempt
    found = explain_ending(culprit)
    message = f"pod {culprit.name} on node {culprit.node}: {found.message}"
    code = attempt.exit_code if culprit.ended is None else culprit.ended.exit_code
    return attempt.model_copy(
        update={"exit_code": code, "reason": found.reason, "message": message[:MAX_MESSAGE_CHARACTERS]}
    )


def has_failed(attempt: Attempt) -> bool:
    """Whether it ended by a fault that counts: neither well, nor stopped from outside, nor for want of another pod."""
    return attempt.exit_code is not None and not _is_well_or_uncounted(attempt.exit_code)


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
