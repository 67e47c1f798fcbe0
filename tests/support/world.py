"""A namespace of a test's own on a control plane, and what a test asks of it."""

import json
import ssl
import urllib.error
import urllib.request
import uuid
from typing import Any

import yaml

from tests.support.actors import Run
from tests.support.cluster.access import Access
from tests.support.operator_process import wait_until
from tests.support.repository import ROOT


class World:
    """A namespace of a test's own."""

    def __init__(self, plane: Access) -> None:
        self.plane = plane
        self.namespace = f"t-{uuid.uuid4().hex[:8]}"
        plane.kubectl("create", "namespace", self.namespace)
        # A controller's work, where there is one; pods can't be made without it.
        plane.run_kubectl("create", "serviceaccount", "default", "--namespace", self.namespace)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.plane.kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    def apply(self, name: str = "support-tickets", **changes: Any) -> dict[str, Any]:
        """The example, with parts of its spec replaced."""
        manifest = build_example(name, self.namespace, **changes)
        self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))
        return self.resource(name)

    def resource(self, name: str = "support-tickets") -> dict[str, Any]:
        return self.plane.get("llmfinetune", name, self.namespace)

    def found(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-o", "json"))["items"]
        return found

    def names(self, kind: str) -> list[str]:
        return sorted(item["metadata"]["name"] for item in self.found(kind))

    def run(self, name: str = "support-tickets") -> Run:
        """The run of a resource, once it has a Job."""
        wait_until(lambda: bool(self.jobs_of(name)), f"a Job for {name}")
        return Run(self.plane, self.namespace, self.jobs_of(name)[-1])

    def jobs_of(self, name: str = "support-tickets") -> list[str]:
        jobs = [job for job in self.found("jobs") if job["metadata"]["labels"]["llmoperator.dev/fine-tune"] == name]
        jobs.sort(key=lambda job: (job["metadata"]["creationTimestamp"], job["metadata"]["uid"]))
        return [job["metadata"]["name"] for job in jobs]

    def status(self, name: str = "support-tickets") -> dict[str, Any]:
        status: dict[str, Any] = self.resource(name).get("status", {})
        return status

    def wait_phase(self, phase: str, name: str = "support-tickets") -> dict[str, Any]:
        wait_until(lambda: self.status(name).get("phase") == phase, f"phase {phase}")
        return self.status(name)

    def condition(self, type_: str, name: str = "support-tickets") -> dict[str, Any]:
        conditions = self.status(name).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == type_), {})

    def events(self, name: str = "support-tickets") -> list[tuple[str, str]]:
        """(type, reason) of all events about a resource, the earliest first."""
        found = json.loads(self.kubectl("get", "events.v1.events.k8s.io", "-o", "json"))["items"]
        ours = [event for event in found if event.get("regarding", {}).get("name") == name]
        return [(event["type"], event["reason"]) for event in sorted(ours, key=lambda event: event["eventTime"] or "")]


def build_example(name: str, namespace: str, file: str = "finetune.yaml", **changes: Any) -> dict[str, Any]:
    """An example, with parts of its spec replaced."""
    manifest: dict[str, Any] = yaml.safe_load((ROOT / "examples" / file).read_text())
    manifest["metadata"] = {"name": name, "namespace": namespace}
    manifest["spec"].update(changes)
    return manifest


def build_gpu_example(name: str, namespace: str, **changes: Any) -> dict[str, Any]:
    """For a node with a GPU, without a claim that nobody made."""
    return build_example(name, namespace, "finetune-s3-hub.yaml", **{"model": {}, **changes})


def post(url: str, token: str, body: bytes, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    """HTTP status and text."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def install_crds(access: Access) -> None:
    access.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    access.kubectl("wait", "--for=condition=Established", "-f", str(ROOT / "crds"), "--timeout=30s")
