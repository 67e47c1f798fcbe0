"""What Kubernetes' own controllers make of our Jobs, and the operator of that; only kubelets are played."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.actors import now
from tests.support.cluster.control_plane import Settings, run_control_plane
from tests.support.operator_process import run_operator, wait_until
from tests.support.world import World, build_example, install_crds

INDEX = "batch.kubernetes.io/job-completion-index"
USER_ERROR, STORAGE_FAILED = 10, 20


class Team(World):
    """A namespace in which pods are made, and end as they are told to."""

    def pods_of(self, index: int) -> list[dict[str, Any]]:
        """Oldest first."""
        found = [pod for pod in self.found("pods") if pod["metadata"]["annotations"][INDEX] == str(index)]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def start(self, index: int) -> None:
        self._set_pod(index, "Running", {"running": {"startedAt": now()}})

    def end(self, index: int, exit_code: int) -> None:
        ended = {"exitCode": exit_code, "reason": "Error", "startedAt": now(), "finishedAt": now()}
        self._set_pod(index, "Succeeded" if exit_code == 0 else "Failed", {"terminated": ended})

    def inference(self) -> tuple[str, str]:
        """Phase, and what there is to say of the batch."""
        status = self.plane.get("llminf", "answers", self.namespace).get("status", {})
        said = [one["message"] for one in status.get("conditions", []) if one["type"] == "Complete"]
        return status.get("phase", ""), "".join(said)

    def _set_pod(self, index: int, phase: str, state: dict[str, Any]) -> None:
        wait_until(lambda: self.pods_of(index) != [], f"a pod {index}")
        container = {"name": "runner", "image": "runner:test", "imageID": "", "restartCount": 0, "ready": False}
        status = {"phase": phase, "containerStatuses": [{**container, "state": state}]}
        name = self.pods_of(index)[-1]["metadata"]["name"]
        patch = ("--subresource=status", "--type=merge", f"--patch={json.dumps({'status': status})}")
        self.kubectl("patch", "pod", name, *patch)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("controllers")
    with run_control_plane(folder, Settings(has_controllers=True)) as plane:
        install_crds(plane)
        with run_operator(plane.kubeconfig, folder, progress_url="http://operator.test/progress"):
            yield Team(plane)


def test_a_shard_that_fails_is_redone_or_given_up_alone(team: Team) -> None:
    batch = {
        "dataset": {"uri": "s3://datasets/rows.jsonl"},
        "output": {"uri": "s3://results/answers.jsonl"},
        "shards": 3,
    }
    inference = {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMInference",
        "metadata": {"name": "answers", "namespace": team.namespace},
        "spec": {"model": {"uri": "s3://models/chat"}, "batch": batch},
    }
    team.plane.apply(inference)
    for index in range(3):
        team.start(index)
    team.end(0, STORAGE_FAILED)
    team.end(1, USER_ERROR)
    wait_until(lambda: "shard 1 failed, the others go on" in team.inference()[1], "told of the shard that is given up")
    assert team.inference()[0] == "Running"
    wait_until(lambda: len(team.pods_of(0)) == 2, "the other one's retry")
    assert [len(team.pods_of(index)) for index in (1, 2)] == [1, 1]
    team.start(0)
    team.end(0, 0)
    team.end(2, 0)
    wait_until(lambda: team.inference()[0] == "Failed", "over")
    assert team.inference()[1].startswith("shard 1 failed; shard 1: the runner ended with exit code 10")
    assert [len(team.pods_of(index)) for index in range(3)] == [2, 1, 1]
    team.kubectl("delete", "llminf", "answers")


def test_a_pod_that_a_quota_refuses_holds_no_node_of_the_others(team: Team) -> None:
    team.kubectl("wait", "--for=delete", "pods", "--all", "--timeout=60s")
    team.kubectl("create", "quota", "tight", "--hard=pods=1")
    wait_until(lambda: team.found("quota")[0].get("status", {}).get("used") == {"pods": "0"}, "the quota counted")
    manifest = build_example("bot", team.namespace, compute={"nodes": 2}, run={"startTimeoutSeconds": 5})
    manifest["spec"]["config"]["trainer"]["batch_size"] = 2
    team.plane.apply(manifest)
    wait_until(lambda: team.found("pods") != [], "one of two pods")
    (pod,) = team.found("pods")
    team.start(int(pod["metadata"]["annotations"][INDEX]))
    team.wait_phase("Suspended", "bot")
    said = team.condition("Running", "bot")
    assert said["reason"] == "StartTimeout"
    assert "1 of 2 pods started within 5 s (run.startTimeoutSeconds)" in said["message"]
    assert "1 missing: QuotaExceeded: the namespace's quota tight is used up" in said["message"]
    wait_until(lambda: team.found("pods") == [], "the other's node given back")
