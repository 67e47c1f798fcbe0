"""A fine-tune that is being deleted: what it stored goes first, where its deletionPolicy says so.

Never hangs: whatever stands in the way, the resource is released in the end, with an event that says what is left.
Without that policy nothing is done, as everything in the cluster is owned by the resource and goes with it.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from llm_api.finetune import FineTuneStatus, LLMFineTune
from llm_api.issues import InvalidConfig
from llm_api.load import load_resource

from llm_operator.build.cleanup import CLEANUP, build_cleanup_job, cleanup_name
from llm_operator.build.job import TRAIN
from llm_operator.build.names import FINALIZER
from llm_operator.build.volumes import address_of_output
from llm_operator.observed import ObservedFineTune
from llm_operator.reconcile.plan import Deletion, EventNote, ObjectKey, Plan
from llm_operator.reconcile.situation import has_component
from llm_operator.settings import Settings
from llm_operator.status.jobs import JobView, view_job
from llm_operator.status.obstacles import find_obstacle
from llm_operator.status.pods import to_time, view_pods

OBSTACLE_PATIENCE = timedelta(seconds=60)
"""How long the cleanup may be kept from starting before it is given up."""
LOOK_AGAIN_SECONDS = 15.0
DELETED, KEPT = "ArtifactsDeleted", "ArtifactsKept"


def plan_deletion(observed: ObservedFineTune, known: FineTuneStatus, settings: Settings, now: datetime) -> Plan:
    metadata = observed.document["metadata"]
    if FINALIZER not in (metadata.get("finalizers") or ()):
        return Plan()
    if known.run is None:
        return Plan(finalizer="remove")
    try:
        resource = load_resource(observed.document)
    except InvalidConfig:
        return release("the spec can't be read any more, so nobody knows where they are")
    assert isinstance(resource, LLMFineTune), "only LLMFineTunes are observed as such"
    if resource.spec.output.deletion_policy != "Delete":
        return Plan(finalizer="remove")
    deleted_at = to_time(metadata["deletionTimestamp"])
    waited = timedelta() if deleted_at is None else now - deleted_at
    plan = plan_cleanup(resource, observed, settings, waited, now)
    return replace(plan, events=plan.events + tell_earlier_artifact(resource, known)) if plan.finalizer else plan


def tell_earlier_artifact(resource: LLMFineTune, known: FineTuneStatus) -> tuple[EventNote, ...]:
    """What the spec doesn't name any more isn't deleted: who moved the output may have meant to keep it."""
    artifact = known.artifact
    if artifact is None or artifact.uri == address_of_output(resource.spec.output):
        return ()
    why = f"what a run of an earlier spec stored at {artifact.uri} stays; delete it by hand if nobody needs it"
    return (EventNote("Warning", KEPT, why),)


def plan_cleanup(
    resource: LLMFineTune, observed: ObservedFineTune, settings: Settings, waited: timedelta, now: datetime
) -> Plan:
    place = address_of_output(resource.spec.output)
    jobs = [view_job(job) for job in observed.jobs if job["metadata"]["name"] == cleanup_name(resource)]
    if any(job.is_complete for job in jobs):
        return Plan(finalizer="remove", events=(EventNote("Normal", DELETED, f"deleted what was stored at {place}"),))
    reason = find_why_not(observed, cleanup_name(resource), jobs, settings, waited, now)
    if reason is not None:
        return release(f"what was stored at {place} stays: {reason}; delete it by hand")
    if is_training(observed):
        return Plan(delete=stop_training(observed), again_after_seconds=LOOK_AGAIN_SECONDS)
    apply = () if jobs else (build_cleanup_job(resource, settings),)
    return Plan(apply=apply, again_after_seconds=LOOK_AGAIN_SECONDS)


def find_why_not(
    observed: ObservedFineTune, name: str, jobs: list[JobView], settings: Settings, waited: timedelta, now: datetime
) -> str | None:
    """Why the artifacts can't be deleted, if that is certain enough; None while it may still work."""
    if observed.namespace_is_terminating:
        return "its namespace is being deleted, and nothing new can start there"
    refused = [refusal for refusal in observed.refusals if refusal.name == name]
    if refused:
        return f"the cluster refused the cleanup: {refused[0].message}"
    failures = [job.failure for job in jobs if job.failure is not None]
    if failures:
        return f"the cleanup failed: {failures[0].message}"
    if waited.total_seconds() >= settings.cleanup_deadline_seconds:
        return f"it took longer than {settings.cleanup_deadline_seconds} s"
    pods = view_pods(pod for pod in observed.pods if has_component(pod, CLEANUP))
    obstacle = find_obstacle(pods, observed.events, (), now)
    created = [job.created_at for job in jobs if job.created_at is not None]
    if obstacle is not None and created and now - min(created) >= OBSTACLE_PATIENCE:
        return obstacle.message
    return None


def is_training(observed: ObservedFineTune) -> bool:
    """Whether something may still write what is to be deleted."""
    jobs = [view_job(job) for job in observed.jobs if has_component(job, TRAIN)]
    pods = view_pods(pod for pod in observed.pods if has_component(pod, TRAIN))
    return any(not job.is_finished for job in jobs) or any(not pod.is_gone for pod in pods)


def stop_training(observed: ObservedFineTune) -> tuple[Deletion, ...]:
    jobs = [view_job(job) for job in observed.jobs if has_component(job, TRAIN)]
    return tuple(
        Deletion(ObjectKey("batch/v1", "Job", job.name), job.uid)
        for job in jobs
        if not job.is_finished and not job.is_going
    )


def release(why: str) -> Plan:
    return Plan(finalizer="remove", events=(EventNote("Warning", KEPT, why),))
