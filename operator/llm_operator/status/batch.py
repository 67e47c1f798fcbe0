"""A batch, judged: which phase it is in, how far it is, and how its conditions stand. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_api.conditions import Reason
from llm_api.inference import InferencePhase

from llm_operator.observed import ProgressReport
from llm_operator.status.attempts import is_follower
from llm_operator.status.batchresult import BatchResult
from llm_operator.status.endings import explain_ending
from llm_operator.status.finding import Finding
from llm_operator.status.jobs import JobView
from llm_operator.status.pods import PodView
from llm_operator.status.queueing import explain_queue
from llm_operator.status.verdict import Standing


@dataclass(frozen=True)
class BatchFacts:
    job: JobView | None
    pods: Sequence[PodView]
    shards: int
    unresolved: Finding | None
    """Why there is no model; None where there is one."""
    holdup: Finding | None
    """What the operator itself waits for before it starts the batch."""
    obstacle: Finding | None
    is_queued: bool
    """A queue decides when the Job starts."""
    queue_words: str | None
    """Why it let the Job wait when it last looked; None where it didn't say."""
    reports: Mapping[str, ProgressReport]
    result: BatchResult | None = None
    """What came of it, once it is over and somebody has said so."""
    is_kept: bool = False
    """It was over before, and its Job has been cleared away since."""


@dataclass(frozen=True)
class BatchVerdict:
    phase: InferencePhase
    complete: Standing


def judge_batch(facts: BatchFacts) -> BatchVerdict:
    job = facts.job
    if _is_over(facts):
        return BatchVerdict("Succeeded", Standing("True", Reason.SUCCEEDED, _describe_result(facts.result)))
    if facts.holdup is not None:
        return _not_yet("Pending", facts.holdup)
    if job is None and facts.unresolved is not None:
        return _not_yet("WaitingForModel", facts.unresolved)
    if job is not None and job.failure is not None:
        found = explain_failure(facts, job)
        return BatchVerdict("Failed", Standing("False", found.reason, found.message))
    return _judge_under_way(facts)


def _is_over(facts: BatchFacts) -> bool:
    """Also the end of its pods was seen: the last words of one of them are what came of it."""
    if facts.is_kept:
        return True
    return facts.job is not None and facts.job.is_complete and not any(pod.is_running for pod in facts.pods)


def _describe_result(result: BatchResult | None) -> str:
    if result is None:
        return "all shards are done"
    progress, place = result.progress, f"stored at {result.output.uri}"
    if progress.failed_rows == 0:
        return f"all {progress.of} rows are answered; {place}"
    answered = progress.of - progress.failed_rows
    return f"{answered} of {progress.of} rows are answered, and the error column of the others says why; {place}"


def _judge_under_way(facts: BatchFacts) -> BatchVerdict:
    if facts.job is not None and facts.job.is_suspended:
        if facts.is_queued:
            return _not_yet("Queued", explain_queue(facts.pods, facts.queue_words))
        return _not_yet("Suspended", Finding(Reason.SUSPENDED, "its Job is suspended"))
    if any(pod.is_running for pod in facts.pods):
        message = _describe_shards(facts)
        if facts.obstacle is not None:
            message = f"{message}; {facts.obstacle.message}"
        return BatchVerdict("Running", Standing("Unknown", Reason.RUNNING, message))
    if facts.obstacle is not None:
        return _not_yet("Starting", facts.obstacle)
    if any(pod.ended is not None for pod in facts.pods):
        return BatchVerdict("Running", Standing("Unknown", Reason.RUNNING, _describe_shards(facts)))
    return _not_yet("Starting", Finding(Reason.STARTING, "its pods are being started"))


def _describe_shards(facts: BatchFacts) -> str:
    done = f"{succeeded_shards(facts.job)} of {facts.shards} shards are done"
    failed = () if facts.job is None else facts.job.failed_indexes
    found = explain_shard(facts, failed) if failed else None
    return done if found is None else f"{done}; {describe_failed(failed)}, the others go on; {found.message}"


def explain_failure(facts: BatchFacts, job: JobView) -> Finding:
    """Why not all shards could be answered, and what is left of those that could."""
    failed, failure = job.failed_indexes, job.failure
    found = explain_shard(facts, failed)
    if found is None:
        return Finding(Reason.RETRIES_EXHAUSTED, "" if failure is None else f"{failure.reason}: {failure.message}")
    if not failed:
        return found
    advice = f"mend that and delete Job {job.name}: what is answered is kept for the same rows, model and config"
    return Finding(found.reason, f"{describe_failed(failed)}; {found.message}; {advice}")


def explain_shard(facts: BatchFacts, failed: Sequence[int]) -> Finding | None:
    """The newest end that was neither good nor from outside, of a shard that was given up if there is one."""
    ended = [pod for pod in facts.pods if pod.ended is not None and not is_follower(pod)]
    last = max(ended, key=lambda pod: (pod.index in failed, pod.created_at), default=None)
    if last is None:
        return None
    found = explain_ending(last)
    return Finding(found.reason, f"shard {last.index}: {found.message}")


def describe_failed(failed: Sequence[int]) -> str:
    return f"{'shard' if len(failed) == 1 else 'shards'} {', '.join(map(str, failed))} failed"


def succeeded_shards(job: JobView | None) -> int:
    return 0 if job is None else job.succeeded


def _not_yet(phase: InferencePhase, found: Finding) -> BatchVerdict:
    return BatchVerdict(phase, Standing("Unknown", found.reason, found.message))
