"""A fine-tune's Job: how often and how long it is tried, what counts as a failure, and several nodes for one run.

The policy says the same as ``llm_api.report.ExitCode``, and is built from it.
"""

from collections.abc import Mapping
from typing import Any, Literal

from llm_api.finetune import LLMFineTune, RunPolicy
from llm_api.report import FINAL_FAILURES, UNCOUNTED

from llm_operator.build.names import (
    OUTPUT_ANNOTATION,
    QUEUE_LABEL,
    RESULT_LABEL,
    build_metadata,
    queue_labels,
    resource_labels,
)
from llm_operator.build.pod import CONTAINER_NAME, METRICS_PORT_NAME, TERMINATION_LOG, Work, build_pod_template
from llm_operator.build.trainrun import RunIdentity
from llm_operator.build.volumes import RUN_PATH, WORK_FOLDER, Volumes, address_of_output
from llm_operator.settings import Settings

TRAIN = "train"


def build_train_job(resource: LLMFineTune, run: RunIdentity, volumes: Volumes, settings: Settings) -> dict[str, Any]:
    """``volumes`` are those that the run file refers to."""
    labels = {**resource_labels(resource, TRAIN), RESULT_LABEL: run.result_hash}
    work = _build_work(run, volumes, settings)
    spec = resource.spec
    pod = build_pod_template(work, spec.compute, spec.credentials, settings, labels)
    pod["spec"]["restartPolicy"] = "Never"
    if spec.compute.nodes > 1:
        pod["spec"]["subdomain"] = run.name
    queue = queue_labels(resource)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            **build_metadata(resource, run.name, {**labels, **queue}),
            "annotations": {OUTPUT_ANNOTATION: address_of_output(spec.output)},
        },
        "spec": {
            **build_run_limits(spec.run),
            # A queue lets a Job start; without one it starts at once. Who suspends a run gets no Job to begin with.
            "suspend": QUEUE_LABEL in queue,
            **_build_completions(spec.compute.nodes),
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": build_failure_rules()},
            "template": pod,
        },
    }


def build_run_limits(policy: RunPolicy) -> dict[str, Any]:
    """What can be changed on a Job under way."""
    return {
        "backoffLimit": policy.max_retries,
        **({} if policy.deadline_seconds is None else {"activeDeadlineSeconds": policy.deadline_seconds}),
    }


def build_failure_rules(final: Literal["FailJob", "FailIndex"] = "FailJob") -> list[dict[str, Any]]:
    """The first that applies decides; what none applies to counts as a failure and is tried again. Of several nodes the
    one that failed counts, and not those that ended for want of it. ``final``: what is given up for good.
    """
    return [
        _exit_code_rule(final, sorted(FINAL_FAILURES)),
        _exit_code_rule("Ignore", sorted(UNCOUNTED)),
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]


def _exit_code_rule(action: str, codes: list[int]) -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"containerName": CONTAINER_NAME, "operator": "In", "values": codes}}


def _build_completions(nodes: int) -> Mapping[str, Any]:
    """The first of several nodes stores the result: once it has, all is done."""
    if nodes == 1:
        return {"completions": 1, "parallelism": 1, "completionMode": "NonIndexed"}
    success = {"rules": [{"succeededIndexes": "0"}]}
    return {"completions": nodes, "parallelism": nodes, "completionMode": "Indexed", "successPolicy": success}


def _build_work(run: RunIdentity, volumes: Volumes, settings: Settings) -> Work:
    volumes.mount_run_file(run.name)
    volumes.mount_scratch()
    return Work(
        image=settings.runner_image,
        args=build_train_args(settings),
        volumes=volumes,
        ports=[{"name": METRICS_PORT_NAME, "containerPort": settings.metrics_port, "protocol": "TCP"}],
    )


def build_train_args(settings: Settings) -> list[str]:
    options = {
        "--work-dir": WORK_FOLDER,
        "--metrics-port": str(settings.metrics_port),
        "--termination-log": TERMINATION_LOG,
    }
    return ["train", RUN_PATH, *(part for option in options.items() for part in option)]
