"""Replicas by load: a HorizontalPodAutoscaler on what each server says of its queue."""

from typing import Any

from llm_api.inference import Autoscaling, LLMInference, Serve

from llm_operator.build.deployment import SERVE
from llm_operator.build.names import build_metadata, resource_labels

METRICS = {
    "transformers": {"queueDepth": "llm_serve_queue_depth"},
    "vllm": {"queueDepth": "vllm:num_requests_waiting"},
}
"""Engine -> name in the API -> metric of its pods, as an adapter offers it to the custom metrics API."""


def build_autoscaler(resource: LLMInference, serve: Serve, scaling: Autoscaling) -> dict[str, Any]:
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
                        "metric": {"name": METRICS[serve.engine][target.metric]},
                        "target": {"type": "AverageValue", "averageValue": str(target.value)},
                    },
                }
            ],
        },
    }
