"""A batch's Job: one index for each shard, each tried again and given up by itself.

What one can't do is no reason to stop the others: the rows that they answer are kept, and the next Job for the same
rows goes on with those that are missing. All of them run at once, so a limit on how many may fail would spare none.
"""

from typing import Any

from llm_api.inference import Batch, LLMInference

from llm_operator.build.inferencerun import batch_name, batch_result
from llm_operator.build.job import build_failure_rules
from llm_operator.build.names import QUEUE_LABEL, RESULT_LABEL, build_metadata, queue_labels, resource_labels
from llm_operator.build.pod import METRICS_PORT_NAME, TERMINATION_LOG, Work, build_pod_template
from llm_operator.build.volumes import RUN_PATH, WORK_FOLDER, Volumes
from llm_operator.settings import Settings

PREDICT = "predict"
RETRIES_PER_SHARD = 3


def build_batch_job(resource: LLMInference, batch: Batch, volumes: Volumes, settings: Settings) -> dict[str, Any]:
    name, queue, spec = batch_name(resource), queue_labels(resource), resource.spec
    labels = {**resource_labels(resource, PREDICT), RESULT_LABEL: batch_result(resource)}
    volumes.mount_run_file(name)
    volumes.mount_scratch()
    pod = build_pod_template(_build_work(volumes, settings), spec.compute, spec.credentials, settings, labels)
    pod["spec"]["restartPolicy"] = "Never"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": build_metadata(resource, name, {**labels, **queue}),
        "spec": {
            "completionMode": "Indexed",
            "completions": batch.shards,
            "parallelism": batch.shards,
            "backoffLimitPerIndex": RETRIES_PER_SHARD,
            "suspend": QUEUE_LABEL in queue,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": build_failure_rules("FailIndex")},
            "template": pod,
        },
    }


def _build_work(volumes: Volumes, settings: Settings) -> Work:
    options = {
        "--work-dir": WORK_FOLDER,
        "--metrics-port": str(settings.metrics_port),
        "--termination-log": TERMINATION_LOG,
    }
    return Work(
        image=settings.runner_image,
        args=["predict", RUN_PATH, *(part for option in options.items() for part in option)],
        volumes=volumes,
        ports=[{"name": METRICS_PORT_NAME, "containerPort": settings.metrics_port, "protocol": "TCP"}],
    )
