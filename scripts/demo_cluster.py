"""The whole way on this machine for who has no cluster: a real one from source, Helm, kubectl apply, the result.

Everything is real but the GPU: API server, kubelet, containerd, an S3 server. It is all gone in the end; `make
cluster-up` gives a cluster that stays. What is shown are commands that work on any cluster.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.prepare_model import MODEL_NAME, prepare_model
from tests.support.cluster.build import PROGRAMS, build_program
from tests.support.cluster.cluster import run_cluster
from tests.support.cluster.tools import provide_tools
from tests.support.installation import MODEL_CLAIM, NAMESPACE, S3_SECRET, Installation, run_installation

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "finetune.yaml"
TICKETS = ROOT / "examples" / "data" / "support-tickets"
NAME = "support-tickets"
STEPS = 20
WAIT_SECONDS = 900
LOOK_SECONDS = 10


def main() -> None:
    console = Console(highlight=False)
    prepare(console)
    with tempfile.TemporaryDirectory(prefix="llm-demo-") as folder:
        console.print("\nStarting a cluster: etcd, API server, controllers, a node with containerd")
        with run_cluster(Path(folder) / "cluster") as cluster:
            console.print("Building the images, and installing the chart")
            with run_installation(cluster, Path(folder)) as installation:
                show(console, installation, Path(folder))


def prepare(console: Console) -> None:
    provide_tools()
    console.print("Building Kubernetes from its Go modules, unless it is there (20 minutes the first time)")
    for name in PROGRAMS:
        build_program(name)


def show(console: Console, installation: Installation, folder: Path) -> None:
    installation.add_model(MODEL_NAME, prepare_model())
    namespace = installation.make_namespace()
    manifest = folder / "finetune.yaml"
    manifest.write_text(build_manifest(installation))
    shell = Shell(console, installation.cluster.kubeconfig, namespace)
    shell.run(f"kubectl get nodes,pods -n {NAMESPACE}")
    console.print(
        f"\n[bold]finetune.yaml[/bold], from {EXAMPLE.relative_to(ROOT)}\n{manifest.read_text()}", markup=True
    )
    shell.run(f"kubectl apply -f {manifest}")
    follow(shell)
    shell.run("kubectl wait --for=condition=Succeeded llmft/support-tickets --timeout=10s")
    shell.run("kubectl describe llmft support-tickets")
    stored = installation.artifact_folder("s3://models/support-tickets")
    names = " ".join(sorted(path.name for path in stored.iterdir()))
    console.print(f"\nIn the store, at s3://models/support-tickets: {names}")


def build_manifest(installation: Installation) -> str:
    """The example with its data and result in S3, and few enough steps for two cores without a GPU."""
    manifest = yaml.safe_load(EXAMPLE.read_text())
    spec = manifest["spec"]
    spec["config"]["trainer"]["train_steps"] = STEPS
    for split in ("train", "validation"):
        content = (TICKETS / f"{split}.jsonl").read_bytes()
        spec["dataset"][split] = {"uri": installation.put("datasets", f"{split}.jsonl", content)}
    spec["model"]["volume"]["claimName"] = MODEL_CLAIM
    spec["output"] = {"uri": "s3://models/support-tickets"}
    reference = {"secretRef": {"name": S3_SECRET}, "endpointUrl": installation.s3.endpoint_url, "region": "us-east-1"}
    spec["credentials"] = {"s3": reference}
    return yaml.safe_dump(manifest, sort_keys=False)


class Shell:
    """Runs commands of users in a namespace of theirs, and shows them with what they print."""

    def __init__(self, console: Console, kubeconfig: Path, namespace: str) -> None:
        self._console = console
        path = f"{build_program('kubectl').parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PATH": path}
        self.output(f"kubectl config set-context --current --namespace={namespace}")

    def run(self, command: str) -> str:
        self._console.print(f"\n[bold]$ {command}[/bold]", soft_wrap=True)
        text = self.output(command)
        self._console.print(text, markup=False, soft_wrap=True, end="")
        return text

    def output(self, command: str) -> str:
        done = subprocess.run(
            shlex.split(command), env=self._environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout


def follow(shell: Shell) -> None:
    """Looks now and then until the run has ended."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        text = shell.run("kubectl get llmft")
        if "Succeeded" in text or "Failed" in text or time.monotonic() > deadline:
            return
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
