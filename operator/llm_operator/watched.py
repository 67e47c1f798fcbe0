"""Which objects are watched, and which of them the API server need not send."""

from dataclasses import dataclass

from llm_api.resource import GROUP, VERSION

from llm_operator.build.names import MANAGED_BY, MANAGED_BY_LABEL


@dataclass(frozen=True)
class WatchedKind:
    """One kind of object."""

    group: str
    version: str
    plural: str
    kind: str
    label_selector: str | None = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
    field_selector: str | None = None

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None) -> str:
        """Where its watch is asked for; None: in all namespaces."""
        root = f"/apis/{self.group}" if self.group else "/api"
        place = "" if namespace is None else f"/namespaces/{namespace}"
        return f"{root}/{self.version}{place}/{self.plural}"


FINE_TUNES = WatchedKind(GROUP, VERSION, "llmfinetunes", "LLMFineTune", label_selector=None)
INFERENCES = WatchedKind(GROUP, VERSION, "llminferences", "LLMInference", label_selector=None)
RESOURCES = (FINE_TUNES, INFERENCES)

OBJECTS = (
    *RESOURCES,
    WatchedKind("batch", "v1", "jobs", "Job"),
    WatchedKind("apps", "v1", "deployments", "Deployment"),
    WatchedKind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    WatchedKind("", "v1", "pods", "Pod"),
    WatchedKind("", "v1", "configmaps", "ConfigMap"),
    WatchedKind("", "v1", "services", "Service"),
)

EVENTS = WatchedKind(
    "",
    "v1",
    "events",
    "Event",
    label_selector=None,
    # What is left out is said better by a pod's own conditions, or is about a probe; both come in floods.
    field_selector="type=Warning,reason!=FailedScheduling,reason!=BackOff,reason!=Unhealthy",
)

ALL = (*OBJECTS, EVENTS)
