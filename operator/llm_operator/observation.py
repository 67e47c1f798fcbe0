"""Puts together what is known of one resource: from the watches, from runners' reports, and from this process's memory.

Asks the cluster for nothing but whether a namespace is going, and that only of resources that are going too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from llm_operator.feed import Feed
from llm_operator.observed import (
    ClusterEvent,
    Manifest,
    Observed,
    ObservedFineTune,
    ObservedInference,
    ProgressReport,
    Refusal,
)
from llm_operator.store import FINE_TUNE, ObjectId, ResourceKey, id_of


class Namespaces(Protocol):
    """What is needed of the cluster."""

    async def namespace_is_terminating(self, namespace: str) -> bool: ...


@dataclass
class Memory:
    """What this process knows of a resource that the cluster doesn't."""

    uid: str
    refusals: tuple[Refusal, ...] = ()
    status_written_at: datetime | None = None


class Observer:
    """Observes one resource at a time."""

    def __init__(self, feed: Feed, namespaces: Namespaces) -> None:
        self._feed = feed
        self._namespaces = namespaces

    async def observe(self, key: ResourceKey, memory: Memory | None) -> Observed | None:
        """None: there is no such resource (any more). What another resource of its name left behind isn't used."""
        document = self._feed.store.get(key)
        if document is None:
            return None
        parts = self._common_parts(key, document, memory)
        parts["namespace_is_terminating"] = await self._is_terminating(document)
        if key.kind == FINE_TUNE:
            return ObservedFineTune(**parts)
        return ObservedInference(**parts, **self._inference_parts(key, document))

    def _common_parts(self, key: ResourceKey, document: Manifest, memory: Memory | None) -> dict[str, Any]:
        store = self._feed.store
        jobs, pods = store.belongings(key, "Job"), store.belongings(key, "Pod")
        return {
            "document": document,
            "jobs": jobs,
            "pods": pods,
            "config_maps": store.belongings(key, "ConfigMap"),
            "services": store.belongings(key, "Service"),
            "events": self._events([*jobs, *pods, *store.belongings(key, "Deployment")]),
            "progress": self._progress(pods),
            "refusals": () if memory is None else memory.refusals,
            "status_written_at": None if memory is None else memory.status_written_at,
        }

    def _inference_parts(self, key: ResourceKey, document: Manifest) -> dict[str, Any]:
        store = self._feed.store
        name = ((document["spec"].get("model") or {}).get("fineTuneRef") or {}).get("name")
        return {
            "deployments": store.belongings(key, "Deployment"),
            "autoscalers": store.belongings(key, "HorizontalPodAutoscaler"),
            "fine_tune": None if name is None else store.get(ObjectId(FINE_TUNE, key.namespace, name)),
        }

    def _events(self, objects: Sequence[Manifest]) -> list[ClusterEvent]:
        return [event for manifest in objects for event in self._feed.happenings.about(id_of(manifest))]

    def _progress(self, pods: Sequence[Manifest]) -> dict[str, ProgressReport]:
        found = {}
        for pod in pods:
            report = self._feed.reports.get((pod["metadata"]["namespace"], pod["metadata"]["name"]))
            if report is not None:
                found[report.pod_name] = report
        return found

    async def _is_terminating(self, document: Manifest) -> bool:
        metadata = document["metadata"]
        if "deletionTimestamp" not in metadata:
            return False
        return await self._namespaces.namespace_is_terminating(metadata["namespace"])
