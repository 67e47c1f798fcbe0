"""What of a resource means nothing on this machine, in words for people."""

from collections.abc import Iterator, Sequence
from typing import Any

from llm_runner.local.manifest import Document

CLUSTER_ONLY = (
    "compute.resources",
    "compute.serviceAccountName",
    "compute.podTemplate",
    "credentials.huggingFace",
    "credentials.s3.secretRef",
    "run.maxRetries",
    "run.deadlineSeconds",
    "run.startTimeoutSeconds",
    "run.ttlSecondsAfterFinished",
    "serve.replicas",
    "serve.autoscaling",
)
"""Fields below spec that mean something in a cluster only."""


def notes_of(document: Document) -> Iterator[str]:
    unused = [f"spec.{path}" for path in CLUSTER_ONLY if _read(document["spec"], path) is not None]
    if unused:
        yield f"not used on this machine: {', '.join(unused)}"
    if any("credentials" in path for path in unused):
        yield "credentials come from this machine's environment: HF_TOKEN, AWS_ACCESS_KEY_ID and the like"
    if _read(document["spec"], "serve.engine") == "vllm":
        yield "vLLM serves in a cluster; here it is llm-runner's own server, which takes the same requests"


def _read(values: Any, path: str) -> Any:
    """None where nothing is written there."""
    keys: Sequence[str] = path.split(".")
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return None
        values = values[key]
    return values
