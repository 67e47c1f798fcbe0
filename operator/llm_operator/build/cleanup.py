"""The Job that deletes what a fine-tune stored, once the resource is being deleted.

Owned by nobody, as its owner is going, and carrying its run file in an annotation, as whatever is owned may be gone by
then; it goes by itself soon after it has finished.
"""

from typing import Any

from llm_api.compute import Resources
from llm_api.finetune import LLMFineTune

from llm_operator.build.configmap import to_run_json
from llm_operator.build.job import build_failure_rules
from llm_operator.build.names import build_metadata, hash_of, resource_labels
from llm_operator.build.pod import TERMINATION_LOG, Work, build_pod_template
from llm_operator.build.trainrun import build_train_run
from llm_operator.build.volumes import RUN_FILE, RUN_FOLDER, RUN_PATH, Volumes
from llm_operator.settings import Settings

CLEANUP = "cleanup"
RUN_ANNOTATION = "llmoperator.dev/run"
RETRIES = 3
DEADLINE_SECONDS = 600
TTL_SECONDS = 300
SMALL = Resources(requests={"cpu": "100m", "memory": "256Mi"}, limits={"cpu": "1", "memory": "1Gi"})
"""Whatever training takes, deleting takes little; written down, as a namespace's quota may ask for it."""


def cleanup_name(resource: LLMFineTune) -> str:
    return f"{resource.name}-{hash_of([CLEANUP, resource.metadata.uid])}"


def build_cleanup_job(resource: LLMFineTune, settings: Settings) -> dict[str, Any]:
    volumes = Volumes()
    run = build_train_run(resource, settings, Volumes())
    mount_what_is_deleted(resource, volumes)
    labels = resource_labels(resource, CLEANUP)
    work = Work(settings.runner_image, ["delete", RUN_PATH, "--termination-log", TERMINATION_LOG], volumes)
    compute = resource.spec.compute.model_copy(update={"accelerators": None, "resources": SMALL})
    pod = build_pod_template(work, compute, resource.spec.credentials, settings, labels)
    pod["metadata"]["annotations"] = {**pod["metadata"].get("annotations", {}), RUN_ANNOTATION: to_run_json(run)}
    pod["spec"]["restartPolicy"] = "Never"
    metadata = build_metadata(resource, cleanup_name(resource), labels)
    del metadata["ownerReferences"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": TTL_SECONDS,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": build_failure_rules()},
            "template": pod,
        },
    }


def mount_what_is_deleted(resource: LLMFineTune, volumes: Volumes) -> None:
    """The output's volume and the run file; neither data nor models."""
    output = resource.spec.output
    volumes.mount_output(output.uri, output.volume)
    field = {"path": RUN_FILE, "fieldRef": {"fieldPath": f"metadata.annotations['{RUN_ANNOTATION}']"}}
    volumes.mount("run", RUN_FOLDER, {"downwardAPI": {"items": [field]}})
    volumes.mount_scratch()
