"""The chart through real Helm: rendered with some values, or installed on a cluster."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster.build import build_program
from tests.support.repository import ROOT

CHART = ROOT / "charts" / "llm-operator"
RELEASE, NAMESPACE = "try", "llm-system"

Manifest = dict[str, Any]
Values = Mapping[str, Any]


class HelmError(Exception):
    """What Helm says when it refuses."""


def run_helm(*arguments: str, kubeconfig: Path | None = None, stdin: str | None = None) -> str:
    """Helm's standard output; raises HelmError with what it says otherwise."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
    if kubeconfig is not None:
        environment["KUBECONFIG"] = str(kubeconfig)
    command = [str(build_program("helm")), *arguments]
    result = subprocess.run(command, input=stdin, env=environment, cwd=ROOT, capture_output=True, text=True)
    if result.returncode != 0:
        raise HelmError(result.stderr)
    return result.stdout


def render(values: Values | None = None, *options: str, crds: bool = False, chart: Path = CHART) -> list[Manifest]:
    """The objects that the chart makes of its defaults and ``values``; without the CRDs, which are large."""
    chosen = {**({} if crds else {"crds": {"install": False}}), **(values or {})}
    command = ["template", RELEASE, str(chart), "--namespace", NAMESPACE, "--values", "-", *options]
    return load_all(run_helm(*command, stdin=json.dumps(chosen)))


def load_all(text: str) -> list[Manifest]:
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document is not None]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def the(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The one object of that kind, and of that name where there are several."""
    found = [one for one in of_kind(manifests, kind) if name is None or one["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name or ''}"
    return found[0]


def operator_container(manifests: list[Manifest]) -> Manifest:
    (container,) = the(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    found: Manifest = container
    return found


def operator_env(manifests: list[Manifest]) -> dict[str, str]:
    """The variables that the operator gets, without those that Kubernetes fills in."""
    return {entry["name"]: entry["value"] for entry in operator_container(manifests)["env"] if "value" in entry}


EVERYTHING: Values = {
    "replicas": 2,
    "imagePullSecrets": [{"name": "registry"}],
    "runner": {"imagePullSecrets": [{"name": "registry"}, {"name": "mirror"}]},
    "vllm": {"image": "vllm:1"},
    "podDisruptionBudget": {"enabled": True},
    "webhook": {"enabled": True},
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True, "annotations": {"grafana_folder": "ML"}},
    },
    "networkPolicy": {"enabled": True},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "podLabels": {"team": "ml"},
    "podAnnotations": {"example.com/a": "b"},
    "commonLabels": {"example.com/owner": "ml"},
    "serviceAccount": {"annotations": {"example.com/role": "operator"}},
    "service": {"annotations": {"example.com/a": "b"}},
    "extraArgs": ["--workers=4"],
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
}
"""Values that switch on all that the chart has, but for what excludes something else."""
