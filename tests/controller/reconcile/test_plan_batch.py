"""A batch's status from its shards' pods, and that what is answered is never asked again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from llm_api.report import FINAL_FAILURES, UNCOUNTED, ExitCode, Outcome, Progress
from llm_operator.observed import ClusterEvent, ObservedInference, ProgressReport

from tests.support.fine_tunes import NOW, condition, ended, name_of, running
from tests.support.inferences import PREDICTS, carry_out, edit, inference, plan, started, tuned

SHARDS = 4
ROWS = 40
PART = Outcome(reason="Succeeded", last_step=ROWS // SHARDS, metrics={"rows": ROWS / SHARDS})
MERGED = Outcome(
    reason="Succeeded",
    last_step=ROWS,
    metrics={"rows": ROWS, "failed_rows": 2.0, "exact_match": 0.5},
    artifact_uri="/output/out.parquet",
    artifact_digest="sha256:" + "c" * 64,
    artifact_size_bytes=321,
)


def of_shard(pod: dict[str, Any], index: int) -> dict[str, Any]:
    metadata = {**pod["metadata"], "annotations": {"batch.kubernetes.io/job-completion-index": str(index)}}
    return {**pod, "metadata": metadata}


def with_batch(
    observed: ObservedInference, pods: Sequence[dict[str, Any]], reported: dict[int, int] | None = None, **status: Any
) -> ObservedInference:
    """``reported``: rows that the pod at that place says are answered."""
    progress = {
        name_of(pods[place]): ProgressReport(
            name_of(pods[place]), Progress(phase="Predicting", step=rows, of=ROWS // SHARDS, eta_seconds=30), NOW
        )
        for place, rows in ({} if reported is None else reported).items()
    }
    jobs = [{**observed.jobs[0], "status": status}]
    return replace(observed, pods=list(pods), progress=progress, jobs=jobs)


def status_of(observed: ObservedInference) -> dict[str, Any]:
    return dict(carry_out(observed, plan(observed)).document["status"])


def complete(observed: ObservedInference) -> ObservedInference:
    outcomes = [PART, PART, MERGED, PART]
    pods = [of_shard(ended(observed, 0, said, number=number), number) for number, said in enumerate(outcomes)]
    done = with_batch(
        observed, pods, conditions=[{"type": "Complete", "status": "True"}], succeeded=SHARDS, completedIndexes="0-3"
    )
    return carry_out(done, plan(done))


def test_rows_of_all_shards_are_added_up_whatever_has_ended_already() -> None:
    observed = started(PREDICTS)
    pods = [
        of_shard(ended(observed, 0, PART, number=0), 0),
        of_shard(running(observed, 1), 1),
        of_shard(running(observed, 2), 2),
    ]
    status = status_of(with_batch(observed, pods, {1: 4}, succeeded=1))
    assert status["phase"] == "Running"
    assert status["progress"] == {
        "rows": 14, "of": 20, "percent": "70%", "failedRows": 0, "shardsSucceeded": 1, "eta": "30s"
    }  # fmt: skip


def test_a_shard_that_was_started_again_counts_once() -> None:
    observed = started(PREDICTS)
    pods = [of_shard(ended(observed, 20, None, number=0), 0), of_shard(running(observed, 1), 0)]
    assert status_of(with_batch(observed, pods, {0: 6}))["progress"]["rows"] == 6, "until the new pod has said more"
    assert status_of(with_batch(observed, pods, {0: 6, 1: 8}))["progress"]["rows"] == 8


def test_a_finished_batch_says_what_came_of_it_and_where_it_lies() -> None:
    status = complete(started(PREDICTS)).document["status"]
    assert (status["phase"], status["ready"]) == ("Succeeded", "4/4")
    assert status["progress"]["rows"] == ROWS
    assert status["progress"]["failedRows"] == 2
    assert status["metrics"] == MERGED.metrics
    assert status["output"]["uri"] == "s3://results/out.parquet", "as its owner calls it, not as the pod did"
    assert (status["output"]["digest"], status["output"]["sizeBytes"]) == (MERGED.artifact_digest, 321)
    state, _, message = condition(status, "Complete")
    assert state == "True"
    assert message == (
        "38 of 40 rows are answered, and the error column of the others says why; stored at s3://results/out.parquet"
    )


def test_between_the_last_pods_end_and_the_jobs_nothing_starts_anew_and_no_row_counts_twice() -> None:
    observed = started(PREDICTS)
    outcomes = [PART, PART, PART, MERGED]
    pods = [of_shard(ended(observed, 0, said, number=number), number) for number, said in enumerate(outcomes)]
    status = status_of(with_batch(observed, pods, succeeded=3))
    assert status["phase"] == "Running"
    assert (status["progress"]["rows"], status["progress"]["of"]) == (ROWS, ROWS)
    assert condition(status, "Complete")[2] == "3 of 4 shards are done"


def test_a_batch_is_not_said_to_be_over_before_the_last_words_of_its_pods_are_there() -> None:
    observed = started(PREDICTS)
    pods = [of_shard(running(observed, number), number) for number in range(SHARDS)]
    early = with_batch(observed, pods, conditions=[{"type": "Complete", "status": "True"}], succeeded=SHARDS)
    assert condition(status_of(early), "Complete")[0] == "Unknown"


def test_what_is_answered_stays_answered_when_the_pods_go_and_then_the_job() -> None:
    observed = complete(started(PREDICTS))
    told = observed.document["status"]
    without_pods = replace(observed, pods=[])
    assert plan(without_pods).status is None, "nothing has changed"
    cleared = replace(without_pods, jobs=[])
    planned = plan(cleared)
    assert (planned.apply, planned.status) == ((), None)
    assert carry_out(cleared, planned).document["status"] == told


@pytest.mark.parametrize("change", [{"compute": {"resources": {"limits": {"memory": "8Gi"}}}}, {"credentials": {}}])
def test_an_edit_that_changes_no_answer_repeats_nothing_after_the_job_was_cleared(change: dict[str, Any]) -> None:
    planned = plan(edit(replace(complete(started(PREDICTS)), jobs=[], pods=[]), change))
    assert planned.apply == ()
    assert planned.status is not None
    assert planned.status["phase"] == "Succeeded"


def test_other_rows_are_another_batch_and_say_nothing_of_the_one_before() -> None:
    observed = edit(complete(started(PREDICTS)), {"batch": {"dataset": {"uri": "s3://datasets/other.jsonl"}}})
    planned = plan(observed)
    assert "Job" in [manifest["kind"] for manifest in planned.apply]
    assert planned.status is not None
    assert "output" not in planned.status
    assert "metrics" not in planned.status


def test_events_tell_each_phase_of_a_batch_with_what_its_condition_says() -> None:
    observed = started(PREDICTS)
    pods = [of_shard(running(observed, number), number) for number in range(SHARDS)]
    begun = plan(with_batch(observed, pods, succeeded=1))
    assert [(note.type, note.reason, note.message) for note in begun.events] == [
        ("Normal", "Running", "1 of 4 shards are done")
    ]
    done = with_batch(
        observed,
        [of_shard(ended(observed, 0, MERGED, number=0), 0)],
        conditions=[{"type": "Complete", "status": "True"}],
        succeeded=SHARDS,
    )
    (note,) = plan(done).events
    assert (note.type, note.reason) == ("Normal", "Succeeded")
    assert note.message.startswith("38 of 40 rows are answered")


def test_a_batch_with_a_queue_waits_in_it_and_says_why() -> None:
    label = {"labels": {"kueue.x-k8s.io/queue-name": "gpus"}}
    observed = ObservedInference(document=inference(PREDICTS, **label), fine_tune=tuned())
    observed = carry_out(observed, plan(observed))
    job = observed.jobs[0]
    assert job["spec"]["suspend"] is True
    said = ClusterEvent("Job", name_of(job), "Pending", "no quota for nvidia.com/gpu", NOW)
    status = status_of(replace(observed, events=[said]))
    assert status["phase"] == "Queued"
    assert condition(status, "Complete")[1:] == (
        "Queued", "waits for its queue to admit it: no quota for nvidia.com/gpu"
    )  # fmt: skip


TOO_LARGE = Outcome(reason="OutOfMemory", message="row 7 needs 20 GiB")


def test_a_shard_that_is_given_up_stops_no_other_and_is_named_with_its_reason() -> None:
    observed = started(PREDICTS)
    job = observed.jobs[0]["spec"]
    rules = {rule["action"]: rule.get("onExitCodes", {}).get("values") for rule in job["podFailurePolicy"]["rules"]}
    assert rules["FailIndex"] == sorted(FINAL_FAILURES)
    assert "FailJob" not in rules
    assert job["backoffLimitPerIndex"] == 3
    pods = [
        of_shard(ended(observed, 12, TOO_LARGE, number=0), 2),
        of_shard(running(observed, 1), 0),
        of_shard(ended(observed, ExitCode.STOPPED, None, number=2), 1),
    ]
    status = status_of(with_batch(observed, pods, succeeded=1, completedIndexes="3", failedIndexes="2"))
    assert status["phase"] == "Running"
    assert condition(status, "Complete") == (
        "Unknown", "Running", "1 of 4 shards are done; shard 2 failed, the others go on; shard 2: row 7 needs 20 GiB"
    )  # fmt: skip


def test_a_batch_of_which_shards_failed_says_which_and_how_the_rest_is_answered() -> None:
    observed = started(PREDICTS)
    pods = [
        of_shard(ended(observed, 12, TOO_LARGE, number=0), 2),
        of_shard(ended(observed, 20, Outcome(reason="StorageFailed", message="no route"), number=1), 1),
        of_shard(ended(observed, 0, PART, number=2), 1),
    ]
    over = [{"type": "Failed", "status": "True", "reason": "FailedIndexes", "message": "Job has failed indexes"}]
    status = status_of(with_batch(observed, pods, succeeded=1, failedIndexes="0,2-3", conditions=over))
    assert status["phase"] == "Failed"
    _, reason, message = condition(status, "Complete")
    assert reason == "OutOfMemory", "and not of the shard that was tried again"
    assert message.startswith("shards 0, 2, 3 failed; shard 2: row 7 needs 20 GiB; mend that and delete Job bot-")


@pytest.mark.parametrize("code", sorted(UNCOUNTED))
def test_a_pod_that_others_ended_is_not_why_a_batch_failed(code: int) -> None:
    observed = started(PREDICTS)
    pods = [
        of_shard(ended(observed, 20, Outcome(reason="StorageFailed", message="no route"), number=0), 1),
        of_shard(ended(observed, code, None, number=1), 2),
    ]
    over = [{"type": "Failed", "status": "True", "reason": "FailedIndexes", "message": ""}]
    status = status_of(with_batch(observed, pods, failedIndexes="1", conditions=over))
    assert condition(status, "Complete")[1] == "StorageFailed"


def test_shards_that_a_quota_keeps_from_being_made_are_told_while_the_others_work() -> None:
    observed = started(PREDICTS)
    event = ClusterEvent("Job", name_of(observed.jobs[0]), "FailedCreate", "exceeded quota: gpus, requested: 1", NOW)
    pods = [of_shard(running(observed, 0), 0), of_shard(ended(observed, 0, PART, number=0), 1)]
    status = status_of(replace(with_batch(observed, pods, succeeded=1), events=[event]))
    assert status["phase"] == "Running"
    assert "1 of 4 shards are done; the namespace's quota gpus is used up" in condition(status, "Complete")[2]
