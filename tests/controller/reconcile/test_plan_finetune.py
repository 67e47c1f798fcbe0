"""One fine-tune through its life: started, edited, suspended, resumed, finished, and never run twice."""

from dataclasses import replace
from typing import Any

import pytest
from llm_api.finetune import FineTuneStatus
from llm_api.issues import load
from llm_api.report import Outcome
from llm_operator.observed import ObservedFineTune
from llm_operator.reconcile.plan import Plan

from tests.support.fine_tunes import (
    CONFIG,
    SUCCEEDED,
    carry_out,
    condition,
    edit,
    ended,
    failed,
    fine_tune,
    finished,
    merge,
    name_of,
    of_kind,
    plan,
    running,
    started,
    with_job_condition,
    with_pods,
)

QUEUE = {"kueue.x-k8s.io/queue-name": "gpus"}
OTHER_CONFIG = {"config": merge(CONFIG, {"trainer": {"epochs": 3}})}
OUT_OF_MEMORY = Outcome(reason="OutOfMemory", message="needs 20 GiB, has 16")


def nothing_is_done(plan: Plan) -> bool:
    return not (plan.apply or plan.delete or plan.patch)


def without_pods_and_jobs(observed: ObservedFineTune) -> ObservedFineTune:
    return replace(observed, jobs=[], pods=[])


def test_a_new_resource_gets_its_run_file_and_its_job() -> None:
    first = plan(ObservedFineTune(document=fine_tune()))
    assert [manifest["kind"] for manifest in first.apply] == ["ConfigMap", "Job"]
    assert len({name_of(manifest) for manifest in first.apply}) == 1
    assert first.status is not None
    assert (first.status["phase"], first.status["run"]["name"]) == ("Pending", name_of(first.apply[0]))


def test_a_plan_that_was_carried_out_leaves_nothing_to_do() -> None:
    again = plan(started())
    assert nothing_is_done(again)
    assert (again.status, again.events) == (None, ())


def test_every_status_can_be_read_back() -> None:
    observed = finished()
    load(FineTuneStatus, observed.document["status"])


def test_a_config_map_that_is_there_is_not_applied_again() -> None:
    observed = replace(started(), jobs=[])
    assert [manifest["kind"] for manifest in plan(observed).apply] == ["Job"]


def test_a_run_file_that_was_deleted_is_made_again_for_the_pods_to_come() -> None:
    observed = replace(started(), config_maps=[])
    assert [manifest["kind"] for manifest in plan(observed).apply] == ["ConfigMap"]


def test_an_invalid_spec_starts_nothing_and_names_every_mistake() -> None:
    document = fine_tune({"config": {"adaptor": {"type": "lora"}}, "run": {"maxRetries": -1}})
    planned = plan(ObservedFineTune(document=document))
    status, reason, message = condition(planned.status, "SpecValid")
    assert nothing_is_done(planned)
    assert (status, reason) == ("False", "Invalid")
    assert "spec.config.adaptor" in message
    assert "adapter" in message
    assert "spec.run.maxRetries" in message


def test_an_invalid_edit_leaves_a_run_under_way_alone() -> None:
    observed = started()
    observed = with_pods(observed, running(observed))
    observed = carry_out(observed, plan(observed))
    planned = plan(edit(observed, {"config": {"adaptor": 1}}))
    assert nothing_is_done(planned)
    assert planned.status is not None
    assert planned.status["phase"] == "Preparing"
    assert condition(planned.status, "Running")[0] == "True"


def test_an_edit_of_the_config_stops_the_run_before_another_is_started() -> None:
    observed = started()
    observed = with_pods(observed, running(observed))
    edited = edit(observed, OTHER_CONFIG)
    first = plan(edited)
    assert [deletion.key.name for deletion in first.delete] == [name_of(observed.jobs[0])]
    assert first.apply == ()
    assert condition(first.status, "Running")[1] == "Waiting"
    stopping = carry_out(edited, first)
    assert plan(stopping).apply == ()
    gone = with_pods(stopping)
    assert name_of(of_kind(plan(gone), "Job")) != name_of(observed.jobs[0])


@pytest.mark.parametrize(
    "change",
    [
        {"compute": {"resources": {"limits": {"memory": "64Gi"}}}},
        {"run": {"maxRetries": 9}},
        {"run": {"checkpoint": {"keep": 5}}},
        {"credentials": {"s3": {"secretRef": {"name": "other"}}}},
        {"output": {"deletionPolicy": "Delete"}},
        {"config": {"backend": {"type": "local"}}},
    ],
)
def test_an_edit_of_anything_but_the_result_does_not_repeat_a_finished_run(change: dict[str, Any]) -> None:
    planned = plan(edit(finished(), change))
    assert nothing_is_done(planned)
    assert planned.status is not None
    assert planned.status["phase"] == "Succeeded"
    assert {one["observedGeneration"] for one in planned.status["conditions"]} == {2}


def test_a_finished_run_is_not_repeated_once_its_job_is_gone() -> None:
    assert nothing_is_done(plan(without_pods_and_jobs(finished())))


def test_a_failed_run_is_not_repeated_once_its_job_is_gone() -> None:
    observed = without_pods_and_jobs(failed(12, OUT_OF_MEMORY))
    assert nothing_is_done(plan(observed))
    assert observed.document["status"]["phase"] == "Failed"


def test_a_failed_run_is_tried_again_after_an_edit_of_its_compute() -> None:
    observed = edit(failed(12, OUT_OF_MEMORY), {"compute": {"resources": {"limits": {"memory": "64Gi"}}}})
    planned = plan(observed)
    assert [deletion.key.name for deletion in planned.delete] == [name_of(observed.jobs[0])]
    assert of_kind(planned, "Job")["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {
        "memory": "64Gi"
    }


def test_a_run_that_finished_while_the_operator_was_down_is_not_repeated_for_an_edit_of_its_compute() -> None:
    observed = started()
    observed = with_job_condition(with_pods(observed, ended(observed, 0, SUCCEEDED)), "Complete")
    planned = plan(edit(observed, {"compute": {"resources": {"limits": {"memory": "64Gi"}}}}))
    assert nothing_is_done(planned)
    assert planned.status is not None
    assert planned.status["run"]["name"] == name_of(observed.jobs[0])
    assert planned.status["phase"] == "Succeeded"


def test_what_a_superseded_run_stored_meanwhile_is_still_the_newest_artifact() -> None:
    observed = started()
    observed = with_job_condition(with_pods(observed, ended(observed, 0, SUCCEEDED)), "Complete")
    planned = plan(edit(observed, OTHER_CONFIG))
    assert planned.status is not None
    assert planned.status["artifact"]["digest"] == SUCCEEDED.artifact_digest
    assert condition(planned.status, "Succeeded")[0] == "Unknown"


def test_what_a_superseded_run_stored_on_a_volume_is_named_by_its_claim() -> None:
    observed = started({"output": {"uri": None, "volume": {"claimName": "results", "path": "bot"}}})
    inside = SUCCEEDED.model_copy(update={"artifact_uri": "/output/bot"})
    observed = with_job_condition(with_pods(observed, ended(observed, 0, inside)), "Complete")
    moved = plan(edit(observed, {"output": {"uri": "s3://models/bot", "volume": None}}))
    assert moved.status is not None
    assert moved.status["artifact"]["uri"] == "volume://results/bot"
    assert condition(plan(observed).status, "Succeeded")[2] == "stored at volume://results/bot"


def test_an_artifact_stays_while_the_next_run_works() -> None:
    observed = finished()
    edited = edit(observed, OTHER_CONFIG)
    planned = plan(edited)
    assert planned.status is not None
    assert planned.status["phase"] == "Pending"
    assert planned.status["artifact"] == observed.document["status"]["artifact"]
    assert "metrics" not in planned.status


def test_an_edit_that_is_taken_back_repeats_nothing() -> None:
    observed = finished()
    edited = carry_out(edit(observed, OTHER_CONFIG), plan(edit(observed, OTHER_CONFIG)))
    back = edit(with_pods(edited), {"config": CONFIG})
    back.document["spec"]["config"] = CONFIG
    planned = plan(back)
    assert planned.apply == ()
    assert [deletion.key.name for deletion in planned.delete] == [name_of(edited.jobs[-1])]
    assert planned.status is not None
    assert planned.status["phase"] == "Succeeded"
    assert plan(carry_out(back, planned)).status is None


def test_a_suspended_resource_starts_nothing() -> None:
    planned = plan(ObservedFineTune(document=fine_tune({"run": {"suspend": True}})))
    assert nothing_is_done(planned)
    assert planned.status is not None
    assert planned.status["phase"] == "Suspended"


def test_suspending_and_resuming_go_through_to_the_job() -> None:
    observed = edit(started(), {"run": {"suspend": True}})
    suspending = plan(observed)
    assert [patch.body for patch in suspending.patch] == [{"spec": {"suspend": True}}]
    suspended = carry_out(observed, suspending)
    assert suspended.document["status"]["phase"] == "Suspended"
    resuming = plan(edit(suspended, {"run": {"suspend": False}}))
    assert [patch.body for patch in resuming.patch] == [{"spec": {"suspend": False}}]


def test_suspending_a_queued_run_deletes_its_job_as_the_queue_would_start_it_again() -> None:
    observed = edit(started(labels=QUEUE), {"run": {"suspend": True}})
    planned = plan(observed)
    assert [deletion.key.name for deletion in planned.delete] == [name_of(observed.jobs[0])]
    assert planned.patch == ()


def test_suspending_and_resuming_a_failed_run_tries_it_again() -> None:
    observed = edit(failed(13, Outcome(reason="Diverged", message="NaN at step 3")), {"run": {"suspend": True}})
    suspended = carry_out(observed, plan(observed))
    assert suspended.jobs == []
    assert suspended.document["status"]["phase"] == "Suspended"
    resumed = plan(edit(with_pods(suspended), {"run": {"suspend": False}}))
    assert of_kind(resumed, "Job")


def test_suspending_a_finished_run_changes_nothing() -> None:
    planned = plan(edit(finished(), {"run": {"suspend": True}}))
    assert nothing_is_done(planned)
    assert planned.status is not None
    assert planned.status["phase"] == "Succeeded"


def test_the_queue_label_goes_through_and_the_job_waits_to_be_admitted() -> None:
    observed = started(labels=QUEUE)
    job = observed.jobs[0]
    assert job["metadata"]["labels"].items() >= QUEUE.items()
    assert job["spec"]["suspend"] is True
    planned = plan(observed)
    assert nothing_is_done(planned)
    assert planned.status is not None
    assert planned.status["phase"] == "Queued"


def test_retries_and_deadline_are_changed_on_a_run_under_way() -> None:
    planned = plan(edit(started(), {"run": {"maxRetries": 5, "deadlineSeconds": 600}}))
    assert [patch.body for patch in planned.patch] == [{"spec": {"backoffLimit": 5, "activeDeadlineSeconds": 600}}]
    assert (planned.apply, planned.delete) == ((), ())


def test_raising_the_limit_that_a_run_failed_by_tries_it_again() -> None:
    observed = started({"run": {"maxRetries": 0}})
    observed = with_pods(observed, ended(observed, 20, Outcome(reason="StorageFailed", message="no route")))
    observed = with_job_condition(observed, "Failed", "BackoffLimitExceeded", "limit reached")
    observed = carry_out(observed, plan(observed))
    assert observed.document["status"]["phase"] == "Failed"
    planned = plan(edit(observed, {"run": {"maxRetries": 2}}))
    assert [deletion.key.name for deletion in planned.delete] == [name_of(observed.jobs[0])]
    retried = carry_out(edit(observed, {"run": {"maxRetries": 2}}), planned)
    assert of_kind(plan(retried), "Job")["spec"]["backoffLimit"] == 2


def test_the_time_to_live_is_set_only_after_the_status_tells_how_the_run_ended() -> None:
    observed = started({"run": {"ttlSecondsAfterFinished": 0}})
    assert "ttlSecondsAfterFinished" not in observed.jobs[0]["spec"]
    observed = with_job_condition(with_pods(observed, ended(observed, 0, SUCCEEDED)), "Complete")
    first = plan(observed)
    assert first.patch == ()
    second = plan(carry_out(observed, first))
    assert [patch.body for patch in second.patch] == [{"spec": {"ttlSecondsAfterFinished": 0}}]


def test_a_job_that_was_deleted_by_hand_is_made_again_once_its_pods_are_gone() -> None:
    observed = started()
    observed = replace(with_pods(observed, running(observed)), jobs=[])
    assert plan(observed).apply == ()
    assert of_kind(plan(with_pods(observed)), "Job")


def test_a_job_of_an_earlier_resource_of_the_same_name_goes_first() -> None:
    observed = started()
    job = observed.jobs[0]
    owner = {**job["metadata"]["ownerReferences"][0], "uid": "uid-0"}
    old = {**job, "metadata": {**job["metadata"], "ownerReferences": [owner]}}
    planned = plan(replace(observed, jobs=[old]))
    assert [(deletion.key.name, deletion.uid) for deletion in planned.delete] == [
        (name_of(job), job["metadata"]["uid"])
    ]
    assert planned.apply == ()


def test_several_nodes_get_names_to_find_each_other_by() -> None:
    planned = plan(ObservedFineTune(document=fine_tune({"compute": {"nodes": 3}})))
    assert [manifest["kind"] for manifest in planned.apply] == ["ConfigMap", "Service", "Job"]


@pytest.mark.parametrize(
    ("policy", "finalizers", "change"),
    [("Delete", [], "add"), ("Retain", ["llmoperator.dev/artifacts"], "remove"), ("Retain", [], None)],
)
def test_a_finalizer_stands_only_where_artifacts_are_to_be_deleted(
    policy: str, finalizers: list[str], change: str | None
) -> None:
    document = fine_tune({"output": {"deletionPolicy": policy}}, finalizers=finalizers)
    assert plan(ObservedFineTune(document=document)).finalizer == change


def test_run_files_of_earlier_runs_are_cleared_away_once_their_jobs_are_gone() -> None:
    observed = started({"compute": {"nodes": 2}})
    old = name_of(observed.jobs[0])
    edited = edit(observed, {"config": {"trainer": {"type": "finetune", "epochs": 3}}})
    first = plan(edited)
    assert [(deletion.key.kind, deletion.key.name) for deletion in first.delete] == [("Job", old)]
    second = plan(carry_out(edited, first))
    assert {(deletion.key.kind, deletion.key.name) for deletion in second.delete} == {
        ("ConfigMap", old),
        ("Service", old),
    }


def test_a_run_that_is_tried_again_is_not_said_to_have_failed_already() -> None:
    observed = edit(failed(12, OUT_OF_MEMORY), {"compute": {"resources": {"limits": {"memory": "64Gi"}}}})
    again = carry_out(observed, plan(observed))
    later = {**again.jobs[-1], "metadata": {**again.jobs[-1]["metadata"], "creationTimestamp": "2026-03-01T13:00:00Z"}}
    planned = plan(replace(again, jobs=[later], pods=[]))
    assert planned.status is not None
    assert condition(planned.status, "Running")[1] == "Starting"
