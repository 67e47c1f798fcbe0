"""Replicas by load: a HorizontalPodAutoscaler on what each server says of its queue."""

from typing import Any

from llm_api.inference import Autoscaling, LLMInference

from llm_operator.build.deployment import SERVE
from llm_operator.build.names import build_metadata, resource_labels

METRICS = {"queueDepth": "llm_runner_queue_depth"}
"""Name in the API -> metric of the pods, as an adapter offers it to the custom metrics API."""


def build_autoscaler(resource: LLMInference, scaling: Autoscaling) -> dict[str, Any]:
    target = scaling.target
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": build_metadata(resource, resource.name, resource_labels(resource, SERVE)),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": resource.name},
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": METRICS[target.metric]},
                        "target": {"type": "AverageValue", "averageValue": str(target.value)},
                    },
                }
            ],
        },
    }
