"""The servers of an inference: a Deployment that rolls without losing a request, on either engine.

A server is ready once its model is loaded and warm; a new one is ready before an old one goes, and the old one finishes
what it has.
"""

from collections.abc import Mapping
from typing import Any

from llm_api.inference import LLMInference, Serve

from llm_operator.build.inferencerun import PORT
from llm_operator.build.names import COMPONENT_LABEL, INFERENCE_LABEL, build_metadata, resource_labels
from llm_operator.build.pod import FETCH, TERMINATION_LOG, Work, build_container, build_pod_template
from llm_operator.build.volumes import RUN_PATH, WORK_FOLDER, Volumes
from llm_operator.settings import Settings

SERVE = "serve"
PORT_NAME = "http"
PROGRESS_DEADLINE_SECONDS = 3600
"""A large model takes a while to arrive."""
DRAIN_SECONDS = 5
"""Between leaving the Service and SIGTERM: proxies that haven't heard of it yet still send requests."""
STARTUP_SECONDS = 600
VLLM_CONFIG = f"{WORK_FOLDER}/vllm.yaml"
"""Written by the init container, which knows whether the artifact is an adapter or a whole model."""
VLLM_ENV = (
    # Torch asks for the user's name, and an arbitrary uid has none.
    {"name": "USER", "value": "vllm"},
    # All that it needs is there, and pods may reach nothing outside.
    {"name": "HF_HUB_OFFLINE", "value": "1"},
    {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
)


def build_deployment(
    resource: LLMInference, serve: Serve, config_map_name: str, volumes: Volumes, settings: Settings
) -> dict[str, Any]:
    labels = resource_labels(resource, SERVE)
    volumes.mount_run_file(config_map_name)
    volumes.mount_scratch()
    work = _build_work(resource, serve, volumes, settings)
    spec = resource.spec
    replicas = {} if has_autoscaler(serve) else {"replicas": serve.replicas}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": build_metadata(resource, resource.name, labels),
        "spec": {
            **replicas,
            "selector": {"matchLabels": build_selector(resource)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": PROGRESS_DEADLINE_SECONDS,
            "revisionHistoryLimit": 1,
            "template": build_pod_template(work, spec.compute, spec.credentials, settings, labels),
        },
    }


def build_selector(resource: LLMInference) -> dict[str, str]:
    return {INFERENCE_LABEL: resource.name, COMPONENT_LABEL: SERVE}


def has_autoscaler(serve: Serve) -> bool:
    """Kubernetes' own goes down to one. Who wants none at all points KEDA at the resource's scale."""
    return serve.autoscaling is not None and serve.autoscaling.min_replicas > 0


def _build_work(resource: LLMInference, serve: Serve, volumes: Volumes, settings: Settings) -> Work:
    if serve.engine == "vllm":
        return _build_vllm_work(resource, serve, volumes, settings)
    args = ["serve", RUN_PATH, "--work-dir", WORK_FOLDER, "--termination-log", TERMINATION_LOG]
    return Work(
        image=settings.runner_image,
        args=args,
        volumes=volumes,
        ports=_PORTS,
        extras=build_probes(alive="/healthz", ready="/readyz"),
    )


def _build_vllm_work(resource: LLMInference, serve: Serve, volumes: Volumes, settings: Settings) -> Work:
    """The runner fetches the model and writes vLLM's settings; vLLM serves it."""
    volumes.mount("shm", "/dev/shm", {"emptyDir": {"medium": "Memory"}}, read_only=False)
    options = ["--work-dir", WORK_FOLDER, "--termination-log", TERMINATION_LOG]
    fetch = Work(settings.runner_image, ["export", RUN_PATH, *options], volumes)
    compute = resource.spec.compute.model_copy(update={"accelerators": None})
    init = build_container(fetch, compute, resource.spec.credentials, settings, name=FETCH)
    return Work(
        image=settings.vllm_image,
        command=["vllm", "serve"],
        args=_build_vllm_args(resource, serve),
        volumes=volumes,
        env=[*VLLM_ENV, *_build_api_key_env(serve)],
        ports=_PORTS,
        extras=build_probes(alive="/health", ready="/health"),
        init_containers=[init],
    )


def _build_vllm_args(resource: LLMInference, serve: Serve) -> list[str]:
    accelerators = resource.spec.compute.accelerators
    options = {
        "--config": VLLM_CONFIG,
        "--host": "0.0.0.0",
        "--port": str(PORT),
        "--tensor-parallel-size": str(1 if accelerators is None else accelerators.count),
        **({} if serve.max_concurrency is None else {"--max-num-seqs": str(serve.max_concurrency)}),
    }
    return [part for option in options.items() for part in option]


def _build_api_key_env(serve: Serve) -> list[dict[str, Any]]:
    if serve.api_key is None:
        return []
    reference = {"name": serve.api_key.secret_ref.name, "key": serve.api_key.secret_ref.key}
    return [{"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": reference}}]


_PORTS = [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}]


def build_probes(*, alive: str, ready: str) -> Mapping[str, Any]:
    """Alive is said from the start, while the model still loads; a server that isn't even that is started again."""
    period_seconds = 5
    started = {"periodSeconds": period_seconds, "failureThreshold": STARTUP_SECONDS // period_seconds}
    return {
        "startupProbe": {**_get(alive), **started},
        "livenessProbe": {**_get(alive), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "readinessProbe": {**_get(ready), "periodSeconds": period_seconds, "timeoutSeconds": 5},
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
    }


def _get(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": PORT_NAME}}
