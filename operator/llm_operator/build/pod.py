"""The pod of a runner, whatever it is to do: container, credentials, devices, the user's template, and what must hold.

What it does is the caller's; who starts it again is a Job's or a Deployment's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_api.compute import Compute
from llm_api.sources import Credentials

from llm_operator.build.merge import merge_pod
from llm_operator.build.security import harden_pod
from llm_operator.build.volumes import WORK_FOLDER, Volumes
from llm_operator.settings import Settings

CONTAINER_NAME = "runner"
FETCH = "fetch"
"""Of the init container that brings the model for a server that isn't ours."""
METRICS_PORT_NAME = "metrics"
TERMINATION_LOG = "/dev/termination-log"
AWS_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
AWS_SESSION_TOKEN = "AWS_SESSION_TOKEN"


@dataclass(frozen=True)
class Work:
    """What one container is to do, and what it needs for that."""

    image: str
    args: Sequence[str]
    volumes: Volumes
    command: Sequence[str] = ("llm-runner",)
    env: Sequence[Mapping[str, Any]] = ()
    ports: Sequence[Mapping[str, Any]] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the container, such as probes."""
    init_containers: Sequence[Mapping[str, Any]] = ()


def build_pod_template(
    work: Work, compute: Compute, credentials: Credentials, settings: Settings, labels: Mapping[str, str]
) -> dict[str, Any]:
    template = compute.pod_template
    spec = merge_pod(_build_spec(work, compute, credentials, settings), template.spec)
    annotations = template.metadata.annotations
    return {
        "metadata": {
            "labels": {**template.metadata.labels, **labels},
            **({"annotations": dict(annotations)} if annotations else {}),
        },
        "spec": harden_pod(spec, compute.service_account_name),
    }


def _build_spec(work: Work, compute: Compute, credentials: Credentials, settings: Settings) -> dict[str, Any]:
    pull_secrets = [{"name": name} for name in settings.runner_image_pull_secrets]
    return {
        "containers": [build_container(work, compute, credentials, settings)],
        **({"initContainers": list(work.init_containers)} if work.init_containers else {}),
        "volumes": work.volumes.volumes,
        "terminationGracePeriodSeconds": settings.grace_period_seconds,
        "securityContext": {
            "runAsUser": settings.runner_uid,
            "runAsGroup": settings.runner_uid,
            "fsGroup": settings.runner_uid,
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        **({"imagePullSecrets": pull_secrets} if pull_secrets else {}),
    }


def build_container(
    work: Work, compute: Compute, credentials: Credentials, settings: Settings, name: str = CONTAINER_NAME
) -> dict[str, Any]:
    resources = build_resources(compute)
    return {
        "name": name,
        "image": work.image,
        "imagePullPolicy": settings.runner_image_pull_policy,
        "command": list(work.command),
        "args": list(work.args),
        "env": [{"name": "HOME", "value": WORK_FOLDER}, *build_s3_env(credentials), *work.env],
        "ports": list(work.ports),
        "volumeMounts": work.volumes.mounts,
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        **({"resources": resources} if resources else {}),
        **work.extras,
    }


def build_resources(compute: Compute) -> dict[str, dict[str, str]]:
    """Devices go to the limits, which are requests too for what can't be shared."""
    limits = {name: str(amount) for name, amount in compute.resources.limits.items()}
    if compute.accelerators is not None:
        limits[compute.accelerators.resource] = str(compute.accelerators.count)
    requests = {name: str(amount) for name, amount in compute.resources.requests.items()}
    return {key: amounts for key, amounts in (("requests", requests), ("limits", limits)) if amounts}


def build_s3_env(credentials: Credentials) -> list[dict[str, Any]]:
    """The keys that are needed, one by one: whatever else is in the Secret stays there."""
    if credentials.s3 is None or credentials.s3.secret_ref is None:
        return []
    secret = credentials.s3.secret_ref.name
    keys = [{"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for key in AWS_KEYS]
    session = {"name": secret, "key": AWS_SESSION_TOKEN, "optional": True}
    return [*keys, {"name": AWS_SESSION_TOKEN, "valueFrom": {"secretKeyRef": session}}]
