"""OpenAI's own Python client in pods of a cluster, as a user's application would have it."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.prepare_model import cache_path
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.images import build_base_image
from tests.support.cluster.workloads import build_pod
from tests.support.installation import add_volume

CLAIM = "openai"
MOUNT = "/openai"
IMAGE_PYTHON = "3.11"
"""Of the base image."""


def install_client() -> Path:
    """The packages of the client for the base image's Python."""
    target = cache_path() / "packages" / f"openai-{version('openai')}-{IMAGE_PYTHON}"
    if not (target / "openai").is_dir():
        command = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--no-python-downloads"]
        options = ["--target", str(target), "--python-version", IMAGE_PYTHON, "--only-binary", ":all:"]
        subprocess.run([*command, *options, f"openai=={version('openai')}"], check=True)
    return target


class Clients:
    """Pods that run Python code with ``openai`` in one namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        cluster.import_image(build_base_image())
        add_volume(cluster, namespace, install_client(), CLAIM)

    def start(self, name: str, code: str) -> None:
        pod = build_pod(name, code, env=_ENVIRONMENT, volumeMounts=[{"name": CLAIM, "mountPath": MOUNT}])
        pod["metadata"]["namespace"] = self._namespace
        pod["spec"]["volumes"] = [{"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM, "readOnly": True}}]
        self._cluster.apply(pod)

    def finish(self, name: str, seconds: float = 120) -> str:
        """What it printed, once it has ended well."""
        self._cluster.wait_for("jsonpath={.status.phase}=Succeeded", f"pod/{name}", self._namespace, seconds)
        return self._cluster.kubectl("logs", name, "-n", self._namespace)


_ENVIRONMENT: list[dict[str, Any]] = [
    {"name": "PYTHONPATH", "value": MOUNT},
    {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
]
