"""Fake nodes take pods by the GPU, and what becomes of the pods there is what the test asked for."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster.control_plane import ControlPlane, Settings, run_control_plane
from tests.support.cluster.fake_nodes import PodCourse, run_fake_nodes
from tests.support.cluster.workloads import build_job, build_pod

GPUS_PER_NODE = 8


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with run_control_plane(tmp_path_factory.mktemp("plane"), Settings(has_controllers=True)) as started:
        yield started


def asking_for(gpus: int) -> dict[str, Any]:
    return {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}


def test_pods_are_placed_until_every_gpu_is_taken(plane: ControlPlane) -> None:
    with run_fake_nodes(plane, count=2):
        plane.apply(*(build_pod(f"whole-node-{number}", "", **asking_for(GPUS_PER_NODE)) for number in range(2)))
        for number in range(2):
            plane.wait_for("condition=Ready", f"pod/whole-node-{number}")
        plane.apply(build_pod("one-too-many", "", **asking_for(1)))
        plane.wait_for("jsonpath={.status.conditions[0].reason}=Unschedulable", "pod/one-too-many")
        [condition] = plane.get("pod", "one-too-many")["status"]["conditions"]
        assert "2 Insufficient nvidia.com/gpu" in condition["message"]
        plane.kubectl("delete", "pods", "--all")


@pytest.mark.parametrize(("exit_code", "condition"), [(0, "Complete"), (3, "Failed")])
def test_a_jobs_pod_runs_as_long_and_ends_as_asked(plane: ControlPlane, exit_code: int, condition: str) -> None:
    name, message = f"ends-with-{exit_code}", '{"step": 1, "note": "a \\"quoted\\" word"}'
    with run_fake_nodes(plane, count=1, course=PodCourse(1, exit_code, message)):
        plane.apply(build_job(name, "", **asking_for(1)))
        plane.wait_for(f"condition={condition}", f"job/{name}")
        pods = plane.kubectl("get", "pods", f"--selector=job-name={name}", "-o", "name").split()
        ended = plane.get("pod", pods[0].removeprefix("pod/"))["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (ended["exitCode"], ended["message"]) == (exit_code, message)


def test_the_nodes_are_gone_in_the_end(plane: ControlPlane) -> None:
    with run_fake_nodes(plane, count=3) as kwok:
        assert plane.kubectl("get", "nodes", "-o", "name").split() == ["node/fake-0", "node/fake-1", "node/fake-2"]
    assert plane.kubectl("get", "nodes", "-o", "name") == ""
    assert not kwok.is_running
