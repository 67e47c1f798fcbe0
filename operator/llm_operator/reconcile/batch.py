"""What is done about a batch: its run file and its Job. One that is complete is never run again for the same rows,
model and config; a newer artifact doesn't count, as nobody asked for the rows to be answered again."""

from dataclasses import dataclass

from llm_api.conditions import Reason
from llm_api.inference import Batch, LLMInference

from llm_operator.build.batch import PREDICT, build_batch_job
from llm_operator.build.configmap import build_run_config_map
from llm_operator.build.inferencerun import batch_name, batch_result, build_predict_run
from llm_operator.build.model import ResolvedModel
from llm_operator.build.names import RESULT_LABEL
from llm_operator.build.volumes import Volumes
from llm_operator.observed import Manifest, ObservedInference
from llm_operator.reconcile.plan import Deletion, ObjectKey
from llm_operator.reconcile.situation import has_component
from llm_operator.settings import Settings
from llm_operator.status.finding import Finding
from llm_operator.status.jobs import JobView, view_job


@dataclass(frozen=True)
class BatchStep:
    job: JobView | None = None
    """The Job of what the spec asks for."""
    delete: tuple[Deletion, ...] = ()
    apply: tuple[Manifest, ...] = ()
    holdup: Finding | None = None
    is_kept: bool = False
    """All was answered before, by a Job that has been cleared away since."""


def plan_batch(
    resource: LLMInference,
    batch: Batch,
    model: ResolvedModel | None,
    observed: ObservedInference,
    settings: Settings,
    *,
    is_answered: bool,
) -> BatchStep:
    """``model`` is None while it isn't known; what runs already has its own. ``is_answered``: as the status says."""
    jobs = [view_job(job) for job in observed.jobs if has_component(job, PREDICT)]
    job = find_job(resource, jobs)
    others = [other for other in jobs if other is not job]
    delete = tuple(delete_job(other) for other in others if not other.is_going)
    if is_answered and (job is None or not job.is_finished):
        own = () if job is None or job.is_going else (delete_job(job),)
        return BatchStep(delete=delete + own, is_kept=True)
    busy = [other.name for other in others if other.is_going or not other.is_finished]
    if busy and job is None:
        return BatchStep(delete=delete, holdup=Finding(Reason.WAITING, f"an earlier batch ends first: {busy[0]}"))
    if job is not None and job.is_going:
        return BatchStep(delete=delete, holdup=Finding(Reason.WAITING, f"Job {job.name} is being deleted"))
    if job is not None or model is None:
        return BatchStep(job=job, delete=delete)
    return BatchStep(delete=delete, apply=tuple(build_batch(resource, batch, model, observed, settings)))


def find_job(resource: LLMInference, jobs: list[JobView]) -> JobView | None:
    """A complete one for the same predictions is as good as the one of this very spec."""
    mine = [job for job in jobs if job.owner_uid == resource.metadata.uid]
    complete = [job for job in mine if job.is_complete and job.labels.get(RESULT_LABEL) == batch_result(resource)]
    same = [job for job in mine if job.name == batch_name(resource)]
    return next(iter([*complete, *same]), None)


def build_batch(
    resource: LLMInference, batch: Batch, model: ResolvedModel, observed: ObservedInference, settings: Settings
) -> list[Manifest]:
    volumes, name = Volumes(), batch_name(resource)
    run = build_predict_run(resource, batch, model, settings, volumes)
    config_map = build_run_config_map(resource, name, PREDICT, run)
    there = any(one["metadata"]["name"] == name for one in observed.config_maps)
    job = build_batch_job(resource, batch, volumes, settings)
    return [job] if there else [config_map, job]


def delete_job(job: JobView) -> Deletion:
    return Deletion(ObjectKey("batch/v1", "Job", job.name), job.uid)
