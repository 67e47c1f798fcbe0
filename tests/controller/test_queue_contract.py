"""A run in a queue, where the test plays Kueue's side of the contract against a real API server.

Kueue ends and begins the suspension of a Job, and writes into the pod template of a suspended one on which nodes the
flavor that it chose is to be had: https://kueue.sigs.k8s.io/docs/tasks/run/jobs/,
https://kueue.sigs.k8s.io/docs/concepts/resource_flavor/.
"""

import json
import time
from typing import Any

import pytest

from tests.support.actors import Run, now
from tests.support.operator_process import OperatorProcess, wait_until
from tests.support.world import World, build_example

NAME = "support-tickets"
QUEUE = "kueue.x-k8s.io/queue-name"
FLAVOR = {
    "nodeSelector": {"cloud.example.com/pool": "spot-h100"},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
}
NO_QUOTA = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor spot"


class Queue:
    """Kueue, as far as one run sees it."""

    def __init__(self, world: World, run: Run) -> None:
        self.world = world
        self.run = run

    @property
    def job(self) -> dict[str, Any]:
        return self.world.plane.get("job", self.run.job_name, self.world.namespace)

    def owners_of(self, field: str) -> set[str]:
        found = json.loads(
            self.world.kubectl("get", "job", self.run.job_name, "--output=json", "--show-managed-fields")
        )
        return {entry["manager"] for entry in found["metadata"]["managedFields"] if f'"{field}"' in json.dumps(entry)}

    def admit(self) -> None:
        self._patch({"suspend": False, "template": {"spec": FLAVOR}})

    def preempt(self) -> None:
        self._patch({"suspend": True})

    def hold_back(self, message: str) -> None:
        """As Kueue's scheduler tells of each try that fails."""
        workload = f"job-{self.run.job_name}-1a2b3"
        about = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "Workload", "name": workload}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": self.world.namespace, "name": f"{workload}.1"},
            "involvedObject": {**about, "namespace": self.world.namespace},
            "type": "Warning",
            "reason": "Pending",
            "message": message,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
        }
        self.world.plane.apply(event)

    def end_pod(self) -> None:
        """What the Job's controller and the kubelet do once it is suspended: SIGTERM, a checkpoint, and it is gone."""
        self.world.kubectl("delete", "pod", self.run.pod_name, "--grace-period=0", "--force")

    def take_back_flavor(self) -> None:
        """As Kueue does once a Job stands still, so that its next admission may choose another."""
        never_started = '{"status": {"startTime": null, "active": 0}}'
        patch = ("patch", "job", self.run.job_name, "--type=merge", "--field-manager=kueue")
        self.world.kubectl(*patch, "--subresource=status", f"--patch={never_started}")
        self._patch({"template": {"spec": dict.fromkeys(FLAVOR)}})

    def assert_is_as_admitted(self) -> None:
        spec = self.job["spec"]
        assert spec["suspend"] is False
        assert {key: spec["template"]["spec"].get(key) for key in FLAVOR} == FLAVOR

    def _patch(self, spec: dict[str, Any]) -> None:
        patch = json.dumps({"spec": spec})
        self.world.kubectl(
            "patch", "job", self.run.job_name, "--type=merge", f"--patch={patch}", "--field-manager=kueue"
        )


def apply_queued(world: World, queue: str = "gpus", **spec: Any) -> None:
    manifest = build_example(NAME, world.namespace, **spec)
    manifest["metadata"]["labels"] = {QUEUE: queue}
    world.plane.apply(manifest)


def look_again(world: World) -> None:
    """The operator does, at all that it might want to repair."""
    world.kubectl("annotate", "llmft", NAME, f"looked-at={time.time()}")
    time.sleep(2)


@pytest.fixture
def queue(operator: OperatorProcess, world: World) -> Queue:
    """With a run that waits in it."""
    apply_queued(world)
    found = Queue(world, world.run())
    world.wait_phase("Queued")
    return found


def test_a_run_with_a_queue_waits_until_it_is_admitted_and_says_why_it_was_not(world: World, queue: Queue) -> None:
    assert queue.job["spec"]["suspend"] is True
    assert queue.job["metadata"]["labels"][QUEUE] == "gpus"
    queue.hold_back(NO_QUOTA)
    wait_until(lambda: NO_QUOTA in world.condition("Running").get("message", ""), "why it waits", 10)
    assert world.condition("Running")["reason"] == "Queued"
    apply_queued(world, queue="cpus")
    wait_until(lambda: queue.job["metadata"]["labels"][QUEUE] == "cpus", "in another queue", 10)
    assert queue.job["spec"]["suspend"] is True


def test_what_kueue_decided_stays_through_edits_and_repairs(world: World, queue: Queue) -> None:
    queue.admit()
    world.kubectl("label", "job", queue.run.job_name, "app.kubernetes.io/managed-by-")
    wait_until(lambda: "app.kubernetes.io/managed-by" in queue.job["metadata"]["labels"], "its label again", 10)
    queue.assert_is_as_admitted()
    pod = queue.run.start()
    assert pod["spec"]["nodeSelector"] == FLAVOR["nodeSelector"]
    world.wait_phase("Preparing")
    retries = '{"spec": {"run": {"maxRetries": 7}}}'
    world.kubectl("patch", "llmft", NAME, "--type=merge", f"--patch={retries}")
    wait_until(lambda: queue.job["spec"]["backoffLimit"] == 7, "the edit on the Job", 10)
    queue.assert_is_as_admitted()
    look_again(world)
    queue.assert_is_as_admitted()
    assert queue.owners_of("f:suspend") == {"kueue"}


def test_a_preempted_run_is_queued_again_counts_no_failure_and_ends_well_once_readmitted(
    world: World, queue: Queue
) -> None:
    queue.admit()
    queue.run.start()
    world.wait_phase("Preparing")
    queue.preempt()
    world.wait_phase("Queued")
    assert "what is done is saved first" in world.condition("Running")["message"]
    queue.end_pod()
    queue.take_back_flavor()
    wait_until(lambda: "waits for its queue" in world.condition("Running")["message"], "back in the queue")
    look_again(world)
    assert queue.job["spec"]["suspend"] is True, "nobody but Kueue lets it go on"
    assert world.status()["phase"] == "Queued"
    (attempt,) = world.status()["attempts"]
    assert (attempt["reason"], attempt.get("exitCode")) == ("Stopped", None)
    assert world.condition("Succeeded")["status"] == "Unknown"
    assert [kind for kind, _ in world.events() if kind == "Warning"] == []
    queue.admit()
    queue.run.start()
    world.wait_phase("Preparing")
    queue.run.end(0, {"reason": "Succeeded"})
    world.wait_phase("Succeeded")
    assert {attempt["reason"] for attempt in world.status()["attempts"]} == {"Stopped", "Succeeded"}


def test_a_run_that_its_user_suspends_leaves_the_queue_and_lines_up_anew(world: World, queue: Queue) -> None:
    queue.admit()
    queue.run.start()
    world.wait_phase("Preparing")
    before = queue.job["metadata"]["uid"]
    suspend = '{"spec": {"run": {"suspend": %s}}}'
    world.kubectl("patch", "llmft", NAME, "--type=merge", f"--patch={suspend % 'true'}")
    wait_until(lambda: world.jobs_of() == [], "its Job gone, which Kueue would start again")
    queue.end_pod()
    world.wait_phase("Suspended")
    world.kubectl("patch", "llmft", NAME, "--type=merge", f"--patch={suspend % 'false'}")
    world.wait_phase("Queued")
    job = queue.job
    assert job["metadata"]["uid"] != before
    assert job["spec"]["suspend"] is True
