"""What is to be done about one LLMFineTune: from what was observed of it to a plan. Pure; the clock is handed in.

What is done about the run is chosen in ``steps``; here it is put together with the status that follows from it.
"""

from datetime import datetime
from functools import partial
from typing import Literal

from llm_api.finetune import FineTuneStatus, LLMFineTune, RunStatus
from llm_api.issues import InvalidConfig
from llm_api.resource import Artifact

from llm_operator.build.job import TRAIN
from llm_operator.build.names import OUTPUT_ANNOTATION, RESULT_LABEL
from llm_operator.build.volumes import address_of_output
from llm_operator.observed import ObservedFineTune
from llm_operator.reconcile.announce import announce_fine_tune
from llm_operator.reconcile.deletion import plan_deletion
from llm_operator.reconcile.loading import load_possible
from llm_operator.reconcile.plan import Plan
from llm_operator.reconcile.situation import Situation, observe_situation
from llm_operator.reconcile.spare import find_spare_objects
from llm_operator.reconcile.steps import Step, choose_step
from llm_operator.reconcile.telling import add_status
from llm_operator.settings import Settings
from llm_operator.status.attempts import merge_attempts
from llm_operator.status.finetune import (
    find_earlier_artifact,
    status_invalid,
    status_kept,
    status_of_run,
    status_restored,
)
from llm_operator.status.obstacles import find_obstacle
from llm_operator.status.queueing import find_queue_words
from llm_operator.status.run import RunFacts
from llm_operator.status.writing import read_status


def plan_fine_tune(observed: ObservedFineTune, settings: Settings, now: datetime) -> Plan:
    """Idempotent: carried out, and observed again, the same plan comes out empty."""
    now = now.replace(microsecond=0)
    document = observed.document
    known = read_status(FineTuneStatus, document)
    generation = document["metadata"].get("generation")
    if document["metadata"].get("deletionTimestamp") is not None:
        return plan_deletion(observed, known, settings, now)
    try:
        resource = load_possible(document)
    except InvalidConfig as error:
        status = status_invalid(known, [str(issue) for issue in error.issues], generation, now)
        return add_status(Plan(), observed, status, partial(announce_fine_tune, known, status), settings, now)
    assert isinstance(resource, LLMFineTune), "only LLMFineTunes are observed as such"
    situation = observe_situation(observed, settings, now, resource, known)
    step = choose_step(situation)
    status = status_after(situation, step)
    delete = step.delete + find_spare_objects(observed, TRAIN, names_to_keep(situation))
    plan = Plan(delete=delete, patch=step.patch, apply=step.apply, finalizer=plan_finalizer(situation))
    return add_status(plan, observed, status, partial(announce_fine_tune, known, status), settings, now)


def names_to_keep(situation: Situation) -> set[str]:
    """Of the run that the spec asks for, and of the one that gave the result."""
    known = situation.known.run
    return {situation.run.name} if known is None else {situation.run.name, known.name}


def plan_finalizer(situation: Situation) -> Literal["add", "remove"] | None:
    is_wanted = situation.resource.spec.output.deletion_policy == "Delete"
    if is_wanted == situation.has_finalizer:
        return None
    return "add" if is_wanted else "remove"


def status_after(situation: Situation, step: Step) -> FineTuneStatus:
    resource, known, run = situation.resource, situation.known, situation.run
    named = RunStatus(name=run.name, result_hash=run.result_hash)
    if step.keeps_status:
        return status_kept(known, resource.metadata.generation, situation.now)
    if step.restores_result:
        return status_restored(known, named, resource.metadata.generation, situation.now)
    jobs, pods = situation.other_jobs, situation.all_pods
    artifact = find_earlier_artifact(known.artifact, jobs, pods, RESULT_LABEL, OUTPUT_ANNOTATION)
    return status_of_run(
        known.model_copy(update={"artifact": artifact}),
        named,
        gather_facts(situation, step),
        to_artifact(resource, run.result_hash),
        resource.metadata.generation,
        situation.now,
    )


def to_artifact(resource: LLMFineTune, result_hash: str) -> Artifact:
    """What the run stores, as far as the spec tells it."""
    return Artifact(
        uri=address_of_output(resource.spec.output), base_model=resource.spec.config.base_model, result_hash=result_hash
    )


def gather_facts(situation: Situation, step: Step) -> RunFacts:
    observed, known, policy = situation.observed, situation.known, situation.resource.spec.run
    is_same_result = known.run is not None and known.run.result_hash == situation.run.result_hash
    is_same_run = known.run is not None and known.run.name == situation.run.name
    running = [pod.name for pod in situation.pods if pod.is_running and pod.index == 0]
    return RunFacts(
        job=situation.job,
        pods=situation.pods,
        attempts=merge_attempts(
            known.attempts if is_same_result else [], situation.pods, observed.progress, situation.now
        ),
        is_suspended=situation.is_suspended,
        is_queued=situation.is_queued,
        queue_words=find_queue_words(observed.events, situation.run.name),
        holdup=step.holdup,
        obstacle=find_obstacle(
            situation.pods, observed.events, observed.refusals, situation.now, situation.resource.spec.compute.nodes
        ),
        report=next((observed.progress[name] for name in reversed(running) if name in observed.progress), None),
        known_phase=known.phase if is_same_run else None,
        max_retries=policy.max_retries,
        deadline_seconds=policy.deadline_seconds,
        output=address_of_output(situation.resource.spec.output),
    )
