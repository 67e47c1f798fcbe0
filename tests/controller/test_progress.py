"""Reports with real tokens of a real API server: what is shown of them, and whose are refused."""

import json
from typing import Any

import pytest

from tests.support.actors import Run
from tests.support.operator_process import OperatorProcess, wait_until
from tests.support.world import World, post

AUDIENCE = "llmoperator.dev/progress"
REPORT = {"phase": "Training", "step": 41, "of": 100, "epoch": 0.41, "loss": 1.2034, "etaSeconds": 720.0}


def token_of(world: World, pod: dict[str, Any], audience: str = AUDIENCE) -> str:
    """As the kubelet gets it for a projected volume."""
    return world.kubectl(
        "create",
        "token",
        "default",
        f"--audience={audience}",
        "--bound-object-kind=Pod",
        f"--bound-object-name={pod['metadata']['name']}",
        f"--bound-object-uid={pod['metadata']['uid']}",
    ).strip()


class Endpoint:
    """Where the runner of a run reports to."""

    def __init__(self, operator: OperatorProcess, run: Run) -> None:
        self.url = f"http://127.0.0.1:{operator.port('progress')}/progress/{run.namespace}/{run.job_name}"

    def post(self, token: str, report: Any = REPORT) -> int:
        return post(self.url, token, report if isinstance(report, bytes) else json.dumps(report).encode())[0]


@pytest.fixture
def run(operator: OperatorProcess, world: World) -> Run:
    world.apply()
    run = world.run()
    run.start()
    world.wait_phase("Preparing")
    return run


def pod_of(run: Run) -> dict[str, Any]:
    return run.access.get("pod", run.pod_name, run.namespace)


def test_a_report_is_in_status_columns_and_metrics_until_the_run_ends(
    operator: OperatorProcess, world: World, run: Run
) -> None:
    assert Endpoint(operator, run).post(token_of(world, pod_of(run))) == 204
    world.wait_phase("Training")
    assert world.kubectl("get", "llmft").splitlines()[1].split()[1:6] == [
        "Training",
        "SmolLM2-135M-Instruct",
        "41%",
        "1.2034",
        "12m",
    ]
    series = (
        f'llm_operator_run_loss{{name="support-tickets",namespace="{world.namespace}",pod="{run.pod_name}"}} 1.2034'
    )
    assert series in operator.get("/metrics")[1]
    run.end(0, {"reason": "Succeeded"})
    world.wait_phase("Succeeded")
    assert "llm_operator_run_loss{" not in operator.get("/metrics")[1]


def test_the_loss_curve_grows_by_the_reports(operator: OperatorProcess, world: World, run: Run) -> None:
    endpoint, token = Endpoint(operator, run), token_of(world, pod_of(run))
    for step in (10, 20, 30):
        assert endpoint.post(token, {**REPORT, "step": step, "loss": 2.0 - step / 100}) == 204
        wait_until(lambda step=step: world.status().get("progress", {}).get("step") == step, f"step {step}")  # type: ignore[misc]
    assert [point["step"] for point in world.status()["lossCurve"]] == [10, 20, 30]


def test_a_token_that_is_none_is_refused(operator: OperatorProcess, run: Run) -> None:
    assert Endpoint(operator, run).post("nonsense") == 401


def test_a_token_for_another_audience_is_refused(operator: OperatorProcess, world: World, run: Run) -> None:
    assert Endpoint(operator, run).post(token_of(world, pod_of(run), "https://kubernetes.default.svc")) == 401


def test_a_token_of_an_account_that_no_pod_holds_is_refused(operator: OperatorProcess, world: World, run: Run) -> None:
    token = world.kubectl("create", "token", "default", f"--audience={AUDIENCE}").strip()
    assert Endpoint(operator, run).post(token) == 401


def test_a_pod_of_another_run_is_refused(operator: OperatorProcess, world: World, run: Run) -> None:
    world.apply("other")
    other = world.run("other")
    assert Endpoint(operator, run).post(token_of(world, other.start())) == 403


def test_a_pod_that_only_has_the_labels_of_another_namespace_is_refused(
    operator: OperatorProcess, world: World, run: Run
) -> None:
    elsewhere = World(world.plane)
    elsewhere.apply()
    foreign = elsewhere.run()
    assert foreign.job_name == run.job_name, "the same resource has the same run everywhere"
    assert Endpoint(operator, run).post(token_of(elsewhere, foreign.start())) == 403


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"phase": 3}', b'{"phase": "Training", "step": "x"}'], ids=["empty", *"abcd"]
)
def test_what_is_no_report_is_refused_and_changes_nothing(
    operator: OperatorProcess, world: World, run: Run, body: bytes
) -> None:
    assert Endpoint(operator, run).post(token_of(world, pod_of(run)), body) == 400
    assert world.status()["phase"] == "Preparing"


def test_a_report_that_is_far_too_large_is_refused(operator: OperatorProcess, world: World, run: Run) -> None:
    body = json.dumps({"phase": "x" * 100_000}).encode()
    assert Endpoint(operator, run).post(token_of(world, pod_of(run)), body) == 413
