"""The status of an LLMFineTune, put together from what its run was judged to be and what was known before.

Decides nothing about the run itself (``run``) and nothing about whether the status is written (``writing``).
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from llm_api.conditions import Reason
from llm_api.finetune import (
    FineTuneCondition,
    FineTuneStatus,
    LossPoint,
    ProgressStatus,
    RunStatus,
)
from llm_api.report import Outcome
from llm_api.resource import MAX_METRIC_NAME, MAX_METRICS, Artifact

from llm_operator.status.jobs import JobView
from llm_operator.status.pods import PodView
from llm_operator.status.progress import LOSS_DIGITS, extend_curve, to_progress_status
from llm_operator.status.run import RunFacts, RunVerdict, find_outcome, judge_run
from llm_operator.status.verdict import Standing, set_standings

SPEC_IS_VALID = Standing("True", Reason.VALID)


def status_of_run(
    known: FineTuneStatus, run: RunStatus, facts: RunFacts, stored: Artifact, generation: int | None, now: datetime
) -> FineTuneStatus:
    """``known`` is what the status says so far; of another run only its artifact is kept. ``stored`` is what the
    artifact will be, as far as that is known before."""
    verdict = judge_run(facts)
    same = known.run is not None and known.run.result_hash == run.result_hash
    succeeded = verdict.phase == "Succeeded"
    outcome = find_outcome(facts.pods) if succeeded else None
    return FineTuneStatus(
        observed_generation=generation,
        conditions=set_standings(known.conditions, _standings(verdict), generation, now),
        phase=verdict.phase,
        run=run,
        progress=_progress(known.progress if same else None, facts, outcome, succeeded=succeeded),
        metrics={} if outcome is None else clean_metrics(outcome.metrics),
        loss_curve=_curve(known.loss_curve if same else [], facts),
        attempts=list(facts.attempts),
        artifact=complete_artifact(stored, outcome) if succeeded else known.artifact,
    )


def status_kept(known: FineTuneStatus, generation: int | None, now: datetime) -> FineTuneStatus:
    """Of a run that ended earlier: all stays, and is true of the spec's present generation too."""
    conditions = [condition.model_copy(update={"observed_generation": generation}) for condition in known.conditions]
    valid = {FineTuneCondition.SPEC_VALID.value: SPEC_IS_VALID}
    return known.model_copy(
        update={
            "observed_generation": generation,
            "conditions": set_standings(conditions, valid, generation, now),
        }
    )


def status_restored(known: FineTuneStatus, run: RunStatus, generation: int | None, now: datetime) -> FineTuneStatus:
    """The artifact of an earlier run is what is asked for again; how that run went isn't known any more."""
    assert known.artifact is not None, "only called where there is one"
    place = f"stored at {known.artifact.uri} by an earlier run"
    done, idle = Standing("True", Reason.SUCCEEDED, place), Standing("False", Reason.SUCCEEDED, "the run is done")
    return FineTuneStatus(
        observed_generation=generation,
        conditions=set_standings(
            known.conditions, _standings(RunVerdict("Succeeded", idle, done, done)), generation, now
        ),
        phase="Succeeded",
        run=run,
        artifact=known.artifact,
    )


def status_invalid(
    known: FineTuneStatus, issues: Sequence[str], generation: int | None, now: datetime
) -> FineTuneStatus:
    """Nothing is started. A run of an earlier spec is left alone, and what was said of it stays."""
    standing = Standing("False", Reason.INVALID, "\n".join(issues))
    standings = {FineTuneCondition.SPEC_VALID.value: standing}
    if known.run is None:
        said = Standing("False", Reason.INVALID, "the spec is not valid: see SpecValid")
        standings |= {kind.value: said for kind in FineTuneCondition if kind not in standings}
    return known.model_copy(
        update={
            "observed_generation": generation,
            "conditions": set_standings(known.conditions, standings, generation, now),
            "phase": "Failed" if known.run is None else known.phase,
        }
    )


def complete_artifact(stored: Artifact, outcome: Outcome | None) -> Artifact:
    """With what the runner said of it, if its pod could still be asked."""
    if outcome is None:
        return stored
    said = {"digest": outcome.artifact_digest, "size_bytes": outcome.artifact_size_bytes}
    return stored.model_copy(update=said)


def find_earlier_artifact(
    known: Artifact | None, jobs: Sequence[JobView], pods: Sequence[PodView], result_label: str, output_annotation: str
) -> Artifact | None:
    """What a superseded run stored while nobody looked, as when the operator was down.

    Its pods call the place by the path at which they found it; its Job says where that is.
    """
    complete = sorted((job for job in jobs if job.is_complete), key=lambda job: str(job.completed_at))
    for job in reversed(complete):
        outcome = find_outcome([pod for pod in pods if pod.job == job.name])
        if outcome is None or outcome.artifact_uri is None:
            continue
        if known is None or known.digest != outcome.artifact_digest:
            place = job.annotations.get(output_annotation, outcome.artifact_uri)
            stored = Artifact(uri=place, result_hash=job.labels.get(result_label))
            return complete_artifact(stored, outcome)
    return known


def clean_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """What JSON and the schema can hold."""
    good = {name: value for name, value in metrics.items() if math.isfinite(value) and len(name) <= MAX_METRIC_NAME}
    return dict(list(good.items())[:MAX_METRICS])


def _standings(verdict: RunVerdict) -> dict[str, Standing]:
    return {
        FineTuneCondition.SPEC_VALID.value: SPEC_IS_VALID,
        FineTuneCondition.RUNNING.value: verdict.running,
        FineTuneCondition.ARTIFACTS_STORED.value: verdict.stored,
        FineTuneCondition.SUCCEEDED.value: verdict.succeeded,
    }


def _progress(
    known: ProgressStatus | None, facts: RunFacts, outcome: Outcome | None, *, succeeded: bool
) -> ProgressStatus | None:
    """Of a run that is done all of it, also where its pod went before it could be asked."""
    if outcome is None and succeeded and known is not None:
        return known.model_copy(update={"step": known.of, "percent": "100%", "eta": None})
    if outcome is not None:
        shown = ProgressStatus() if known is None else known
        loss = outcome.metrics.get("train.loss")
        loss = shown.loss if loss is None or not math.isfinite(loss) else round(loss, LOSS_DIGITS)
        done = {"step": outcome.last_step, "of": outcome.last_step, "percent": "100%", "loss": loss, "eta": None}
        return shown.model_copy(update=done)
    return known if facts.report is None else to_progress_status(facts.report.progress)


def _curve(known: list[LossPoint], facts: RunFacts) -> list[LossPoint]:
    return known if facts.report is None else extend_curve(known, facts.report.progress)
