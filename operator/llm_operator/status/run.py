"""A fine-tune's run, judged: which phase it is in, and how its conditions stand. Pure, by small checks in order.

The first check that has something to say decides. What happens next is the plan's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from llm_api.conditions import Reason
from llm_api.finetune import Attempt, FineTunePhase
from llm_api.report import FINAL_FAILURES, ExitCode, Outcome

from llm_operator.observed import ProgressReport
from llm_operator.status.attempts import has_failed, is_follower
from llm_operator.status.endings import explain_ending
from llm_operator.status.finding import Finding
from llm_operator.status.jobs import JobView
from llm_operator.status.pods import PodView
from llm_operator.status.queueing import explain_queue
from llm_operator.status.verdict import Standing

ACTIVE_PHASES = ("Preparing", "Training", "Evaluating", "Storing")
NOTHING_STORED = Standing("False", Reason.WAITING, "this run has stored nothing yet")
SAYING_LITTLE = (Reason.UNEXPECTED, Reason.STOPPED, Reason.PEER_LOST)
"""Reasons that say no more than that it didn't work."""


@dataclass(frozen=True)
class RunFacts:
    """All that a verdict depends on."""

    job: JobView | None
    pods: Sequence[PodView]
    """Of that Job, oldest first."""
    attempts: Sequence[Attempt]
    is_suspended: bool
    """The spec asks for it."""
    is_queued: bool
    """A queue decides when the Job starts."""
    queue_words: str | None
    """Why it let the Job wait when it last looked; None where it didn't say."""
    holdup: Finding | None
    """What the operator itself waits for before it starts the run."""
    obstacle: Finding | None
    """What stands in the way of the run's pods."""
    report: ProgressReport | None
    """The newest report of the run's pod that works."""
    known_phase: str | None
    """What the status says so far of this very run."""
    max_retries: int = 0
    deadline_seconds: int | None = None
    output: str = ""
    """Where the result goes."""


@dataclass(frozen=True)
class RunVerdict:
    phase: FineTunePhase
    running: Standing
    stored: Standing
    succeeded: Standing


Check = Callable[[RunFacts], RunVerdict | None]


def judge_run(facts: RunFacts) -> RunVerdict:
    for check in CHECKS:
        verdict = check(facts)
        if verdict is not None:
            return verdict
    return _not_yet("Pending", Finding(Reason.STARTING, "its pod is being started"))


def _succeeded(facts: RunFacts) -> RunVerdict | None:
    if facts.job is None or not facts.job.is_complete or _is_unseen(facts):
        return None
    place = f"stored at {facts.output}"
    return RunVerdict(
        "Succeeded",
        Standing("False", Reason.SUCCEEDED, "the run is done"),
        Standing("True", Reason.SUCCEEDED, place),
        Standing("True", Reason.SUCCEEDED, place),
    )


def _is_unseen(facts: RunFacts) -> bool:
    """Whether the end of a pod has not been seen yet, though that of its Job has: its last words are still to come."""
    return any(pod.is_running for pod in facts.pods)


def _suspended(facts: RunFacts) -> RunVerdict | None:
    if not facts.is_suspended:
        return None
    stopping = any(not pod.is_gone for pod in facts.pods)
    message = "stopping: a checkpoint is saved first" if stopping else "set run.suspend to false to go on"
    return _not_yet("Suspended", Finding(Reason.SUSPENDED, message))


def _held_up(facts: RunFacts) -> RunVerdict | None:
    if facts.holdup is None:
        return None
    return _not_yet("Suspended" if facts.holdup.reason == Reason.START_TIMEOUT else "Pending", facts.holdup)


def _failed(facts: RunFacts) -> RunVerdict | None:
    if facts.job is None or facts.job.failure is None or _is_unseen(facts):
        return None
    found = explain_failure(facts)
    standing = Standing("False", found.reason, found.message)
    stored = Standing("False", found.reason, "this run has stored nothing")
    return RunVerdict("Failed", standing, stored, standing)


def _queued(facts: RunFacts) -> RunVerdict | None:
    if facts.job is None or not facts.job.is_suspended:
        return None
    found = explain_queue(facts.pods, facts.queue_words)
    return _not_yet("Queued", found if facts.is_queued else Finding(Reason.QUEUED, "its Job is suspended"))


def _obstructed(facts: RunFacts) -> RunVerdict | None:
    return None if facts.obstacle is None else _not_yet("Pending", facts.obstacle)


def _works(facts: RunFacts) -> RunVerdict | None:
    if not any(pod.is_running for pod in facts.pods):
        return None
    return RunVerdict(
        find_phase(facts),
        Standing("True", Reason.RUNNING),
        NOTHING_STORED,
        Standing("Unknown", Reason.RUNNING, "the run is under way"),
    )


def _ends(facts: RunFacts) -> RunVerdict | None:
    """Its last pod has succeeded, and the Job's controller has yet to say the same of the Job."""
    if _last_exit_code(facts) != ExitCode.DONE:
        return None
    return RunVerdict(
        find_phase(facts),
        Standing("True", Reason.RUNNING),
        NOTHING_STORED,
        Standing("Unknown", Reason.RUNNING, "the run is about to be complete"),
    )


def _ends_for_good(facts: RunFacts) -> RunVerdict | None:
    """A pod ended in a way that is never tried again, and the Job's controller has yet to give the Job up."""
    ended = [pod for pod in facts.pods if pod.ended is not None and pod.ended.exit_code in FINAL_FAILURES]
    if not ended:
        return None
    found = explain_ending(ended[-1])
    return RunVerdict(
        find_phase(facts),
        Standing("False", found.reason, found.message),
        NOTHING_STORED,
        Standing("Unknown", Reason.RUNNING, "the run is about to be given up"),
    )


def _last_exit_code(facts: RunFacts) -> int | None:
    ended = facts.pods[-1].ended if facts.pods else None
    return None if ended is None else ended.exit_code


def _between_attempts(facts: RunFacts) -> RunVerdict | None:
    last = facts.attempts[-1] if facts.attempts else None
    if last is None or last.reason is None or last.reason == Reason.SUCCEEDED or _is_of_an_earlier_job(last, facts.job):
        return None
    return _not_yet("Pending", Finding(Reason(last.reason), f"starts again soon, after: {last.message}"))


CHECKS: tuple[Check, ...] = (
    # What is over is over, whatever the spec asks for now.
    _succeeded,
    # Suspension forgives a failure: resuming tries again.
    _suspended,
    _held_up,
    _failed,
    _queued,
    # Before "it works": of several nodes one that can't start keeps all of them waiting.
    _obstructed,
    _works,
    _ends,
    _ends_for_good,
    _between_attempts,
)


def _is_of_an_earlier_job(attempt: Attempt, job: JobView | None) -> bool:
    return job is not None and job.created_at is not None and attempt.started_at < job.created_at


def find_phase(facts: RunFacts) -> FineTunePhase:
    """As the runner says; else as it said last, before the operator was started again; else the first."""
    said = facts.known_phase if facts.report is None else facts.report.progress.phase
    return next((phase for phase in get_args(FineTunePhase) if phase == said and phase in ACTIVE_PHASES), "Preparing")


def find_outcome(pods: Sequence[PodView]) -> Outcome | None:
    """What the pod that did it said last; of several nodes the first stores."""
    done = [pod for pod in pods if pod.ended is not None and pod.index == 0]
    good = [pod.ended for pod in done if pod.ended is not None and pod.ended.exit_code == ExitCode.DONE]
    return next((ended.outcome for ended in reversed(good) if ended.outcome is not None), None)


def explain_failure(facts: RunFacts) -> Finding:
    """Why the Job was given up. A cause that has a name is the reason; else that trying again didn't help."""
    assert facts.job is not None, "only called for a Job that failed"
    failure = facts.job.failure
    assert failure is not None, "only called for a Job that failed"
    if failure.reason == "DeadlineExceeded":
        return Finding(
            Reason.DEADLINE_EXCEEDED,
            f"took longer than run.deadlineSeconds ({facts.deadline_seconds}); raise it, and the run goes on from its "
            "last checkpoint",
        )
    cause = find_cause(facts)
    if cause is None:
        return Finding(Reason.RETRIES_EXHAUSTED, f"{failure.reason}: {failure.message}")
    if failure.reason != "BackoffLimitExceeded" or facts.max_retries == 0:
        return cause
    reason = Reason.RETRIES_EXHAUSTED if cause.reason in SAYING_LITTLE else cause.reason
    tries = f"given up after {facts.max_retries + 1} attempts (run.maxRetries)"
    return Finding(reason, f"{tries}, the last: {cause.message}")


def find_cause(facts: RunFacts) -> Finding | None:
    """Of several nodes the one with the most telling end: the others only lost their partner."""
    ended = [pod for pod in facts.pods if pod.ended is not None and not is_follower(pod)]
    if ended:
        return explain_ending(max(ended, key=_how_telling))
    failed = [attempt for attempt in facts.attempts if has_failed(attempt) and attempt.reason is not None]
    return Finding(Reason(f"{failed[-1].reason}"), failed[-1].message) if failed else None


def _how_telling(pod: PodView) -> tuple[bool, float]:
    assert pod.ended is not None, "only called for pods that ended"
    return pod.ended.exit_code in FINAL_FAILURES, pod.ended.at.timestamp()


def _not_yet(phase: FineTunePhase, found: Finding) -> RunVerdict:
    return RunVerdict(
        phase,
        Standing("False", found.reason, found.message),
        NOTHING_STORED,
        Standing("Unknown", found.reason, found.message),
    )
