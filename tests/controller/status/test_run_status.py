"""What a fine-tune's status says while its run is queued, starts, works, is kept from working, ends well or badly."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from llm_api.conditions import Reason
from llm_api.report import ExitCode, Outcome, Progress
from llm_operator.observed import ObservedFineTune
from llm_runner import errors

from tests.support.fine_tunes import (
    NOW,
    SUCCEEDED,
    carry_out,
    condition,
    ended,
    failed,
    finished,
    plan,
    reporting,
    running,
    started,
    warnings,
    with_job_condition,
    with_pods,
)

TRAINING = Progress(
    phase="Training", step=41, of=100, epoch=0.82, loss=1.25, tokens_per_second=512.0, eta_seconds=720.0
)


def status_of(observed: ObservedFineTune) -> dict[str, Any]:
    planned = plan(observed)
    stored = observed.document.get("status") if planned.status is None else planned.status
    assert stored is not None
    return dict(stored)


def disrupted(observed: ObservedFineTune, reason: str, message: str, *, code: int | None = 143) -> dict[str, Any]:
    plain = running(observed) if code is None else ended(observed, code)
    said = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    plain["status"]["conditions"] = [said]
    if code is None:
        plain["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
    return plain


def test_a_run_that_works_shows_its_progress() -> None:
    observed = started()
    status = status_of(reporting(with_pods(observed, running(observed)), TRAINING))
    assert status["phase"] == "Training"
    assert condition(status, "Running")[:2] == ("True", "Running")
    assert condition(status, "Succeeded")[0] == "Unknown"
    assert status["progress"] == {
        "step": 41,
        "of": 100,
        "epoch": 0.82,
        "percent": "41%",
        "loss": 1.25,
        "tokensPerSecond": 512.0,
        "eta": "12m",
    }
    assert status["lossCurve"] == [{"step": 41, "loss": 1.25}]


def test_a_run_whose_pod_has_succeeded_does_not_go_back_to_pending_until_its_job_is_complete() -> None:
    observed = started()
    observed = reporting(with_pods(observed, running(observed)), Progress(phase="Storing", step=100, of=100))
    observed = carry_out(observed, plan(observed))
    done = ended(observed, 0)
    for pod_phase in ("Running", "Succeeded"):
        done["status"]["phase"] = pod_phase
        status = status_of(with_pods(observed, done))
        assert status["phase"] == "Storing"
        assert condition(status, "Succeeded")[0] == "Unknown"


def test_a_mistake_is_told_once_though_its_pod_ends_before_its_job() -> None:
    observed = started()
    observed = with_pods(observed, ended(observed, 10, Outcome(reason="DataInvalid", message="no column 'x'")))
    first = plan(observed)
    assert condition(first.status, "Running") == ("False", "DataInvalid", "no column 'x'")
    assert condition(first.status, "Succeeded")[0] == "Unknown"
    assert warnings(first) == ["DataInvalid"]
    then = plan(with_job_condition(carry_out(observed, first), "Failed", "PodFailurePolicy", ""))
    assert condition(then.status, "Succeeded") == ("False", "DataInvalid", "no column 'x'")
    assert warnings(then) == []


def test_a_phase_outlasts_a_restart_of_the_operator() -> None:
    observed = started()
    observed = reporting(with_pods(observed, running(observed)), TRAINING)
    observed = carry_out(observed, plan(observed))
    forgotten = replace(observed, progress={})
    assert plan(forgotten).status is None
    assert status_of(forgotten)["phase"] == "Training"


def test_a_run_that_succeeded_shows_its_artifact_and_metrics() -> None:
    status = finished().document["status"]
    assert status["phase"] == "Succeeded"
    assert condition(status, "Succeeded")[:2] == ("True", "Succeeded")
    assert condition(status, "ArtifactsStored")[0] == "True"
    assert status["metrics"] == {"eval.loss": 0.5, "train.loss": 0.4}
    assert status["artifact"]["digest"] == SUCCEEDED.artifact_digest
    assert status["artifact"]["baseModel"] == "acme/small"
    assert (status["progress"]["percent"], status["progress"]["step"]) == ("100%", 40)


def test_a_result_is_told_only_once_the_last_words_of_its_pod_are_here() -> None:
    observed = started()
    early = with_job_condition(with_pods(observed, running(observed)), "Complete")
    assert status_of(early)["phase"] == "Preparing"


def test_a_result_whose_pod_is_gone_is_known_by_its_place() -> None:
    status = status_of(with_job_condition(started(), "Complete"))
    assert status["phase"] == "Succeeded"
    assert status["artifact"]["uri"] == "s3://models/bot"


def test_a_run_that_is_done_is_done_to_the_end_though_its_pod_told_less() -> None:
    observed = started()
    observed = reporting(with_pods(observed, running(observed)), Progress(phase="Training", step=41, of=100))
    observed = carry_out(observed, plan(observed))
    status = status_of(with_job_condition(with_pods(observed), "Complete"))
    assert (status["progress"]["percent"], status["progress"]["step"]) == ("100%", 100)
    assert "eta" not in status["progress"]


def test_a_result_on_a_volume_is_named_by_its_claim() -> None:
    volume = {"output": {"uri": None, "volume": {"claimName": "results", "path": "bot"}}}
    assert status_of(with_job_condition(started(volume), "Complete"))["artifact"]["uri"] == "volume://results/bot"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (10, "DataInvalid"),
        (10, "ConfigInvalid"),
        (10, "ModelNotFound"),
        (11, "ModelAccessDenied"),
        (12, "OutOfMemory"),
        (13, "Diverged"),
        (14, "GateNotMet"),
    ],
)
def test_a_failure_is_named_by_the_runner_itself(code: int, reason: str) -> None:
    status = failed(code, Outcome(reason=reason, message="what to do")).document["status"]
    assert status["phase"] == "Failed"
    assert condition(status, "Succeeded") == ("False", reason, "what to do")
    assert condition(status, "Running")[1] == reason
    assert condition(status, "ArtifactsStored")[0] == "False"


def test_a_runner_without_last_words_is_judged_by_its_exit_code() -> None:
    assert condition(failed(13, None).document["status"], "Succeeded")[1] == "Diverged"


def test_a_failure_is_told_as_one_event() -> None:
    observed = started()
    observed = with_pods(observed, ended(observed, 12, Outcome(reason="OutOfMemory", message="needs 20 GiB")))
    planned = plan(with_job_condition(observed, "Failed", "PodFailurePolicy", ""))
    assert warnings(planned) == ["OutOfMemory"]


@pytest.mark.parametrize(
    ("pod_reason", "outcome", "reason"),
    [
        ("OOMKilled", None, "OutOfMemory"),
        ("Error", None, "RetriesExhausted"),
        ("Error", Outcome(reason="Unexpected", message="KeyError: 'x'"), "RetriesExhausted"),
        ("Error", Outcome(reason="StorageFailed", message="no route to host"), "StorageFailed"),
    ],
)
def test_what_was_tried_too_often_is_named_by_its_cause_if_it_has_a_name(
    pod_reason: str, outcome: Outcome | None, reason: str
) -> None:
    observed = started()
    code = 137 if pod_reason == "OOMKilled" else 1
    observed = with_pods(observed, *(ended(observed, code, outcome, number=n, reason=pod_reason) for n in range(4)))
    status = status_of(with_job_condition(observed, "Failed", "BackoffLimitExceeded", "limit"))
    _, found, words = condition(status, "Succeeded")
    assert found == reason
    assert "given up after 4 attempts" in words
    assert len(status["attempts"]) == 4


def test_a_run_that_took_too_long_says_which_limit_it_was() -> None:
    observed = started({"run": {"deadlineSeconds": 60}})
    status = status_of(with_job_condition(observed, "Failed", "DeadlineExceeded", "Job was active longer"))
    _, found, words = condition(status, "Succeeded")
    assert found == "DeadlineExceeded"
    assert "run.deadlineSeconds (60)" in words


@pytest.mark.parametrize(
    ("disruption", "code", "reason"),
    [
        ("PreemptionByScheduler", 143, "Preempted"),
        ("EvictionByEvictionAPI", 143, "Evicted"),
        ("TerminationByKubelet", 137, "Evicted"),
        ("DeletionByTaintManager", None, "NodeLost"),
        ("DeletionByTaintManager", 143, "Evicted"),
        ("DeletionByPodGC", None, "NodeLost"),
    ],
)
def test_an_attempt_that_was_ended_from_outside_says_by_whom(disruption: str, code: int | None, reason: str) -> None:
    observed = started()
    observed = with_pods(observed, disrupted(observed, disruption, "why", code=code))
    status = status_of(observed)
    assert status["attempts"][-1]["reason"] == reason
    _, found, words = condition(status, "Running")
    assert found == reason
    assert "starts again" in words
    assert plan(observed).apply == ()


def test_each_attempt_is_kept_after_its_pod_is_gone() -> None:
    observed = started()
    observed = with_pods(observed, ended(observed, 143, Outcome(reason="Stopped", message="saved at step 7")))
    observed = carry_out(observed, plan(observed))
    again = with_pods(observed, running(observed, number=5))
    again = reporting(again, TRAINING.model_copy(update={"resumed_from_step": 7}))
    attempts = status_of(again)["attempts"]
    assert [attempt.get("reason") for attempt in attempts] == ["Stopped", None]
    assert attempts[0]["exitCode"] == 143
    assert attempts[1]["resumedFromStep"] == 7


def test_an_attempt_that_vanished_is_closed() -> None:
    observed = started()
    observed = with_pods(observed, running(observed))
    observed = with_pods(carry_out(observed, plan(observed)))
    (attempt,) = status_of(observed)["attempts"]
    assert attempt["reason"] == "Stopped"
    assert attempt["endedAt"] == "2026-03-01T12:00:00Z"


def test_an_attempt_that_failed_is_told_once() -> None:
    observed = started()
    observed = with_pods(observed, ended(observed, 20, Outcome(reason="StorageFailed", message="no route")))
    first = plan(observed)
    assert "AttemptFailed" in warnings(first)
    assert plan(carry_out(observed, first)).events == ()


def test_of_several_nodes_the_most_telling_end_is_the_reason() -> None:
    observed = started({"compute": {"nodes": 2}})
    partner = ended(observed, 1, Outcome(reason="Unexpected", message="connection closed"), number=0)
    cause = ended(observed, 12, Outcome(reason="OutOfMemory", message="needs 20 GiB"), number=1)
    cause["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": "1"}
    observed = with_job_condition(with_pods(observed, partner, cause), "Failed", "PodFailurePolicy", "")
    assert condition(status_of(observed), "Succeeded")[1] == "OutOfMemory"


LOST = Outcome(reason="PeerLost", message="another process of this run is gone", last_step=7)


def of_node(number: int, pod: dict[str, Any], **status: Any) -> dict[str, Any]:
    annotations = {"batch.kubernetes.io/job-completion-index": str(number)}
    metadata = {**pod["metadata"], "name": f"bot-{number}-x7k2p", "annotations": annotations}
    return {
        **pod,
        "metadata": metadata,
        "spec": {"nodeName": f"node-{number}"},
        "status": {**pod["status"], **status},
    }


def test_an_attempt_of_several_nodes_is_told_by_the_one_that_ended_it_and_counts_once() -> None:
    observed = started({"compute": {"nodes": 2}})
    follower = of_node(0, ended(observed, ExitCode.PEER_LOST, LOST))
    first = plan(with_pods(observed, follower, of_node(1, running(observed))))
    assert "AttemptFailed" not in warnings(first)
    culprit = of_node(1, ended(observed, 137, reason="OOMKilled"))
    second = plan(with_pods(carry_out(observed, first), follower, culprit))
    assert warnings(second).count("AttemptFailed") == 1
    (attempt,) = second.status["attempts"]
    assert (attempt["reason"], attempt["exitCode"]) == ("OutOfMemory", 137)
    assert attempt["message"].startswith("pod bot-1-x7k2p on node node-1: ")
    third = plan(with_pods(carry_out(carry_out(observed, first), second), follower))
    assert third.events == ()
    assert third.status is None or third.status["attempts"] == [attempt]


def test_of_several_nodes_one_that_is_taken_away_is_why_all_stopped() -> None:
    observed = started({"compute": {"nodes": 2}})
    follower = of_node(0, ended(observed, ExitCode.STOPPED, Outcome(reason="Stopped", message="saved")))
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": ""}
    culprit = of_node(1, ended(observed, ExitCode.STOPPED), conditions=[taken])
    (attempt,) = status_of(with_pods(observed, follower, culprit))["attempts"]
    assert attempt["reason"] == "Preempted"
    assert "node-1" in attempt["message"]


def test_what_several_nodes_have_stored_is_told_by_the_first() -> None:
    observed = started({"compute": {"nodes": 2}})
    stored = Outcome(reason="Succeeded", artifact_uri="s3://models/bot", artifact_digest="sha256:1")
    pods = [of_node(0, ended(observed, 0, stored)), of_node(1, ended(observed, 0, Outcome(reason="Succeeded")))]
    done = with_job_condition(with_pods(observed, *pods), "Complete")
    assert status_of(done)["artifact"]["digest"] == "sha256:1"


def test_each_change_of_phase_is_an_event() -> None:
    observed = started()
    planned = plan(with_pods(observed, running(observed)))
    assert [(note.type, note.reason) for note in planned.events] == [("Normal", "Preparing")]


def test_progress_alone_is_written_only_now_and_then() -> None:
    observed = started()
    observed = reporting(with_pods(observed, running(observed)), TRAINING)
    observed = replace(carry_out(observed, plan(observed)), status_written_at=NOW)
    further = reporting(observed, TRAINING.model_copy(update={"step": 42}))
    soon = plan(further, now=NOW + timedelta(seconds=2))
    assert (soon.status, soon.again_after_seconds) == (None, 3.0)
    later = plan(further, now=NOW + timedelta(seconds=6))
    assert later.status is not None
    assert later.status["progress"]["step"] == 42


def test_a_change_of_phase_is_written_at_once() -> None:
    observed = started()
    observed = reporting(with_pods(observed, running(observed)), TRAINING)
    observed = replace(carry_out(observed, plan(observed)), status_written_at=NOW)
    storing = reporting(observed, TRAINING.model_copy(update={"phase": "Storing"}))
    planned = plan(storing, now=NOW + timedelta(seconds=1))
    assert planned.status is not None
    assert planned.status["phase"] == "Storing"


def test_every_reason_that_a_runner_gives_is_one_of_the_contract() -> None:
    leaves = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RunError)]
    names = {kind.__name__ for kind in leaves if not kind.__subclasses__()}
    assert names - {reason.value for reason in Reason} == set()
