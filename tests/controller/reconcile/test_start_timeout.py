"""Pods that train together don't hold their nodes for one that can't start."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from llm_api.names import to_rfc3339
from llm_operator.observed import ClusterEvent, ObservedFineTune
from llm_operator.reconcile.plan import Plan

from tests.support.fine_tunes import (
    NOW,
    carry_out,
    condition,
    edit,
    name_of,
    plan,
    pod,
    running,
    started,
    warnings,
    with_pods,
)

LACKING = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/4 nodes are available: 4 Insufficient nvidia.com/gpu.",
}


TOO_MANY = 'Error creating: pods "bot-1" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'


def half_started(**run: Any) -> ObservedFineTune:
    """The first of two nodes has its pod, and the second has none."""
    observed = started({"compute": {"nodes": 2}, "run": run})
    waiting = pod(observed, conditions=[LACKING])
    annotations = {"batch.kubernetes.io/job-completion-index": "1"}
    waiting["metadata"] = {**waiting["metadata"], "name": "bot-1-abcde", "annotations": annotations}
    return with_pods(observed, running(observed), waiting)


def without_a_pod(observed: ObservedFineTune, told_after_seconds: float) -> ObservedFineTune:
    """The second of two pods can't even be made, and the Job's controller says so every now and then."""
    last = NOW + timedelta(seconds=told_after_seconds)
    event = ClusterEvent("Job", name_of(observed.jobs[0]), "FailedCreate", TOO_MANY, last)
    return replace(with_pods(observed, running(observed)), events=[event])


def plan_after(observed: ObservedFineTune, seconds: float) -> Plan:
    return plan(observed, now=NOW + timedelta(seconds=seconds))


def test_a_run_waits_for_ten_minutes_and_is_then_suspended_with_what_is_missing() -> None:
    observed = half_started()
    early = plan_after(observed, 599)
    assert early.patch == ()
    assert early.again_after_seconds is not None
    late = plan_after(observed, 600)
    (patch,) = late.patch
    assert (patch.key.name, patch.body) == (name_of(observed.jobs[0]), {"spec": {"suspend": True}})
    assert late.status is not None
    assert late.status["phase"] == "Suspended"
    _, reason, message = condition(late.status, "Running")
    assert reason == "StartTimeout"
    assert "1 of 2 pods started within 600 s (run.startTimeoutSeconds)" in message
    assert "bot-1-abcde: Unschedulable: no node has enough nvidia.com/gpu free" in message
    assert "StartTimeout" in warnings(late)


def test_a_pod_that_can_not_be_made_is_waited_for_no_longer_than_one_without_a_node() -> None:
    observed = without_a_pod(started({"compute": {"nodes": 2}}), told_after_seconds=5)
    early = plan_after(observed, 5)
    assert condition(early.status, "Running")[:2] == ("False", "QuotaExceeded"), "though one of them runs"
    assert early.again_after_seconds is not None
    observed = carry_out(observed, early)
    assert plan_after(observed, 599).patch == ()
    late = plan_after(observed, 600)
    assert [patch.body for patch in late.patch] == [{"spec": {"suspend": True}}]
    _, reason, message = condition(late.status, "Running")
    assert reason == "StartTimeout"
    assert "1 of 2 pods started within 600 s (run.startTimeoutSeconds)" in message
    assert "1 missing: QuotaExceeded: the namespace's quota gpus is used up" in message


def test_a_pod_that_was_lost_a_moment_ago_is_not_one_that_can_not_be_made() -> None:
    """Whatever was said when the pods were made: the others are about to end, and all start again."""
    observed = without_a_pod(started({"compute": {"nodes": 2}}), told_after_seconds=-1)
    observed = carry_out(observed, plan_after(observed, 0))
    assert condition(observed.document["status"], "Running")[0] == "True"
    assert plan_after(observed, 7200).patch == ()


def test_a_node_that_keeps_its_pod_and_does_not_answer_keeps_no_other() -> None:
    observed = started({"compute": {"nodes": 2}})
    silent = running(observed)
    silent["metadata"] |= {
        "name": "bot-1-abcde",
        "annotations": {"batch.kubernetes.io/job-completion-index": "1"},
        "deletionTimestamp": to_rfc3339(NOW),
    }
    silent["status"]["conditions"] = [
        {"type": "Ready", "status": "False"},
        {"type": "ContainersReady", "status": "True"},
    ]
    observed = with_pods(observed, running(observed), silent)
    observed = carry_out(observed, plan_after(observed, 1))
    assert plan_after(observed, 599).patch == ()
    late = plan_after(observed, 601)
    assert [patch.body for patch in late.patch] == [{"spec": {"suspend": True}}]
    assert "1 missing: NodeLost: its node node-1 does not answer" in condition(late.status, "Running")[2]


def test_it_stays_suspended_until_its_spec_is_edited() -> None:
    observed = half_started(startTimeoutSeconds=30)
    late = plan_after(observed, 31)
    suspended = with_pods(carry_out(observed, late))
    again = plan_after(suspended, 3600)
    assert (again.patch, again.apply, again.delete, again.events) == ((), (), (), ())
    edited = plan_after(edit(suspended, {"compute": {"resources": {"requests": {"cpu": "1"}}}}), 3601)
    assert edited.delete or edited.patch


def test_an_edit_that_changes_no_pod_resumes_the_same_job() -> None:
    observed = half_started(startTimeoutSeconds=30)
    suspended = with_pods(carry_out(observed, plan_after(observed, 31)))
    resumed = plan_after(edit(suspended, {"run": {"startTimeoutSeconds": 900}}), 60)
    assert [patch.body for patch in resumed.patch] == [{"spec": {"suspend": False}}]


def test_all_of_them_waiting_hold_nothing() -> None:
    observed = half_started()
    assert plan_after(with_pods(observed, observed.pods[1]), 3600).patch == ()


def test_a_run_none_of_whose_pods_is_made_yet_holds_nothing() -> None:
    planned = plan_after(replace(half_started(), pods=[]), 1200)
    assert (planned.apply, planned.patch, planned.delete) == ((), (), ())


def test_a_queue_takes_back_what_it_gave_by_itself() -> None:
    observed = half_started()
    job = observed.jobs[0]
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"
    assert plan_after(observed, 3600).patch == ()
