"""What objects are called and labelled, so that they are found again. Nothing else is decided here."""

import hashlib
import json
from typing import Any

from llm_api.finetune import LLMFineTune
from llm_api.inference import LLMInference
from llm_api.resource import GROUP

FIELD_MANAGER = "llm-operator"
FINALIZER = f"{GROUP}/artifacts"
"""Stands on a fine-tune only while what it stored is to be deleted with it."""

MANAGED_BY = "llm-operator"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
NAME_LABEL = "app.kubernetes.io/name"
COMPONENT_LABEL = "app.kubernetes.io/component"
FINE_TUNE_LABEL = f"{GROUP}/fine-tune"
INFERENCE_LABEL = f"{GROUP}/inference"
RESULT_LABEL = f"{GROUP}/result"
"""Hash of all that a run's result depends on."""
OUTPUT_ANNOTATION = f"{GROUP}/output"
"""Where a run stores its result, as seen from outside its pods."""
APPLIED_ANNOTATION = f"{GROUP}/applied"
"""Hash of what was applied, on objects that change: applied again only when it would be another."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_PREFIX = "kueue.x-k8s.io/"

HASH_LENGTH = 8
"""Characters; the names of pods leave room for no more."""

AnyResource = LLMFineTune | LLMInference


def hash_of(value: Any) -> str:
    """The same for equal JSON values, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def run_name(name: str, run_hash: str) -> str:
    return f"{name}-{run_hash}"


def selector_label(resource: AnyResource) -> str:
    """The label whose value is the resource's name."""
    return FINE_TUNE_LABEL if isinstance(resource, LLMFineTune) else INFERENCE_LABEL


def resource_labels(resource: AnyResource, component: str) -> dict[str, str]:
    """Labels of every object that is made for a resource."""
    return {
        NAME_LABEL: "llm-runner",
        MANAGED_BY_LABEL: MANAGED_BY,
        COMPONENT_LABEL: component,
        selector_label(resource): resource.name,
    }


def queue_labels(resource: AnyResource) -> dict[str, str]:
    """Kueue's labels go through from the resource to its Jobs."""
    return {key: value for key, value in resource.metadata.labels.items() if key.startswith(QUEUE_PREFIX)}


def build_metadata(resource: AnyResource, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """Of an object that the resource owns: deleting the resource deletes it, without the operator."""
    owner = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": resource.name,
        "uid": resource.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {"name": name, "namespace": resource.namespace, "labels": labels, "ownerReferences": [owner]}


def mark_applied(manifest: dict[str, Any]) -> dict[str, Any]:
    """The object with its own hash on it."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED_ANNOTATION: hash_of(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}
