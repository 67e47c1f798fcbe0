"""How a test speaks to a cluster, whoever started it: by kubectl, as users do, or by the Python client."""

import json
import subprocess
from pathlib import Path
from secrets import token_hex
from typing import Any

from kubernetes import client, config

from tests.support.cluster.build import build_program


class Access:
    """A cluster as this kubeconfig's user sees it."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints; raises with its words if it fails."""
        result = self.run_kubectl(*arguments, stdin=stdin)
        if result.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def run_kubectl(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """The same for tests of failures: gives exit code, output and errors."""
        command = [str(build_program("kubectl")), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True)

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Server-side, as the operator and GitOps tools do it."""
        whole = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(whole))

    def make_namespace(self, level: str = "restricted") -> str:
        """A new namespace that holds its pods to this level of the Pod Security Standards."""
        name = f"test-{token_hex(4)}"
        labels = {"pod-security.kubernetes.io/enforce": level}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        return name

    def wait_for(self, condition: str, target: str, namespace: str = "default", seconds: float = 60) -> None:
        """Waits as `kubectl wait --for` does; on failure says how the target looked in the end."""
        timeout = f"--timeout={seconds:.0f}s"
        result = self.run_kubectl("wait", f"--for={condition}", target, "--namespace", namespace, timeout)
        if result.returncode != 0:
            described = self.run_kubectl("describe", target, "--namespace", namespace).stdout
            raise TimeoutError(f"{target} did not come to {condition}: {result.stderr.strip()}\n{described}")

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "--namespace", namespace, "-o", "json"))
        return found

    def client(self) -> client.ApiClient:
        """For the classes of the ``kubernetes`` package, such as CoreV1Api; to be closed by a ``with``."""
        made: client.ApiClient = config.new_client_from_config(str(self.kubeconfig))
        return made
