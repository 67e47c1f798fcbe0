"""Pods for tests of the cluster itself: Python code in the base image, with no more rights than a namespace allows."""

from typing import Any

from tests.support.cluster.images import BASE_IMAGE

UNPRIVILEGED_USER = 65532


def build_pod(name: str, code: str, **container: Any) -> dict[str, Any]:
    """A pod that runs this code once, as the "restricted" level wants it; ``container`` adds to its only container."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": build_labels(name), "spec": build_spec(code, **container)}


def build_job(name: str, code: str, **container: Any) -> dict[str, Any]:
    """A Job of one such pod, without retries."""
    template = {"metadata": build_labels(name), "spec": build_spec(code, **container)}
    spec = {"backoffLimit": 0, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": build_labels(name), "spec": spec}


def build_service(name: str, port: int) -> dict[str, Any]:
    """In front of the pod of this name."""
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": build_labels(name), "spec": spec}


def build_labels(name: str) -> dict[str, Any]:
    return {"name": name, "labels": {"app": name}}


def build_spec(code: str, **container: Any) -> dict[str, Any]:
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UNPRIVILEGED_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "main",
                "image": BASE_IMAGE,
                "imagePullPolicy": "Never",
                "command": ["python3", "-u", "-c", code],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                **container,
            }
        ],
    }
