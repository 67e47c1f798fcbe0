"""The status of an LLMInference, put together from what its servers or its batch were judged to be."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from llm_api.conditions import Condition, Reason
from llm_api.inference import InferenceCondition, InferenceStatus
from llm_api.resource import Artifact

from llm_operator.status.batch import BatchFacts, judge_batch, succeeded_shards
from llm_operator.status.batchresult import build_batch_progress
from llm_operator.status.finding import Finding
from llm_operator.status.serving import ServingFacts, judge_serving
from llm_operator.status.verdict import Standing, set_standings

SPEC_IS_VALID = Standing("True", Reason.VALID)
SERVING_ONLY = {InferenceCondition.AVAILABLE.value, InferenceCondition.READY.value}
BATCH_ONLY = {InferenceCondition.COMPLETE.value}


def status_of_serving(
    known: InferenceStatus,
    facts: ServingFacts,
    model: tuple[str, Artifact | None] | None,
    endpoint: tuple[str, str],
    generation: int | None,
    now: datetime,
) -> InferenceStatus:
    """``model``: label and artifact, None while unknown. ``endpoint``: address, and selector of the servers' pods."""
    verdict, deployment = judge_serving(facts), facts.deployment
    standings = {
        InferenceCondition.AVAILABLE.value: verdict.available,
        InferenceCondition.READY.value: verdict.ready,
    }
    label, artifact = (known.model, known.artifact) if model is None else model
    return InferenceStatus(
        observed_generation=generation,
        conditions=_conditions(_without(known.conditions, BATCH_ONLY), standings, facts.unresolved, generation, now),
        phase=verdict.phase,
        model=label,
        replicas=0 if deployment is None else deployment.replicas,
        ready_replicas=0 if deployment is None else deployment.ready,
        ready=None if deployment is None else f"{deployment.ready}/{deployment.wanted}",
        url=endpoint[0],
        selector=endpoint[1],
        artifact=artifact,
    )


def status_of_batch(
    known: InferenceStatus,
    facts: BatchFacts,
    model: tuple[str, Artifact | None] | None,
    generation: int | None,
    now: datetime,
) -> InferenceStatus:
    """A batch keeps the model that it was started with."""
    verdict = judge_batch(facts)
    standings = {InferenceCondition.COMPLETE.value: verdict.complete}
    keeps = model is None or ((facts.job is not None or facts.is_kept) and known.model is not None)
    label, artifact = (known.model, known.artifact) if keeps or model is None else model
    result = facts.result if verdict.phase == "Succeeded" else None
    progress = None if facts.job is None else build_batch_progress(facts.job, facts.pods, facts.reports)
    done = facts.shards if verdict.phase == "Succeeded" else succeeded_shards(facts.job)
    return InferenceStatus(
        observed_generation=generation,
        conditions=_conditions(_without(known.conditions, SERVING_ONLY), standings, facts.unresolved, generation, now),
        phase=verdict.phase,
        model=label,
        ready=f"{done}/{facts.shards}",
        artifact=artifact,
        progress=progress if result is None else result.progress,
        metrics={} if result is None else dict(result.metrics),
        output=None if result is None else result.output,
    )


def status_invalid(
    known: InferenceStatus, issues: Sequence[str], generation: int | None, now: datetime
) -> InferenceStatus:
    """Nothing is started; servers of an earlier spec are left alone, and what was said of them stays."""
    standings = {InferenceCondition.SPEC_VALID.value: Standing("False", Reason.INVALID, "\n".join(issues))}
    is_new = known.phase is None or known.phase == "Failed"
    if is_new:
        said = Standing("False", Reason.INVALID, "the spec is not valid: see SpecValid")
        standings[InferenceCondition.READY.value] = said
    return known.model_copy(
        update={
            "observed_generation": generation,
            "conditions": set_standings(known.conditions, standings, generation, now),
            "phase": "Failed" if is_new else known.phase,
        }
    )


def _conditions(
    known: Sequence[Condition],
    standings: Mapping[str, Standing],
    unresolved: Finding | None,
    generation: int | None,
    now: datetime,
) -> list[Condition]:
    model_ready = Standing("True", Reason.SUCCEEDED)
    if unresolved is not None:
        model_ready = Standing("False", unresolved.reason, unresolved.message)
    first = {InferenceCondition.SPEC_VALID.value: SPEC_IS_VALID, InferenceCondition.MODEL_READY.value: model_ready}
    return set_standings(known, {**first, **standings}, generation, now)


def _without(conditions: Sequence[Condition], types: set[str]) -> list[Condition]:
    return [condition for condition in conditions if condition.type not in types]
