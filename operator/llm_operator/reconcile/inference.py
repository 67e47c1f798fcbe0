"""What is to be done about one LLMInference: from what was observed of it to a plan. Pure; the clock is handed in.

First the model is resolved, then servers or a batch are planned (``serving``, ``batch``); the status follows from both.
"""

from dataclasses import replace
from datetime import datetime
from functools import partial

from llm_api.inference import Batch, InferenceStatus, LLMInference
from llm_api.issues import InvalidConfig
from llm_api.resource import Artifact

from llm_operator.build.batch import PREDICT
from llm_operator.build.deployment import SERVE, build_selector
from llm_operator.build.inferencerun import batch_name, batch_result
from llm_operator.build.model import ResolvedModel
from llm_operator.build.names import QUEUE_LABEL
from llm_operator.build.service import endpoint_url
from llm_operator.build.volumes import address_of_output
from llm_operator.observed import ObservedInference
from llm_operator.reconcile.announce import announce_inference
from llm_operator.reconcile.batch import BatchStep, delete_job, plan_batch
from llm_operator.reconcile.loading import load_possible
from llm_operator.reconcile.modelsource import resolve_model
from llm_operator.reconcile.plan import Plan
from llm_operator.reconcile.serving import build_servers, find_deployment, find_spare, plan_servers
from llm_operator.reconcile.situation import has_component
from llm_operator.reconcile.spare import find_spare_objects
from llm_operator.reconcile.telling import add_status
from llm_operator.settings import Settings
from llm_operator.status.batch import BatchFacts
from llm_operator.status.batchresult import BatchResult, find_known_result, find_result
from llm_operator.status.finding import Finding
from llm_operator.status.inference import status_invalid, status_of_batch, status_of_serving
from llm_operator.status.jobs import view_job
from llm_operator.status.obstacles import explain_refusal, explain_refused, find_obstacle
from llm_operator.status.pods import PodView, view_pods
from llm_operator.status.queueing import find_queue_words
from llm_operator.status.serving import ServingFacts
from llm_operator.status.writing import read_status

SERVING_PHASES = ("Serving", "Degraded")


def plan_inference(observed: ObservedInference, settings: Settings, now: datetime) -> Plan:
    """Idempotent: carried out, and observed again, the same plan comes out empty."""
    now = now.replace(microsecond=0)
    document = observed.document
    if document["metadata"].get("deletionTimestamp") is not None:
        return Plan()  # all that there is goes with its owner
    known = read_status(InferenceStatus, document)
    try:
        resource = load_possible(document)
    except InvalidConfig as error:
        issues = [str(issue) for issue in error.issues]
        status = status_invalid(known, issues, document["metadata"].get("generation"), now)
        return add_status(Plan(), observed, status, partial(announce_inference, known, status), settings, now)
    assert isinstance(resource, LLMInference), "only LLMInferences are observed as such"
    model = resolve_model(resource, observed.fine_tune)
    plan, status = plan_work(resource, model, observed, known, settings, now)
    return add_status(plan, observed, status, partial(announce_inference, known, status), settings, now)


def plan_work(
    resource: LLMInference,
    model: ResolvedModel | Finding,
    observed: ObservedInference,
    known: InferenceStatus,
    settings: Settings,
    now: datetime,
) -> tuple[Plan, InferenceStatus]:
    if resource.spec.serve is not None:
        return plan_serving(resource, model, observed, known, settings, now)
    return plan_predicting(resource, model, observed, known, settings, now)


def plan_serving(
    resource: LLMInference,
    model: ResolvedModel | Finding,
    observed: ObservedInference,
    known: InferenceStatus,
    settings: Settings,
    now: datetime,
) -> tuple[Plan, InferenceStatus]:
    serve = resource.spec.serve
    assert serve is not None, "only called for an endpoint"
    jobs = [view_job(job) for job in observed.jobs if has_component(job, PREDICT)]
    spare = find_spare_objects(observed, PREDICT, ())
    plan = Plan(delete=spare + tuple(delete_job(job) for job in jobs if not job.is_going))
    if isinstance(model, ResolvedModel):
        before = find_spare(resource, observed, build_servers(resource, serve, model, settings))
        apply = plan_servers(resource, serve, model, observed, settings)
        plan = replace(plan, delete=plan.delete + before, apply=apply)
    deployment = find_deployment(observed, resource)
    if deployment is not None and any(manifest["kind"] == "Deployment" for manifest in plan.apply):
        # Its controller has yet to hear of it, so what it says is of the servers of before.
        deployment = replace(deployment, is_settled=False)
    pods = view_pods(pod for pod in observed.pods if has_component(pod, SERVE))
    facts = ServingFacts(
        deployment=deployment,
        unresolved=model if isinstance(model, Finding) else None,
        obstacle=find_obstruction(observed, pods, None if deployment is None else deployment.failure, now),
        was_serving=known.phase in SERVING_PHASES,
        refused=explain_refused(observed.refusals[0]) if observed.refusals else None,
    )
    selector = ",".join(f"{key}={value}" for key, value in sorted(build_selector(resource).items()))
    endpoint = (endpoint_url(resource), selector)
    generation = resource.metadata.generation
    return plan, status_of_serving(known, facts, describe_model(model), endpoint, generation, now)


def plan_predicting(
    resource: LLMInference,
    model: ResolvedModel | Finding,
    observed: ObservedInference,
    known: InferenceStatus,
    settings: Settings,
    now: datetime,
) -> tuple[Plan, InferenceStatus]:
    batch = resource.spec.batch
    assert batch is not None, "a rule of InferenceSpec: exactly one of serve and batch"
    resolved = None if isinstance(model, Finding) else model
    before = find_known_result(known, batch_result(resource))
    step = plan_batch(resource, batch, resolved, observed, settings, is_answered=before is not None)
    facts = gather_batch_facts(resource, batch, model, observed, step, before, now)
    kept = {batch_name(resource)} if step.job is None else {batch_name(resource), step.job.name}
    spare = find_spare(resource, observed, ()) + find_spare_objects(observed, PREDICT, kept)
    plan = Plan(delete=spare + step.delete, apply=step.apply)
    return plan, status_of_batch(known, facts, describe_model(model), resource.metadata.generation, now)


def gather_batch_facts(
    resource: LLMInference,
    batch: Batch,
    model: ResolvedModel | Finding,
    observed: ObservedInference,
    step: BatchStep,
    before: BatchResult | None,
    now: datetime,
) -> BatchFacts:
    pods = view_pods(pod for pod in observed.pods if has_component(pod, PREDICT))
    mine = [pod for pod in pods if step.job is not None and pod.job == step.job.name]
    stored = Artifact(uri=address_of_output(batch.output), result_hash=batch_result(resource))
    found = find_result(mine, stored, batch.shards)
    return BatchFacts(
        job=step.job,
        pods=mine,
        shards=batch.shards,
        unresolved=model if isinstance(model, Finding) else None,
        holdup=step.holdup,
        obstacle=find_obstacle(mine, observed.events, observed.refusals, now, batch.shards),
        is_queued=step.job is not None and QUEUE_LABEL in step.job.labels,
        queue_words=None if step.job is None else find_queue_words(observed.events, step.job.name),
        reports=observed.progress,
        result=before if found is None else found,
        is_kept=step.is_kept,
    )


def describe_model(model: ResolvedModel | Finding) -> tuple[str, Artifact | None] | None:
    return None if isinstance(model, Finding) else (model.label, model.artifact)


def find_obstruction(
    observed: ObservedInference, pods: list[PodView], failure: str | None, now: datetime
) -> Finding | None:
    """A Deployment says itself why its pods can't be made."""
    found = find_obstacle(pods, observed.events, observed.refusals, now)
    return explain_refusal(failure) if found is None and failure is not None else found
