"""Fine-tunes for a cluster that really runs them: manifests of small runs, and what is to be seen of them.

Waits and reads as a user would, with kubectl.
"""

import csv
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.installation import MODEL_CLAIM, S3_SECRET, Installation

Manifest = dict[str, Any]
KIND = "llmft"
TINY = "tiny"
"""A model of random weights that trains in milliseconds a step."""
FEATURES: Manifest = {
    "input_features": [{"name": "question", "type": "text"}],
    "output_features": [{"name": "answer", "type": "text"}],
}


def build_fine_tune(installation: Installation, namespace: str, name: str, **spec: Any) -> Manifest:
    """Tunes TINY a few steps on questions in S3; ``spec`` is merged into it."""
    plain: Manifest = {
        "config": {
            "base_model": TINY,
            **FEATURES,
            "adapter": {"type": "lora"},
            "trainer": {"type": "finetune", "train_steps": 4, "batch_size": 4, "learning_rate": 0.001},
        },
        "dataset": {"train": {"uri": "s3://datasets/questions.jsonl"}},
        "output": {"uri": f"s3://models/{namespace}/{name}"},
        "credentials": {
            "s3": {"secretRef": {"name": S3_SECRET}, "endpointUrl": installation.s3.endpoint_url, "region": "us-east-1"}
        },
        "model": {"volume": {"claimName": MODEL_CLAIM}},
        "compute": {"resources": {"requests": {"cpu": "200m"}}},
    }
    return {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMFineTune",
        "metadata": {"name": name, "namespace": namespace},
        "spec": merge(plain, spec),
    }


def merge(base: Any, change: Any) -> Any:
    """Mappings key by key; None takes a key away."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    merged = {**base, **{key: merge(base.get(key), value) for key, value in change.items()}}
    return {key: value for key, value in merged.items() if value is not None}


def build_questions(rows: int, words: int = 12) -> bytes:
    lines = [
        {"question": f"what comes after {'and then ' * words}{number}?", "answer": f"{number + 1}, of course"}
        for number in range(rows)
    ]
    return "\n".join(map(json.dumps, lines)).encode()


class Watched:
    """One resource, as its owner sees it."""

    kind = KIND

    def __init__(self, installation: Installation, namespace: str, name: str) -> None:
        self._cluster = installation.cluster
        self._installation = installation
        self.namespace = namespace
        self.name = name

    @property
    def document(self) -> Manifest:
        return self._cluster.get(self.kind, self.name, self.namespace)

    @property
    def status(self) -> Manifest:
        found: Manifest = self.document.get("status", {})
        return found

    def condition(self, type_: str) -> Manifest:
        found = [one for one in self.status.get("conditions", []) if one["type"] == type_]
        return found[0] if found else {}

    def wait_for(self, condition: str, seconds: float) -> None:
        self._cluster.wait_for(f"condition={condition}", f"{self.kind}/{self.name}", self.namespace, seconds)

    def wait_until(self, holds: Callable[[Manifest], bool], what: str, seconds: float) -> Manifest:
        """The first status of which it holds."""
        deadline = time.monotonic() + seconds
        while not holds(status := self.status):
            assert time.monotonic() < deadline, f"{self.name}: not {what} within {seconds:.0f} s: {json.dumps(status)}"
            time.sleep(0.5)
        return status

    def wait_for_step(self, step: int, seconds: float) -> None:
        self.wait_until(lambda status: step_of(status) >= step, f"at step {step}", seconds)

    def patch(self, spec: Mapping[str, Any]) -> None:
        patch = json.dumps({"spec": spec})
        self._cluster.kubectl("patch", self.kind, self.name, "-n", self.namespace, "--type=merge", f"--patch={patch}")

    def pods(self) -> list[Manifest]:
        selector = f"llmoperator.dev/fine-tune={self.name}"
        text = self._cluster.kubectl("get", "pods", "-n", self.namespace, "-l", selector, "-o", "json")
        found: list[Manifest] = json.loads(text)["items"]
        return found

    def events(self) -> list[tuple[str, str]]:
        """(reason, message) of each event about the resource."""
        text = self._cluster.kubectl("get", "events", "-n", self.namespace, "-o", "json")
        about = [event for event in json.loads(text)["items"] if event["involvedObject"].get("name") == self.name]
        return [(event["reason"], event["message"]) for event in about if event["involvedObject"]["kind"] != "Job"]

    @property
    def artifact_folder(self) -> Path:
        return self._installation.artifact_folder(self.status["artifact"]["uri"])

    def loss_trace(self) -> list[str]:
        """Loss of every step as written in the stored curve, to the last digit."""
        with (self.artifact_folder / "loss_curve.csv").open() as file:
            return [point["train_loss"] for point in csv.DictReader(file)]


def step_of(status: Mapping[str, Any]) -> int:
    return int(status.get("progress", {}).get("step", 0))
