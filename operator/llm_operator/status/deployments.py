"""A Deployment, read down to what a status and a plan need of it. Judges nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from llm_operator.observed import Manifest


@dataclass(frozen=True)
class DeploymentView:
    name: str
    uid: str
    annotations: Mapping[str, str]
    wanted: int
    """Replicas asked for, by the spec or by an autoscaler."""
    replicas: int
    ready: int
    updated: int
    is_settled: bool
    """Its controller has seen the newest spec, and no server of an earlier one is left."""
    failure: str | None
    """Why pods can't be made."""


def view_deployment(deployment: Manifest) -> DeploymentView:
    metadata, spec, status = deployment["metadata"], deployment.get("spec", {}), deployment.get("status", {})
    wanted = int(spec.get("replicas", 1))
    replicas, updated = int(status.get("replicas") or 0), int(status.get("updatedReplicas") or 0)
    is_seen = int(status.get("observedGeneration") or 0) >= int(metadata.get("generation") or 0)
    failures = [
        str(condition.get("message", ""))
        for condition in status.get("conditions") or ()
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
    ]
    return DeploymentView(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        annotations=metadata.get("annotations") or {},
        wanted=wanted,
        replicas=replicas,
        ready=int(status.get("readyReplicas") or 0),
        updated=updated,
        is_settled=is_seen and updated >= wanted and replicas == updated,
        failure=failures[0] if failures else None,
    )
