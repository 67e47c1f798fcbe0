"""A pod, read down to what a status needs of it. Judges nothing.

Everything comes from the API server as JSON, in which any field may be absent.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llm_api.report import Outcome

from llm_operator.observed import Manifest

RUNNER = "runner"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
NO_TIME = datetime.fromisoformat("1970-01-01T00:00:00Z")


@dataclass(frozen=True)
class Said:
    """A reason in one word and its explanation, as the cluster gives them."""

    reason: str
    message: str


@dataclass(frozen=True)
class Ended:
    """How a container ended."""

    exit_code: int
    reason: str
    at: datetime
    outcome: Outcome | None
    """The runner's last words; None where it had no time for them."""


@dataclass(frozen=True)
class PodView:
    name: str
    job: str | None
    index: int
    """Of a node or a shard; 0 where there is only one."""
    phase: str
    node: str | None
    created_at: datetime
    is_going: bool
    """It is being deleted."""
    reason: Said | None
    """Why the pod as a whole is as it is, such as Evicted."""
    scheduling: Said | None
    """Why it has no node."""
    disruption: Said | None
    """Who ended it from outside."""
    waiting: Said | None
    """Why a container isn't started."""
    started_at: datetime | None
    """When the runner started."""
    ended: Ended | None
    previous: Ended | None
    """How the runner ended before it was started again in the same pod."""
    is_ready: bool
    is_node_silent: bool = False
    """Its node has not been heard of for a while."""

    @property
    def is_live(self) -> bool:
        return self.phase in ("Pending", "Running") and not self.is_going

    @property
    def is_running(self) -> bool:
        return self.started_at is not None and self.ended is None and self.is_live

    @property
    def is_gone(self) -> bool:
        """It can't write anything any more."""
        return self.phase in ("Succeeded", "Failed")


def view_pods(pods: Iterable[Manifest]) -> list[PodView]:
    """Oldest first."""
    return sorted((view_pod(pod) for pod in pods), key=lambda pod: (pod.created_at, pod.name))


def view_pod(pod: Manifest) -> PodView:
    metadata, status = _mapping(pod, "metadata"), _mapping(pod, "status")
    runner = _find_runner(status)
    state = _mapping(runner, "state")
    terminated = state.get("terminated")
    started = terminated if terminated is not None else state.get("running")
    return PodView(
        name=metadata["name"],
        job=_mapping(metadata, "labels").get(JOB_NAME_LABEL),
        index=int(_mapping(metadata, "annotations").get(INDEX_ANNOTATION, 0)),
        phase=status.get("phase", "Pending"),
        node=_mapping(pod, "spec").get("nodeName"),
        created_at=_time_or_none_yet(metadata.get("creationTimestamp")),
        is_going=metadata.get("deletionTimestamp") is not None,
        reason=_said(status) if status.get("reason") else None,
        scheduling=_condition(status, "PodScheduled", "False"),
        disruption=_condition(status, "DisruptionTarget", "True"),
        waiting=_find_waiting(status),
        started_at=None if started is None else to_time(started.get("startedAt")),
        ended=None if terminated is None else _to_ended(terminated),
        previous=_find_previous(status, runner),
        is_ready=_condition(status, "Ready", "True") is not None,
        is_node_silent=_is_node_silent(status),
    )


def to_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _time_or_none_yet(text: str | None) -> datetime:
    return NO_TIME if text is None else datetime.fromisoformat(text)


def _mapping(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = holder.get(key)
    return value if isinstance(value, Mapping) else {}


def _find_runner(status: Mapping[str, Any]) -> Mapping[str, Any]:
    containers: Sequence[Mapping[str, Any]] = status.get("containerStatuses") or ()
    return next((container for container in containers if container.get("name") == RUNNER), {})


def _find_previous(status: Mapping[str, Any], runner: Mapping[str, Any]) -> Ended | None:
    """Of the runner; or of an init container that it still waits for."""
    initial: Sequence[Mapping[str, Any]] = status.get("initContainerStatuses") or ()
    awaited = (one for one in initial if _mapping(one, "state").get("terminated", {}).get("exitCode") != 0)
    for container in (runner, *awaited):
        terminated = _mapping(container, "lastState").get("terminated")
        if terminated is not None:
            return _to_ended(terminated)
    return None


def _find_waiting(status: Mapping[str, Any]) -> Said | None:
    """Init containers first: the others wait for them."""
    for name in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(name) or ():
            waiting = _mapping(container, "state").get("waiting")
            if waiting is not None and waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
                return _said(waiting)
    return None


def _condition(status: Mapping[str, Any], type_: str, value: str) -> Said | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == type_ and condition.get("status") == value:
            return _said(condition)
    return None


def _is_node_silent(status: Mapping[str, Any]) -> bool:
    """The node controller calls the pods of a node that doesn't answer unready, whose containers are, and says no why.

    The kubelet says one where it is a readiness gate that is awaited.
    """
    unready = _condition(status, "Ready", "False")
    return unready is not None and not unready.reason and _condition(status, "ContainersReady", "True") is not None


def _said(holder: Mapping[str, Any]) -> Said:
    return Said(str(holder.get("reason", "")), str(holder.get("message", "")))


def _to_ended(terminated: Mapping[str, Any]) -> Ended:
    return Ended(
        exit_code=int(terminated.get("exitCode", 0)),
        reason=str(terminated.get("reason", "")),
        at=_time_or_none_yet(terminated.get("finishedAt")),
        outcome=_to_outcome(str(terminated.get("message", ""))),
    )


def _to_outcome(text: str) -> Outcome | None:
    """None for anything but an Outcome: what a killed process leaves there is no JSON."""
    try:
        return Outcome.model_validate_json(text)
    except ValueError:
        return None
