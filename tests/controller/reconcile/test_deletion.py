"""A fine-tune that is deleted: its artifacts go where its policy says so, and it never hangs."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from kubernetes.client import V1Job
from llm_operator.observed import ObservedFineTune, Refusal
from llm_operator.reconcile.plan import Plan

from tests.support.fine_tunes import (
    NOW,
    carry_out,
    edit,
    ended,
    finished,
    name_of,
    of_kind,
    plan,
    pod,
    running,
    started,
    with_pods,
)

DELETE = {"output": {"deletionPolicy": "Delete"}}


def deleted(observed: ObservedFineTune) -> ObservedFineTune:
    metadata = {**observed.document["metadata"], "deletionTimestamp": "2026-03-01T12:00:00Z"}
    return replace(observed, document={**observed.document, "metadata": metadata})


def notes(plan: Plan) -> list[tuple[str, str]]:
    return [(note.type, note.reason) for note in plan.events]


def cleaning(spec: dict[str, Any] | None = None) -> ObservedFineTune:
    """The cleanup's Job is there."""
    observed = deleted(finished({**DELETE, **(spec or {})}))
    return carry_out(observed, plan(observed))


def with_cleanup(observed: ObservedFineTune, type_: str, message: str = "") -> ObservedFineTune:
    condition = {"type": type_, "status": "True", "reason": "x", "message": message}
    job = {**observed.jobs[-1], "status": {"conditions": [condition]}}
    return replace(observed, jobs=[*observed.jobs[:-1], job])


def test_without_the_policy_nothing_is_done_as_owners_take_what_they_own() -> None:
    assert plan(deleted(finished())) == Plan()


def test_artifacts_are_deleted_by_a_job_that_outlives_its_resource() -> None:
    planned = plan(deleted(finished(DELETE)))
    job = of_kind(planned, "Job")
    V1Job.model_validate(job)
    assert planned.finalizer is None
    assert "ownerReferences" not in job["metadata"]
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    template = job["spec"]["template"]
    assert template["spec"]["containers"][0]["args"][:2] == ["delete", "/etc/llm-operator/run.json"]
    assert '"outputUri": "s3://models/bot"' in template["metadata"]["annotations"]["llmoperator.dev/run"]
    assert len(name_of(job)) <= 57


def test_a_cleanup_takes_little_whatever_training_took() -> None:
    observed = cleaning({"compute": {"accelerators": {"count": 8}, "resources": {"requests": {"memory": "640Gi"}}}})
    resources = observed.jobs[-1]["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"] == {"cpu": "100m", "memory": "256Mi"}
    assert resources["limits"].keys() == {"cpu", "memory"}


def test_the_resource_goes_once_its_artifacts_are_gone() -> None:
    planned = plan(with_cleanup(cleaning(), "Complete"))
    assert planned.finalizer == "remove"
    assert notes(planned) == [("Normal", "ArtifactsDeleted")]


def test_what_an_earlier_spec_stored_elsewhere_stays_and_is_named() -> None:
    observed = edit(finished(DELETE), {"output": {"uri": "s3://models/moved"}})
    observed = with_pods(carry_out(observed, plan(observed)))
    stopped = carry_out(deleted(observed), plan(deleted(observed)))
    planned = plan(with_cleanup(carry_out(stopped, plan(stopped)), "Complete"))
    assert notes(planned) == [("Normal", "ArtifactsDeleted"), ("Warning", "ArtifactsKept")]
    assert "s3://models/moved" in planned.events[0].message
    assert "s3://models/bot stays" in planned.events[1].message


def test_a_cleanup_under_way_is_waited_for() -> None:
    planned = plan(cleaning())
    assert (planned.apply, planned.finalizer) == ((), None)
    assert planned.again_after_seconds is not None


def test_a_run_under_way_is_stopped_before_its_artifacts_are_deleted() -> None:
    observed = started(DELETE)
    observed = deleted(with_pods(observed, running(observed)))
    planned = plan(observed)
    assert [deletion.key.name for deletion in planned.delete] == [name_of(observed.jobs[0])]
    assert planned.apply == ()
    stopping = carry_out(observed, planned)
    assert plan(stopping).apply == ()
    assert of_kind(plan(with_pods(stopping)), "Job")


def test_a_run_that_was_never_started_leaves_nothing_to_delete() -> None:
    observed = replace(started({**DELETE, "run": {"suspend": True}}))
    document = {**observed.document}
    del document["status"]
    planned = plan(deleted(replace(observed, document=document)))
    assert (planned.finalizer, planned.apply, planned.events) == ("remove", (), ())


def test_a_spec_that_cannot_be_read_any_more_is_let_go_with_a_warning() -> None:
    observed = deleted(finished(DELETE))
    observed.document["spec"]["config"] = {}
    planned = plan(observed)
    assert planned.finalizer == "remove"
    assert notes(planned) == [("Warning", "ArtifactsKept")]


@pytest.mark.parametrize(
    "hinder",
    [
        lambda observed: replace(observed, namespace_is_terminating=True),
        lambda observed: replace(observed, refusals=[Refusal("Job", name_of(observed.jobs[-1]), "no")]),
        lambda observed: with_cleanup(observed, "Failed", "access denied"),
    ],
    ids=["namespace is going", "refused", "failed"],
)
def test_what_cannot_be_deleted_is_left_with_a_warning_and_the_resource_goes(hinder: Any) -> None:
    planned = plan(hinder(cleaning()))
    assert planned.finalizer == "remove"
    assert notes(planned) == [("Warning", "ArtifactsKept")]
    assert "s3://models/bot" in planned.events[0].message


def test_a_refusal_of_an_earlier_object_says_nothing_about_the_cleanup() -> None:
    observed = replace(deleted(finished(DELETE)), refusals=[Refusal("Job", "bot-1", "exceeded quota: jobs")])
    assert of_kind(plan(observed), "Job")


def test_a_cleanup_that_cannot_start_is_given_up_after_a_minute() -> None:
    observed = cleaning()
    state = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "store" not found'}}
    blocked = with_pods(observed, pod(observed, job=-1, containerStatuses=[{"name": "runner", "state": state}]))
    assert plan(blocked, now=NOW + timedelta(seconds=30)).finalizer is None
    planned = plan(blocked, now=NOW + timedelta(seconds=90))
    assert planned.finalizer == "remove"
    assert "no Secret store" in planned.events[0].message


def test_nothing_is_waited_for_longer_than_the_deadline() -> None:
    observed = started(DELETE)
    lost = deleted(with_pods(observed, running(observed)))
    assert plan(lost, now=NOW + timedelta(seconds=599)).finalizer is None
    planned = plan(lost, now=NOW + timedelta(seconds=601))
    assert planned.finalizer == "remove"
    assert "longer than 600 s" in planned.events[0].message


def test_pods_that_ended_hold_nothing_up() -> None:
    observed = finished(DELETE)
    observed = deleted(with_pods(observed, ended(observed, 0)))
    assert of_kind(plan(observed), "Job")
