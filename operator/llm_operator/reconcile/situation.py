"""What was observed of a fine-tune, sorted: its run, that run's Job and pods, and what is left of other runs.

Decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from llm_api.conditions import Condition, find_condition
from llm_api.finetune import FineTuneCondition, FineTuneStatus, LLMFineTune

from llm_operator.build.job import TRAIN
from llm_operator.build.names import COMPONENT_LABEL, FINALIZER, QUEUE_LABEL, RESULT_LABEL, queue_labels
from llm_operator.build.trainrun import RunIdentity, identify_run
from llm_operator.observed import Manifest, ObservedFineTune
from llm_operator.settings import Settings
from llm_operator.status.jobs import JobView, view_job
from llm_operator.status.pods import PodView, view_pods


@dataclass(frozen=True)
class Situation:
    observed: ObservedFineTune
    settings: Settings
    now: datetime
    resource: LLMFineTune
    run: RunIdentity
    jobs: Sequence[JobView]
    """All Jobs that train for a resource of this name."""
    known: FineTuneStatus
    """The status as it is stored."""

    @cached_property
    def job(self) -> JobView | None:
        """The Job of the run that the spec asks for. One of an earlier resource of the same name isn't it."""
        uid = self.resource.metadata.uid
        return next((job for job in self.jobs if job.name == self.run.name and job.owner_uid == uid), None)

    @cached_property
    def known_job(self) -> JobView | None:
        """The Job of the run that the stored status is about."""
        known = self.known.run
        return next((job for job in self.jobs if known is not None and job.name == known.name), None)

    @cached_property
    def other_jobs(self) -> list[JobView]:
        return [job for job in self.jobs if job is not self.job]

    @cached_property
    def all_pods(self) -> list[PodView]:
        return view_pods(pod for pod in self.observed.pods if has_component(pod, TRAIN))

    @cached_property
    def pods(self) -> list[PodView]:
        """Of the run that the spec asks for."""
        return [pod for pod in self.all_pods if pod.job == self.run.name]

    @cached_property
    def leftover_pods(self) -> list[PodView]:
        """Pods that could still write where the run is going to, and don't belong to its Job."""
        mine = set() if self.job is None else {pod.name for pod in self.pods}
        return [pod for pod in self.all_pods if pod.name not in mine and not pod.is_gone]

    @property
    def is_suspended(self) -> bool:
        return self.resource.spec.run.suspend

    @property
    def is_queued(self) -> bool:
        """Whether a queue decides when the Job starts: then its suspension isn't ours to change."""
        labels = queue_labels(self.resource) if self.job is None else self.job.labels
        return QUEUE_LABEL in labels

    @property
    def has_finalizer(self) -> bool:
        return FINALIZER in (self.observed.document["metadata"].get("finalizers") or ())

    @property
    def verdict_on_run(self) -> Condition | None:
        return find_condition(self.known.conditions, FineTuneCondition.SUCCEEDED)

    @property
    def is_known_to_have_succeeded(self) -> bool:
        """Whether the result that the spec asks for is there, by whichever of its runs."""
        known, verdict = self.known.run, self.verdict_on_run
        same = known is not None and known.result_hash == self.run.result_hash
        return same and verdict is not None and verdict.status == "True"

    @property
    def is_known_to_have_failed(self) -> bool:
        known, verdict = self.known.run, self.verdict_on_run
        same = known is not None and known.name == self.run.name
        return same and verdict is not None and verdict.status == "False"


def observe_situation(
    observed: ObservedFineTune, settings: Settings, now: datetime, resource: LLMFineTune, known: FineTuneStatus
) -> Situation:
    """A Job that is complete is the run, if its result is what the spec asks for, whatever else was edited since."""
    jobs = [view_job(job) for job in observed.jobs if has_component(job, TRAIN)]
    run, uid = identify_run(resource), resource.metadata.uid
    for job in jobs:
        if job.is_complete and job.owner_uid == uid and job.labels.get(RESULT_LABEL) == run.result_hash:
            run = replace(run, name=job.name)
    return Situation(observed, settings, now, resource, run, jobs, known)


def has_component(manifest: Manifest, component: str) -> bool:
    labels = manifest["metadata"].get("labels") or {}
    return bool(labels.get(COMPONENT_LABEL) == component)


def names_of(pods: Sequence[PodView]) -> str:
    return ", ".join(pod.name for pod in pods)
