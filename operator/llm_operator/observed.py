"""What was seen of one resource and of everything that belongs to it, at one moment: the only input of a plan.

Objects are as the API server gives them (JSON, camelCase), so that a field which a newer cluster adds does no harm.
Whoever fills these in sorts nothing out: what is stale or somebody else's is told apart by those who plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from llm_api.conditions import Reason
from llm_api.report import Progress

Manifest = Mapping[str, Any]
"""A Kubernetes object."""


@dataclass(frozen=True)
class ProgressReport:
    """The newest report of one pod, whose token said which pod it is."""

    pod_name: str
    progress: Progress
    received_at: datetime


@dataclass(frozen=True)
class ClusterEvent:
    """A Kubernetes event about a Job, a Deployment or a pod of the resource; warnings are enough."""

    kind: str
    """Kind of the object that it is about."""
    name: str
    """Name of that object."""
    reason: str
    message: str
    last_seen_at: datetime


@dataclass(frozen=True)
class Refusal:
    """What the API server or an admission webhook said to an object of the last plan, where that was no.

    Trying again changes nothing until somebody changes something; what may pass by itself is never one of these.
    """

    kind: str
    name: str
    message: str
    reason: Reason | None = None
    """What it is, where that doesn't have to be read from the message."""


@dataclass(frozen=True)
class Observed:
    """The part that both kinds have in common. All objects are of the resource's namespace."""

    document: Manifest
    """The resource itself, with its status."""
    jobs: Sequence[Manifest] = ()
    """Jobs that carry the resource's label (``build.names``), cleanup included."""
    pods: Sequence[Manifest] = ()
    """Pods that carry it."""
    config_maps: Sequence[Manifest] = ()
    """ConfigMaps that carry it; their metadata is enough."""
    services: Sequence[Manifest] = ()
    """Services that carry it."""
    events: Sequence[ClusterEvent] = ()
    """Events about those Jobs, Deployments and pods."""
    progress: Mapping[str, ProgressReport] = field(default_factory=dict)
    """Pod's name -> its newest report."""
    refusals: Sequence[Refusal] = ()
    """What was refused when the last plan was carried out; empty once something of it changed."""
    namespace_is_terminating: bool = False
    """Only asked for once the resource is being deleted."""
    status_written_at: datetime | None = None
    """When this process last wrote the resource's status; None if it hasn't."""


@dataclass(frozen=True)
class ObservedFineTune(Observed):
    """One LLMFineTune."""


@dataclass(frozen=True)
class ObservedInference(Observed):
    """One LLMInference."""

    deployments: Sequence[Manifest] = ()
    """Deployments that carry the resource's label."""
    autoscalers: Sequence[Manifest] = ()
    """HorizontalPodAutoscalers that carry it."""
    fine_tune: Manifest | None = None
    """The LLMFineTune that spec.model.fineTuneRef names, with its status; None where there is none of that name."""
