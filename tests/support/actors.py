"""What controllers and kubelets do to a run's objects, done by a test against an API server where nobody else does."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tests.support.cluster.access import Access


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Run:
    """The Job of a resource, and whoever acts on it."""

    def __init__(self, access: Access, namespace: str, job_name: str) -> None:
        self.access = access
        self.namespace = namespace
        self.job_name = job_name

    @property
    def pod_name(self) -> str:
        return f"{self.job_name}-abcde"

    def make_pod(self) -> dict[str, Any]:
        """As the Job controller makes it from the Job's template."""
        job = self.access.get("job", self.job_name, self.namespace)
        template = job["spec"]["template"]
        labels = {"batch.kubernetes.io/job-name": self.job_name, "job-name": self.job_name}
        owner = {"apiVersion": "batch/v1", "kind": "Job", "controller": True, "name": self.job_name}
        metadata = {
            **template["metadata"],
            "name": self.pod_name,
            "namespace": self.namespace,
            "labels": {**template["metadata"].get("labels", {}), **labels},
            "ownerReferences": [{**owner, "uid": job["metadata"]["uid"]}],
        }
        self.access.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
        return self.access.get("pod", self.pod_name, self.namespace)

    def start(self) -> dict[str, Any]:
        """The pod runs; it is returned."""
        pod = self.make_pod()
        self._set_pod("Running", {"running": {"startedAt": now()}})
        self._set_job({"active": 1, "startTime": now()})
        return pod

    def end(self, exit_code: int, outcome: Mapping[str, Any] | None = None, reason: str | None = None) -> None:
        """The runner ends; with 0 the Job is complete, with any other code it has failed for good."""
        message = "" if outcome is None else json.dumps(outcome)
        why = reason if reason is not None else ("Completed" if exit_code == 0 else "Error")
        ended = {"exitCode": exit_code, "reason": why, "message": message, "startedAt": now(), "finishedAt": now()}
        self._set_pod("Succeeded" if exit_code == 0 else "Failed", {"terminated": ended})
        if exit_code == 0:
            self._set_job({"active": 0, "succeeded": 1, "completionTime": now()}, "SuccessCriteriaMet", "Complete")
        else:
            self._set_job({"active": 0, "failed": 1}, "FailureTarget", "Failed", reason="PodFailurePolicy")

    def warn(self, reason: str, message: str) -> None:
        """An event about the pod, as a kubelet records it."""
        about = {"apiVersion": "v1", "kind": "Pod", "namespace": self.namespace, "name": self.pod_name}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": self.namespace, "name": f"{self.pod_name}.{reason.lower()}"},
            "involvedObject": about,
            "type": "Warning",
            "reason": reason,
            "message": message,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        self.access.apply(event)

    def _set_pod(self, phase: str, state: Mapping[str, Any]) -> None:
        container = {"name": "runner", "image": "runner:test", "imageID": "", "restartCount": 0, "ready": False}
        self._patch_status("pod", self.pod_name, {"phase": phase, "containerStatuses": [{**container, "state": state}]})

    def _set_job(self, status: Mapping[str, Any], *conditions: str, reason: str = "") -> None:
        said = [
            {"type": type_, "status": "True", "reason": reason, "message": "", "lastTransitionTime": now()}
            for type_ in conditions
        ]
        started = self.access.get("job", self.job_name, self.namespace).get("status", {})
        self._patch_status("job", self.job_name, {**started, **status, "conditions": said})

    def _patch_status(self, kind: str, name: str, status: Mapping[str, Any]) -> None:
        body = json.dumps({"status": status})
        self.access.kubectl(
            "patch",
            kind,
            name,
            "--namespace",
            self.namespace,
            "--subresource=status",
            "--type=merge",
            f"--patch={body}",
        )
