"""Whatever happens to a run's surroundings, it ends with the losses of one that nothing happened to.

All of it happens on real pods; each run is slow enough to be hit in its middle.
"""

import time
from typing import Any

import pytest

from tests.support.cluster.cluster import OwnCluster
from tests.support.cluster.images import build_base_image
from tests.support.cluster.workloads import build_pod
from tests.support.installation import NAMESPACE, RELEASE, Installation
from tests.support.models import llama_config, save_model
from tests.support.tuning import Watched, build_fine_tune, build_questions

pytestmark = pytest.mark.timeout(1800)
"""The first of them waits for images to be built."""

STEPS = 24
EVERY_STEPS = 4
DOWN_SECONDS = 30
RUN_SECONDS = 480
SLOW = "slow"
"""A model of random weights, large enough that a step takes about half a second of one core."""
KILL_PROCESSES = "import psutil; [child.kill() for child in psutil.Process(1).children()]"
"""Those that train, as if memory had run out for them."""
ROUNDING = 0.02
"""In bfloat16, of sums over fewer rows at a time."""
PACE = {"limits": {"cpu": "1"}}
"""However fast the machine is, a run must not be over before it is disturbed."""


@pytest.fixture(scope="module")
def namespace(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> str:
    config = llama_config(hidden_size=384, intermediate_size=1024, num_hidden_layers=4)
    installation.add_model(SLOW, save_model(tmp_path_factory.mktemp("model") / SLOW, config))
    installation.put("datasets", "long.jsonl", build_questions(120, words=8))
    return installation.make_namespace()


def start(installation: Installation, namespace: str, name: str, **more: Any) -> Watched:
    trainer = {"train_steps": STEPS, "batch_size": 8, "steps_per_checkpoint": STEPS, "learning_rate": 0.002}
    spec: dict[str, Any] = {
        "config": {
            "base_model": SLOW,
            "trainer": trainer,
            "preprocessing": {"split": {"type": "random", "probabilities": [0.9, 0.1, 0]}},
        },
        "dataset": {"train": {"uri": "s3://datasets/long.jsonl"}},
        "run": {"checkpoint": {"everySteps": EVERY_STEPS}},
        "compute": {"resources": PACE},
        **more,
    }
    installation.cluster.apply(build_fine_tune(installation, namespace, name, **spec))
    return Watched(installation, namespace, name)


def start_midway(installation: Installation, namespace: str, name: str, **more: Any) -> Watched:
    """A run that is past its first checkpoint."""
    watched = start(installation, namespace, name, **more)
    watched.wait_for_step(EVERY_STEPS + 2, RUN_SECONDS)
    return watched


def assert_ends_with(losses: list[str], watched: Watched) -> None:
    watched.wait_for("Succeeded", RUN_SECONDS)
    assert watched.loss_trace() == losses


@pytest.fixture(scope="module")
def undisturbed(installation: Installation, namespace: str) -> list[str]:
    watched = start(installation, namespace, "undisturbed")
    watched.wait_for("Succeeded", RUN_SECONDS)
    trace = watched.loss_trace()
    assert len(trace) == STEPS
    return trace


def test_a_pod_that_is_deleted_is_followed_by_one_that_goes_on(
    installation: Installation, namespace: str, undisturbed: list[str]
) -> None:
    watched = start_midway(installation, namespace, "deleted-pod")
    (pod,) = watched.pods()
    installation.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", namespace, "--wait=false")
    assert_ends_with(undisturbed, watched)
    first, second = watched.status["attempts"]
    assert first.get("resumedFromStep") is None
    assert second["resumedFromStep"] > EVERY_STEPS, "SIGTERM saves a checkpoint of its own"


def test_a_pod_that_is_killed_costs_the_steps_since_the_last_checkpoint(
    installation: Installation, namespace: str, undisturbed: list[str]
) -> None:
    watched = start_midway(installation, namespace, "killed-pod")
    (pod,) = watched.pods()
    installation.cluster.kubectl(
        "delete", "pod", pod["metadata"]["name"], "-n", namespace, "--grace-period=0", "--force", "--wait=false"
    )
    assert_ends_with(undisturbed, watched)


def test_a_suspended_run_gives_its_node_back_and_goes_on_when_resumed(
    installation: Installation, namespace: str, undisturbed: list[str]
) -> None:
    watched = start_midway(installation, namespace, "suspended")
    watched.patch({"run": {"suspend": True}})
    watched.wait_until(lambda status: status["phase"] == "Suspended", "suspended", 120)
    installation.cluster.kubectl(
        "wait", "--for=delete", "pod", "-l", "llmoperator.dev/fine-tune=suspended", "-n", namespace, "--timeout=90s"
    )
    watched.patch({"run": {"suspend": False}})
    assert_ends_with(undisturbed, watched)


def test_a_drained_node_sends_a_run_on_when_it_is_back(
    installation: Installation, namespace: str, undisturbed: list[str]
) -> None:
    cluster = installation.cluster
    watched = start_midway(installation, namespace, "drained")
    (pod,) = watched.pods()
    node = pod["spec"]["nodeName"]
    cluster.kubectl(
        "drain", node, f"--pod-selector=llmoperator.dev/fine-tune={watched.name}", "--ignore-daemonsets",
        "--delete-emptydir-data", "--force", "--timeout=120s",
    )  # fmt: skip
    try:
        watched.wait_until(lambda status: reason_of(status) == "Unschedulable", "known to be without a node", 60)
    finally:
        cluster.kubectl("uncordon", node)
    assert_ends_with(undisturbed, watched)


def test_a_preempted_run_says_so_and_goes_on_when_there_is_room_again(
    installation: Installation, namespace: str, undisturbed: list[str]
) -> None:
    cluster = installation.cluster
    most = {"cpu": "1200m"}
    compute = {"resources": {"requests": most, "limits": most}}
    watched = start_midway(installation, namespace, "preempted", compute=compute)
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "urgent"}}
    urgent = build_pod("urgent", "import time; time.sleep(3600)", resources={"requests": most})
    urgent["metadata"]["namespace"] = namespace
    cluster.import_image(build_base_image())
    urgent["spec"]["priorityClassName"] = "urgent"
    cluster.apply({**priority, "value": 1_000_000}, urgent)
    try:
        watched.wait_until(lambda _: reasons_of_attempts(watched) == ["Preempted"], "preempted", 120)
        watched.wait_until(lambda status: reason_of(status) == "Unschedulable", "known to be without a node", 60)
    finally:
        cluster.kubectl("delete", "pod", "urgent", "-n", namespace, "--grace-period=0", "--force")
    assert_ends_with(undisturbed, watched)


def test_a_lost_node_is_named_and_another_goes_on(
    installation: Installation, namespace: str, undisturbed: list[str]
) -> None:
    cluster = installation.cluster
    assert isinstance(cluster, OwnCluster), "nobody else's node is lost"
    second = cluster.add_node()
    for image in installation.images.values():
        second.containerd.import_image(image.archive_path)
    cluster.kubectl("cordon", cluster.nodes[0].name)
    try:
        watched = start_midway(installation, namespace, "lost-node")
        second.stop()
        watched.wait_until(lambda status: reason_of(status) == "NodeLost", "known to have lost its node", 150)
        assert second.name in watched.condition("Running")["message"]
    finally:
        cluster.give_up_node(second)
        cluster.kubectl("uncordon", cluster.nodes[0].name)
    assert_ends_with(undisturbed, watched)
    assert reasons_of_attempts(watched) == ["NodeLost", "Succeeded"]


def test_operator_api_server_and_store_may_all_be_away_while_a_run_goes_on(
    installation: Installation, namespace: str, undisturbed: list[str]
) -> None:
    cluster = installation.cluster
    assert isinstance(cluster, OwnCluster), "an API server of somebody else's is not stopped"
    watched = start(installation, namespace, "alone")
    watched.wait_for_step(2, RUN_SECONDS)
    cluster.kubectl("delete", "pod", "-n", NAMESPACE, "-l", f"app.kubernetes.io/instance={RELEASE}", "--force",
                    "--grace-period=0", "--wait=false")  # fmt: skip
    cluster.control_plane.api_server.kill()
    installation.s3.process.stop()
    time.sleep(DOWN_SECONDS)
    installation.s3.start()
    cluster.control_plane.start_api_server()
    assert_ends_with(undisturbed, watched)


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_several_nodes_that_lose_one_go_on_together_and_end_with_the_losses_of_one(
    installation: Installation, namespace: str, undisturbed: list[str], parallelism: str
) -> None:
    compute = {"resources": PACE, "nodes": 2, "parallelism": parallelism}
    watched = start_midway(installation, namespace, f"two-nodes-{parallelism}", compute=compute)
    lost = next(pod for pod in watched.pods() if index_of(pod) == "1")
    installation.cluster.kubectl(
        "exec", lost["metadata"]["name"], "-n", namespace, "--", "python", "-c", KILL_PROCESSES
    )
    watched.wait_for("Succeeded", RUN_SECONDS)
    assert [float(loss) for loss in watched.loss_trace()] == pytest.approx(list(map(float, undisturbed)), abs=ROUNDING)
    first, second = watched.status["attempts"]
    assert first["message"].startswith(f"pod {lost['metadata']['name']} on node {lost['spec']['nodeName']}: process 1 ")
    assert (first["exitCode"], second["reason"]) == (128 + 9, "Succeeded")
    assert second["resumedFromStep"] >= EVERY_STEPS
    assert [event for event, _ in watched.events()].count("AttemptFailed") == 1


def index_of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])


def reason_of(status: dict[str, Any]) -> str:
    return next((one["reason"] for one in status.get("conditions", []) if one["type"] == "Running"), "")


def reasons_of_attempts(watched: Watched) -> list[str | None]:
    return [attempt.get("reason") for attempt in watched.status.get("attempts", [])]
