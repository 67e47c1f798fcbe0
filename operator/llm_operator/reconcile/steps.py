"""What is done about a fine-tune's run, one step at a time: start it, stop it, change it, or leave it alone.

The steps stand in STEPS in the order in which they are tried; the first that applies is taken. What the status then
says is worked out elsewhere, from the same situation.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from llm_api.conditions import Reason

from llm_operator.build.configmap import build_run_config_map
from llm_operator.build.job import TRAIN, build_run_limits, build_train_job
from llm_operator.build.names import QUEUE_LABEL, queue_labels
from llm_operator.build.service import build_rendezvous_service
from llm_operator.build.trainrun import build_train_run
from llm_operator.build.volumes import Volumes
from llm_operator.observed import Manifest
from llm_operator.reconcile.plan import Deletion, ObjectKey, Patch
from llm_operator.reconcile.situation import Situation, names_of
from llm_operator.reconcile.starting import find_late_start
from llm_operator.status.finding import Finding
from llm_operator.status.jobs import JobView


@dataclass(frozen=True)
class Step:
    """What is done now. ``holdup``: what the run waits for, where it isn't its own pods."""

    delete: tuple[Deletion, ...] = ()
    patch: tuple[Patch, ...] = ()
    apply: tuple[Manifest, ...] = ()
    holdup: Finding | None = None
    keeps_status: bool = False
    """The run ended earlier, and all about it has been said."""
    restores_result: bool = False
    """What is asked for was stored by a run before the last one."""


def choose_step(situation: Situation) -> Step:
    for choose in STEPS:
        step = choose(situation)
        if step is not None:
            return step
    return Step()


def _keep_result(situation: Situation) -> Step | None:
    """The result that the spec asks for is there. An edit of compute or of the run's policy repeats nothing."""
    if not situation.is_known_to_have_succeeded:
        return None
    return Step(delete=_spare_jobs(situation), patch=plan_time_to_live(situation), keeps_status=True)


def _restore_result(situation: Situation) -> Step | None:
    """An edit was taken back: the newest artifact is what the spec asks for again."""
    artifact = situation.known.artifact
    if artifact is None or artifact.result_hash != situation.run.result_hash:
        return None
    return Step(delete=tuple(delete_job(job) for job in situation.other_jobs if not job.is_going), restores_result=True)


def _spare_jobs(situation: Situation) -> tuple[Deletion, ...]:
    """Jobs that still run though the result is there."""
    return tuple(delete_job(job) for job in situation.jobs if not job.is_finished and not job.is_going)


def _keep_failure(situation: Situation) -> Step | None:
    """It failed, and its Job has been cleared away since. Suspending and resuming it tries again."""
    if not situation.is_known_to_have_failed or situation.job is not None or situation.is_suspended:
        return None
    return Step(keeps_status=True)


def _take_over(situation: Situation) -> Step | None:
    """Other runs of the resource end first, with a checkpoint: two at once would write to the same places."""
    delete = tuple(delete_job(job) for job in situation.other_jobs if not job.is_going)
    busy = [job.name for job in situation.other_jobs if job.is_going or not job.is_finished]
    if situation.leftover_pods or busy:
        who = names_of(situation.leftover_pods) if situation.leftover_pods else ", ".join(busy)
        return Step(delete=delete, holdup=Finding(Reason.WAITING, f"an earlier run has to end first: {who}"))
    return None if not delete else _then(situation, delete)


def _then(situation: Situation, delete: tuple[Deletion, ...]) -> Step:
    """Finished Jobs of other runs are cleared away while this one goes on."""
    rest = (choose(situation) for choose in STEPS[STEPS.index(_take_over) + 1 :])
    step = next((step for step in rest if step is not None), Step())
    return replace(step, delete=delete + step.delete)


def _leave_complete(situation: Situation) -> Step | None:
    return Step() if situation.job is not None and situation.job.is_complete else None


def _suspend(situation: Situation) -> Step | None:
    """Its Job is suspended; or deleted, where a queue would start it again, or where it failed."""
    if not situation.is_suspended:
        return None
    job = situation.job
    if job is None or job.is_going:
        return Step()
    if situation.is_queued or job.failure is not None:
        return Step(delete=(delete_job(job),))
    return Step() if job.is_suspended else Step(patch=(patch_job(job, {"suspend": True}),))


def _wait_for_deletion(situation: Situation) -> Step | None:
    job = situation.job
    if job is None or not job.is_going:
        return None
    return Step(holdup=Finding(Reason.WAITING, f"Job {job.name} is being deleted; a new one goes on from there"))


def _try_again(situation: Situation) -> Step | None:
    """It was given up for a limit that has been raised since."""
    job = situation.job
    if job is None or job.failure is None or not _is_raised(situation, job):
        return None
    return Step(
        delete=(delete_job(job),),
        holdup=Finding(Reason.WAITING, "tries again, as the limit that it failed by was raised"),
    )


def _is_raised(situation: Situation, job: JobView) -> bool:
    limits = build_run_limits(situation.resource.spec.run)
    match "" if job.failure is None else job.failure.reason:
        case "BackoffLimitExceeded":
            return bool(limits["backoffLimit"] > job.spec.get("backoffLimit", 0))
        case "DeadlineExceeded":
            deadline, passed = limits.get("activeDeadlineSeconds"), job.spec.get("activeDeadlineSeconds", 0)
            return deadline is None or deadline > passed
    return False


def _leave_failed(situation: Situation) -> Step | None:
    if situation.job is None or situation.job.failure is None:
        return None
    return Step(patch=plan_time_to_live(situation))


def _give_nodes_back(situation: Situation) -> Step | None:
    """Some pods hold their nodes for one that doesn't come."""
    late, job = find_late_start(situation), situation.job
    if late is None or job is None:
        return None
    return Step(patch=() if job.is_suspended else (patch_job(job, {"suspend": True}),), holdup=late)


def _adjust(situation: Situation) -> Step | None:
    """The run is under way: what can be changed in place is."""
    job = situation.job
    if job is None:
        return None
    limits = build_run_limits(situation.resource.spec.run)
    wanted = {"activeDeadlineSeconds": None, **limits, **({} if situation.is_queued else {"suspend": False})}
    changed = {key: value for key, value in wanted.items() if job.spec.get(key) != value}
    if changed.get("suspend") is False and not job.is_suspended:
        del changed["suspend"]
    patch = (*plan_queue(situation, job), *((patch_job(job, changed),) if changed else ()))
    return Step(patch=patch, apply=_lost_run_file(situation))


def plan_queue(situation: Situation, job: JobView) -> tuple[Patch, ...]:
    """Another queue, while the Job still waits in one: Kueue takes that as long as it is suspended.

    All else of a queued Job is Kueue's: whether it is suspended, and the nodes that admission chose for its pods, see
    https://kueue.sigs.k8s.io/docs/concepts/workload/ and https://kueue.sigs.k8s.io/docs/tasks/run/jobs/.
    """
    queue = queue_labels(situation.resource).get(QUEUE_LABEL)
    if not job.is_suspended or queue is None or job.labels.get(QUEUE_LABEL) in (None, queue):
        return ()
    return (Patch(ObjectKey("batch/v1", "Job", job.name), {"metadata": {"labels": {QUEUE_LABEL: queue}}}),)


def _lost_run_file(situation: Situation) -> tuple[Manifest, ...]:
    """Without it the next pod, at the latest, could not start."""
    if situation.run.name in {config_map["metadata"]["name"] for config_map in situation.observed.config_maps}:
        return ()
    return tuple(made for made in build_run_objects(situation) if made["kind"] == "ConfigMap")


def _start(situation: Situation) -> Step:
    return Step(apply=tuple(build_run_objects(situation)))


STEPS: tuple[Callable[[Situation], Step | None], ...] = (
    _keep_result,
    _restore_result,
    _keep_failure,
    _take_over,
    _leave_complete,
    _suspend,
    _wait_for_deletion,
    _try_again,
    _leave_failed,
    _give_nodes_back,
    _adjust,
    _start,
)


def build_run_objects(situation: Situation) -> list[Manifest]:
    """What the run file says never changes, so one that is there is left alone."""
    resource, run, settings = situation.resource, situation.run, situation.settings
    volumes = Volumes()
    train_run = build_train_run(resource, settings, volumes)
    there = {config_map["metadata"]["name"] for config_map in situation.observed.config_maps}
    objects: list[Manifest] = []
    if run.name not in there:
        objects.append(build_run_config_map(resource, run.name, TRAIN, train_run))
    if resource.spec.compute.nodes > 1:
        objects.append(build_rendezvous_service(resource, run))
    return [*objects, build_train_job(resource, run, volumes, settings)]


def delete_job(job: JobView) -> Deletion:
    return Deletion(ObjectKey("batch/v1", "Job", job.name), job.uid)


def patch_job(job: JobView, spec: Manifest) -> Patch:
    return Patch(ObjectKey("batch/v1", "Job", job.name), {"spec": spec})


def plan_time_to_live(situation: Situation) -> tuple[Patch, ...]:
    """Set once the status tells how the run ended: a Job that goes before would be taken for one never made."""
    job, seconds = situation.known_job, situation.resource.spec.run.ttl_seconds_after_finished
    is_told = situation.is_known_to_have_succeeded or situation.is_known_to_have_failed
    if job is None or job.is_going or not job.is_finished or not is_told:
        return ()
    if job.spec.get("ttlSecondsAfterFinished") == seconds:
        return ()
    return (patch_job(job, {"ttlSecondsAfterFinished": seconds}),)
