"""An LLMInference and what a cluster shows of it, as the API server gives them: input for plans."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from llm_operator.observed import ObservedInference
from llm_operator.reconcile.inference import plan_inference
from llm_operator.reconcile.plan import Plan

from tests.support.fine_tunes import NOW, SETTINGS, fine_tune, merge, name_of, stored

ARTIFACT = {
    "uri": "s3://models/bot",
    "digest": "sha256:" + "a" * 64,
    "baseModel": "acme/small",
    "resultHash": "12345678",
}
FOLLOWS = {"model": {"fineTuneRef": {"name": "bot"}}}
SERVES = {**FOLLOWS, "serve": {}}
PREDICTS = {
    **FOLLOWS,
    "batch": {
        "dataset": {"uri": "s3://datasets/new.jsonl"},
        "output": {"uri": "s3://results/out.parquet"},
        "shards": 4,
    },
}


def inference(spec: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMInference",
        "metadata": {"name": "bot", "namespace": "team", "uid": "uid-9", "generation": 1, **metadata},
        "spec": dict(spec),
    }


def tuned(artifact: Mapping[str, Any] = ARTIFACT, phase: str = "Succeeded") -> dict[str, Any]:
    return {**fine_tune(), "status": {"phase": phase, "artifact": dict(artifact)}}


def observe(spec: Mapping[str, Any], **parts: Any) -> ObservedInference:
    return ObservedInference(document=inference(spec), **{"fine_tune": tuned(), **parts})


def plan(observed: ObservedInference, now: datetime = NOW) -> Plan:
    return plan_inference(observed, SETTINGS, now)


def carry_out(observed: ObservedInference, plan: Plan) -> ObservedInference:
    """What a cluster would show afterwards, before any of its controllers did anything."""
    gone = {(deletion.key.kind, deletion.key.name) for deletion in plan.delete}
    made = {(manifest["kind"], name_of(manifest)): stored(manifest) for manifest in plan.apply}
    lists = {
        "Job": "jobs",
        "ConfigMap": "config_maps",
        "Service": "services",
        "Deployment": "deployments",
        "HorizontalPodAutoscaler": "autoscalers",
    }
    parts: dict[str, Any] = {}
    for kind, field in lists.items():
        old = {(kind, name_of(manifest)): manifest for manifest in getattr(observed, field)}
        new = {key: manifest for key, manifest in made.items() if key[0] == kind}
        parts[field] = [manifest for key, manifest in {**old, **new}.items() if key not in gone]
    document = observed.document if plan.status is None else {**observed.document, "status": plan.status}
    return replace(observed, document=document, **parts)


def edit(observed: ObservedInference, spec: Mapping[str, Any]) -> ObservedInference:
    document = dict(observed.document)
    metadata = document["metadata"]
    document["metadata"] = {**metadata, "generation": metadata["generation"] + 1}
    document["spec"] = merge(document["spec"], dict(spec))
    return replace(observed, document=document)


def started(spec: Mapping[str, Any], **parts: Any) -> ObservedInference:
    observed = observe(spec, **parts)
    return carry_out(observed, plan(observed))


def with_servers(observed: ObservedInference, *, ready: int, updated: int, replicas: int) -> ObservedInference:
    """As the Deployment's controller counts them."""
    status = {"replicas": replicas, "readyReplicas": ready, "updatedReplicas": updated}
    return replace(observed, deployments=[{**observed.deployments[0], "status": status}])
