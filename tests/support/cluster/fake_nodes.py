"""Fake nodes with as many GPUs as wanted, by kwok: the scheduler fills them, and pods on them only say that they run.

For scale, placement and accelerators that this machine hasn't got. Nothing is executed there, so a pod writes no log
and no artifact; how it ends is what the test says.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.cluster.build import build_program
from tests.support.cluster.control_plane import ControlPlane
from tests.support.cluster.process import Process, free_port

MARK = {"kwok.x-k8s.io/node": "fake"}
CAPACITY = {"cpu": "64", "memory": "512Gi", "pods": "1000", "nvidia.com/gpu": "8"}


@dataclass(frozen=True)
class PodCourse:
    """What becomes of a Job's pod on a fake node. Other pods run until they are deleted."""

    run_seconds: float | None = None
    """How long it runs; for ever if None."""
    exit_code: int = 0
    message: str = ""
    """Its termination message."""


@contextmanager
def run_fake_nodes(
    plane: ControlPlane, count: int, course: PodCourse | None = None, taints: Sequence[Mapping[str, str]] = ()
) -> Iterator[Process]:
    """Adds fake nodes to a control plane with controllers, and removes them in the end.

    Where a real node stands beside them, taints keep pods off them that are to do something.
    """
    process = build_process(plane, PodCourse() if course is None else course)
    nodes = [build_node(number, taints) for number in range(count)]
    names = [f"node/{node['metadata']['name']}" for node in nodes]
    process.start()
    try:
        plane.apply(*nodes)
        plane.kubectl("wait", "--for=condition=Ready", *names, "--timeout=60s")
        yield process
    finally:
        plane.kubectl("delete", *names)
        process.stop()


def build_process(plane: ControlPlane, course: PodCourse) -> Process:
    kubeconfig = plane.save_kubeconfig("kwok", "llm-operator-test-kwok", ["system:masters"])
    config = plane.folder / "stages.yaml"
    config.write_text("\n---\n".join(json.dumps(stage, indent=2) for stage in build_stages(course)))
    flags = {
        "kubeconfig": kubeconfig,
        "config": config,
        "manage-nodes-with-annotation-selector": "=".join(*MARK.items()),
        "node-lease-duration-seconds": 40,
        "server-address": f"127.0.0.1:{free_port()}",
    }
    command = [str(build_program("kwok")), *(f"--{flag}={value}" for flag, value in flags.items())]
    return Process(command, plane.folder / "logs" / "kwok.log")


def build_node(number: int, taints: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    name = f"fake-{number}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": MARK, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"taints": list(taints)},
    }


def build_stages(course: PodCourse) -> list[dict[str, Any]]:
    """The steps in the life of nodes and pods, each with what one must look like to take it."""
    alive = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
    unready = {"key": '.status.conditions.[] | select(.type == "Ready") | .status', **is_not("True")}
    stages = [
        build_stage("Node", "ready", [unready], {"statusTemplate": json.dumps(NODE_STATUS)}),
        build_stage("Pod", "run", [alive, {"key": ".status.phase", **is_one("Pending")}], {"statusTemplate": RUNNING}),
        build_stage("Pod", "delete", [{**alive, "operator": "Exists"}], {"delete": True}),
    ]
    return stages if course.run_seconds is None else [*stages, build_end(alive, course, course.run_seconds)]


def build_end(alive: dict[str, Any], course: PodCourse, run_seconds: float) -> dict[str, Any]:
    running = {"key": ".status.phase", **is_one("Running")}
    of_job = {"key": ".metadata.ownerReferences.[].kind", **is_one("Job")}
    stage = build_stage("Pod", "end", [alive, running, of_job], {"statusTemplate": build_ended(course)})
    stage["spec"]["delay"] = {"durationMilliseconds": round(run_seconds * 1000)}
    return stage


def build_stage(kind: str, name: str, matches: list[dict[str, Any]], then: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": f"{kind.lower()}-{name}"},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": matches},
            "next": then,
        },
    }


def is_one(*values: str) -> dict[str, Any]:
    return {"operator": "In", "values": list(values)}


def is_not(*values: str) -> dict[str, Any]:
    return {"operator": "NotIn", "values": list(values)}


NODE_STATUS = {
    "capacity": CAPACITY,
    "allocatable": CAPACITY,
    "conditions": [{"type": "Ready", "status": "True", "reason": "Fake", "message": "always ready"}],
}
RUNNING = """
phase: Running
startTime: {{ Now | Quote }}
conditions:
{{ range $type := list "Initialized" "ContainersReady" "Ready" }}
- {type: {{ $type }}, status: "True", lastTransitionTime: {{ Now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ Now | Quote }}}}
{{ end }}
"""


def build_ended(course: PodCourse) -> str:
    phase, reason = ("Succeeded", "Completed") if course.exit_code == 0 else ("Failed", "Error")
    return f"""
phase: {phase}
conditions:
{{{{ range $type := list "ContainersReady" "Ready" }}}}
- {{type: {{{{ $type }}}}, status: "False", reason: PodCompleted, lastTransitionTime: {{{{ Now | Quote }}}}}}
{{{{ end }}}}
containerStatuses:
{{{{ range .spec.containers }}}}
- name: {{{{ .name | Quote }}}}
  image: {{{{ .image | Quote }}}}
  imageID: ""
  ready: false
  started: false
  restartCount: 0
  state:
    terminated:
      exitCode: {course.exit_code}
      reason: {reason}
      message: {json.dumps(course.message)}
      startedAt: {{{{ $.status.startTime | Quote }}}}
      finishedAt: {{{{ Now | Quote }}}}
{{{{ end }}}}
"""
