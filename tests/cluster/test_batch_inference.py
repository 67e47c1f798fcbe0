"""A dataset answered by a fine-tune's model in several pods: one of them is lost midway, and not a row with it."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.cluster.cluster import Cluster
from tests.support.installation import S3_SECRET, Installation
from tests.support.models import llama_config, save_model
from tests.support.tuning import Watched, build_fine_tune, build_questions

pytestmark = pytest.mark.timeout(1800)
"""The first of them waits for images to be built."""

ROWS, SHARDS = 400, 2
TOKENS = 48
BAD_ROW = 7
MODEL = "batched"
"""A model of random weights, large enough that a shard takes about a minute of one core."""
STRICT_INPUT = {"name": "question", "type": "text", "preprocessing": {"missing_value_strategy": "drop_row"}}
"""A row without a question has no answer; else it would be asked with an empty one."""
END_SECONDS = 600
LABEL = "llmoperator.dev/inference=answers"


class Batch(Watched):
    kind = "llminf"

    def pods(self) -> list[dict[str, Any]]:
        return items_of(self._cluster, "pods", self.namespace)

    def pods_of(self, shard: int) -> list[dict[str, Any]]:
        """Oldest first."""
        index = "batch.kubernetes.io/job-completion-index"
        found = [pod for pod in self.pods() if pod["metadata"]["annotations"][index] == str(shard)]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def items_of(cluster: Cluster, kind: str, namespace: str) -> list[dict[str, Any]]:
    text = cluster.kubectl("get", kind, "-n", namespace, "-l", LABEL, "-o", "json")
    found: list[dict[str, Any]] = json.loads(text)["items"]
    return found


def build_rows() -> list[dict[str, Any]]:
    """Questions with known answers, one without a question, and columns that the model has nothing to do with."""
    rows = [json.loads(line) for line in build_questions(ROWS, words=2).splitlines()]
    rows = [{"id": number, **row, "tags": ["a", number]} for number, row in enumerate(rows)]
    rows[BAD_ROW]["question"] = None
    return rows


def to_lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def build_batch(installation: Installation, namespace: str, rows_uri: str) -> dict[str, Any]:
    s3 = {"secretRef": {"name": S3_SECRET}, "endpointUrl": installation.s3.endpoint_url, "region": "us-east-1"}
    generation = {"do_sample": False, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    return {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMInference",
        "metadata": {"name": "answers", "namespace": namespace},
        "spec": {
            "model": {"fineTuneRef": {"name": "bot"}},
            "config": {"generation": generation},
            "credentials": {"s3": s3},
            "compute": {"resources": {"requests": {"cpu": "200m"}, "limits": {"cpu": "1"}}},
            "batch": {
                "dataset": {"uri": rows_uri},
                "output": {"uri": f"s3://models/{namespace}/answers.jsonl"},
                "shards": SHARDS,
            },
        },
    }


@pytest.fixture(scope="module")
def batch(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """Applied before its model is there, as GitOps tools do."""
    config = llama_config(hidden_size=384, intermediate_size=1024, num_hidden_layers=4)
    installation.add_model(MODEL, save_model(tmp_path_factory.mktemp("model") / MODEL, config))
    installation.put("datasets", "questions.jsonl", build_questions(40, words=2))
    rows_uri = installation.put("datasets", "rows.jsonl", to_lines(build_rows()))
    namespace = installation.make_namespace()
    installation.cluster.apply(build_batch(installation, namespace, rows_uri))
    return Batch(installation, namespace, "answers")


@pytest.fixture(scope="module")
def resumed(installation: Installation, batch: Batch) -> Batch:
    """The batch once it is over, after a pod of its first shard was deleted midway."""
    config = {"base_model": MODEL, "input_features": [STRICT_INPUT]}
    installation.cluster.apply(build_fine_tune(installation, batch.namespace, "bot", config=config))
    batch.wait_until(lambda status: status.get("progress", {}).get("rows", 0) >= ROWS // 8, "midway", END_SECONDS)
    (pod,) = batch.pods_of(0)
    installation.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", batch.namespace, "--wait=false")
    batch.wait_for("Complete", END_SECONDS)
    return batch


def test_a_batch_waits_for_its_fine_tune(batch: Batch) -> None:
    batch.wait_until(
        lambda _: batch.condition("ModelReady").get("reason") == "FineTuneNotFound", "waiting for its fine-tune", 60
    )
    assert batch.status["phase"] == "WaitingForModel"
    assert batch.pods() == []


def test_every_row_comes_back_in_its_place_with_its_columns_and_an_answer(
    installation: Installation, resumed: Batch
) -> None:
    stored = installation.artifact_folder(f"s3://models/{resumed.namespace}/answers.jsonl")
    answered = [json.loads(line) for line in stored.read_text().splitlines()]
    asked = build_rows()
    assert [{key: row[key] for key in asked[0]} for row in answered] == asked
    assert list(answered[0]) == ["id", "question", "answer", "tags", "answer_predictions", "answer_error"]
    failed = [row["id"] for row in answered if row["answer_predictions"] is None]
    assert failed == [BAD_ROW]
    assert "no value in column 'question'" in answered[BAD_ROW]["answer_error"]
    assert [row["id"] for row in answered if row["answer_error"] is not None] == failed


def test_a_shard_whose_pod_was_deleted_goes_on_from_the_rows_that_it_had(resumed: Batch) -> None:
    newest = resumed.pods_of(0)[-1]
    said = outcome_of(newest)
    assert said["resumedFromStep"] > 0
    assert sum("resumedFromStep" in outcome_of(pod) for pod in resumed.pods_of(1)) == 0, "the other went on unharmed"


def outcome_of(pod: Mapping[str, Any]) -> dict[str, Any]:
    (container,) = pod["status"]["containerStatuses"]
    said: dict[str, Any] = json.loads(container["state"]["terminated"]["message"])
    return said


def test_the_status_says_what_came_of_it(installation: Installation, resumed: Batch) -> None:
    status = resumed.status
    assert status["phase"] == "Succeeded"
    assert status["progress"] == {
        "rows": ROWS, "of": ROWS, "percent": "100%", "failedRows": 1, "shardsSucceeded": SHARDS
    }  # fmt: skip
    assert status["output"]["uri"] == f"s3://models/{resumed.namespace}/answers.jsonl"
    stored = installation.artifact_folder(status["output"]["uri"])
    assert status["output"]["sizeBytes"] == stored.stat().st_size
    assert {"exact_match", "rouge_l", "loss", "perplexity"} < set(status["metrics"])
    assert status["metrics"]["measured_rows"] == ROWS - 1
    complete = resumed.condition("Complete")
    assert complete["message"].startswith(f"{ROWS - 1} of {ROWS} rows are answered")
    # An event follows the status that it is about.
    resumed.wait_until(lambda _: "Succeeded" in dict(resumed.events()), "told", 60)
    told = [reason for reason, _ in resumed.events()]
    assert [told.count(reason) for reason in ("WaitingForModel", "Succeeded")] == [1, 1]
    # It runs anew where its other shard had ended, or not begun, when the pod of this one was deleted.
    assert told.count("Running") >= 1


def test_people_see_how_many_shards_are_done(installation: Installation, resumed: Batch) -> None:
    header, row = installation.cluster.kubectl("get", "llminf", "-n", resumed.namespace).splitlines()
    assert header.split()[:4] == ["NAME", "PHASE", "MODEL", "READY"]
    assert row.split()[:4] == ["answers", "Succeeded", "bot", f"{SHARDS}/{SHARDS}"]


def test_what_is_answered_is_not_asked_again_when_its_job_is_cleared_away_or_its_pods_are_edited(
    installation: Installation, resumed: Batch
) -> None:
    before = resumed.status["output"]
    installation.cluster.kubectl("delete", "job", "-n", resumed.namespace, "-l", LABEL, "--wait=true")
    resumed.patch({"compute": {"resources": {"requests": {"cpu": "100m"}}}})
    generation = resumed.document["metadata"]["generation"]
    resumed.wait_until(lambda status: status["observedGeneration"] == generation, "seen by the operator", 60)
    assert items_of(installation.cluster, "jobs", resumed.namespace) == []
    assert (resumed.status["phase"], resumed.status["output"]) == ("Succeeded", before)


def test_a_deleted_batch_takes_its_run_file_along_and_leaves_its_predictions(
    installation: Installation, resumed: Batch
) -> None:
    stored = installation.artifact_folder(resumed.status["output"]["uri"])
    installation.cluster.kubectl("delete", "llminf", "answers", "-n", resumed.namespace, "--wait=true")
    installation.cluster.kubectl(
        "wait", "--for=delete", "configmap", "-l", LABEL, "-n", resumed.namespace, "--timeout=90s"
    )
    assert items_of(installation.cluster, "jobs,pods", resumed.namespace) == []
    assert len(stored.read_text().splitlines()) == ROWS
