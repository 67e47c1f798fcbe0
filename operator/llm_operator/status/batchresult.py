"""What came of a batch, and how far it is while it runs: from its shards' pods, each shard counted once. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llm_api.inference import BatchProgress, InferenceStatus
from llm_api.report import ExitCode, Outcome, Progress
from llm_api.resource import Artifact

from llm_operator.observed import ProgressReport
from llm_operator.status.durations import format_seconds
from llm_operator.status.finetune import clean_metrics, complete_artifact
from llm_operator.status.jobs import JobView
from llm_operator.status.pods import PodView


@dataclass(frozen=True)
class BatchResult:
    """As a status shows it."""

    progress: BatchProgress
    output: Artifact
    metrics: Mapping[str, float] = field(default_factory=dict)


def find_result(pods: Sequence[PodView], stored: Artifact, shards: int) -> BatchResult | None:
    """What the shard that put all of them together said; None where no pod says it (any more).

    ``stored``: where the output is and what it depends on.
    """
    merged = _find_merged(pods)
    if merged is None:
        return None
    progress = BatchProgress(
        rows=merged.last_step,
        of=merged.last_step,
        percent="100%",
        failed_rows=int(merged.metrics.get("failed_rows", 0)),
        shards_succeeded=shards,
    )
    return BatchResult(progress, complete_artifact(stored, merged), clean_metrics(merged.metrics))


def find_known_result(known: InferenceStatus, result_hash: str) -> BatchResult | None:
    """What was said before of a batch that is over, if it gave what is asked for."""
    if known.output is None or known.output.result_hash != result_hash or known.progress is None:
        return None
    return BatchResult(known.progress, known.output, known.metrics)


def build_batch_progress(
    job: JobView | None, pods: Sequence[PodView], reports: Mapping[str, ProgressReport]
) -> BatchProgress:
    """Rows of the shards that have said something; those that haven't may still be starting."""
    succeeded = 0 if job is None else job.succeeded
    if (merged := _find_merged(pods)) is not None:
        # That shard counts the rows of all of them.
        rows = merged.last_step
        return BatchProgress(rows=rows, of=rows, percent="100%", shards_succeeded=succeeded)
    shown = dict(_said(pods, reports)).values()
    rows, of = sum(progress.step for progress in shown), sum(progress.of for progress in shown)
    etas = [progress.eta_seconds for progress in shown if progress.eta_seconds is not None]
    return BatchProgress(
        rows=rows,
        of=of,
        percent=f"{100 * rows // of}%" if of > 0 else None,
        shards_succeeded=succeeded,
        eta=format_seconds(max(etas)) if etas else None,
    )


def _said(pods: Sequence[PodView], reports: Mapping[str, ProgressReport]) -> Iterator[tuple[int, Progress]]:
    """By shard; of one that was started again the newest comes last, which knows of the rows kept before it."""
    for pod in pods:
        outcome = None if pod.ended is None else pod.ended.outcome
        if outcome is not None and pod.ended is not None and pod.ended.exit_code == ExitCode.DONE:
            yield pod.index, Progress(phase="Predicting", step=outcome.last_step, of=outcome.last_step)
        elif pod.name in reports:
            yield pod.index, reports[pod.name].progress


def _find_merged(pods: Sequence[PodView]) -> Outcome | None:
    """Only the one that stored all of them names an artifact."""
    good = [pod.ended.outcome for pod in pods if pod.ended is not None and pod.ended.exit_code == ExitCode.DONE]
    return next((said for said in reversed(good) if said is not None and said.artifact_uri is not None), None)
