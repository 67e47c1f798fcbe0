"""Services: one name for each node of a run, and one for all servers of an inference."""

from typing import Any

from llm_api.finetune import LLMFineTune
from llm_api.inference import LLMInference

from llm_operator.build.deployment import PORT_NAME, SERVE, build_selector
from llm_operator.build.inferencerun import PORT
from llm_operator.build.job import TRAIN
from llm_operator.build.names import build_metadata, resource_labels
from llm_operator.build.trainrun import RENDEZVOUS_PORT, RunIdentity

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"


def build_rendezvous_service(resource: LLMFineTune, run: RunIdentity) -> dict[str, Any]:
    """Headless, and with names for pods that aren't ready yet: they meet before they are."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(resource, run.name, resource_labels(resource, TRAIN)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {JOB_NAME_LABEL: run.name},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT, "protocol": "TCP"}],
        },
    }


def build_endpoint_service(resource: LLMInference) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(resource, resource.name, resource_labels(resource, SERVE)),
        "spec": {
            "selector": build_selector(resource),
            "ports": [{"name": PORT_NAME, "port": PORT, "targetPort": PORT_NAME, "protocol": "TCP"}],
        },
    }


def endpoint_url(resource: LLMInference) -> str:
    return f"http://{resource.name}.{resource.namespace}.svc:{PORT}"
