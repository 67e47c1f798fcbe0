"""An LLMFineTune and what a cluster shows of its run, as the API server gives them: input for plans."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from llm_api.names import to_rfc3339
from llm_api.report import Outcome, Progress
from llm_operator.observed import Manifest, Observed, ObservedFineTune, ProgressReport
from llm_operator.reconcile.finetune import plan_fine_tune
from llm_operator.reconcile.plan import Plan
from llm_operator.settings import Settings

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SETTINGS = Settings(
    runner_image="registry.example.com/llm-runner:1.0",
    progress_url="http://llm-operator.llm.svc:8081",
)
CONFIG: dict[str, Any] = {
    "base_model": "acme/small",
    "input_features": [{"name": "question", "type": "text"}],
    "output_features": [{"name": "answer", "type": "text"}],
    "adapter": {"type": "lora"},
    "trainer": {"type": "finetune", "epochs": 2, "batch_size": "auto"},
}


def merge(base: Any, change: Any) -> Any:
    if isinstance(base, dict) and isinstance(change, dict):
        return {**base, **{key: merge(base.get(key), value) for key, value in change.items()}}
    return change


def fine_tune(spec: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """A valid resource; ``spec`` is merged into its spec."""
    plain = {
        "config": CONFIG,
        "dataset": {"train": {"uri": "s3://datasets/support/train.jsonl"}},
        "output": {"uri": "s3://models/bot"},
    }
    return {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMFineTune",
        "metadata": {"name": "bot", "namespace": "team", "uid": "uid-1", "generation": 1, **metadata},
        "spec": merge(plain, spec or {}),
    }


def plan(observed: ObservedFineTune, now: datetime = NOW, settings: Settings = SETTINGS) -> Plan:
    return plan_fine_tune(observed, settings, now)


def of_kind(plan: Plan, kind: str) -> dict[str, Any]:
    """The one object of a kind that a plan applies."""
    (found,) = [manifest for manifest in plan.apply if manifest["kind"] == kind]
    return dict(found)


def carry_out(observed: ObservedFineTune, plan: Plan) -> ObservedFineTune:
    """What a cluster would show afterwards, before any of its controllers did anything."""
    document = dict(observed.document)
    if plan.status is not None:
        document["status"] = plan.status
    if plan.finalizer is not None:
        finalizers = ["llmoperator.dev/artifacts"] if plan.finalizer == "add" else []
        document["metadata"] = {**document["metadata"], "finalizers": finalizers}
    gone = {(deletion.key.kind, deletion.key.name) for deletion in plan.delete}
    patches = {patch.key.name: patch.body for patch in plan.patch}
    jobs = [merge(job, patches.get(name_of(job), {})) for job in observed.jobs]
    known = [*jobs, *observed.config_maps, *observed.services]
    made = [stored(manifest) for manifest in plan.apply]
    there = [one for one in known if (one["kind"], name_of(one)) not in gone] + made
    return replace(
        observed,
        document=document,
        jobs=[manifest for manifest in there if manifest["kind"] == "Job"],
        config_maps=[manifest for manifest in there if manifest["kind"] == "ConfigMap"],
        services=[manifest for manifest in there if manifest["kind"] == "Service"],
    )


def edit(observed: ObservedFineTune, spec: Mapping[str, Any]) -> ObservedFineTune:
    """The same after a user's edit."""
    document = dict(observed.document)
    metadata = document["metadata"]
    document["metadata"] = {**metadata, "generation": metadata["generation"] + 1}
    document["spec"] = merge(document["spec"], spec)
    return replace(observed, document=document)


def started(spec: Mapping[str, Any] | None = None, **metadata: Any) -> ObservedFineTune:
    """The run has its Job, and no pod yet."""
    observed = ObservedFineTune(document=fine_tune(spec, **metadata))
    return carry_out(observed, plan(observed))


def stored(manifest: Manifest) -> dict[str, Any]:
    name = manifest["metadata"]["name"]
    return {
        **manifest,
        "metadata": {**manifest["metadata"], "uid": f"uid-of-{name}", "creationTimestamp": to_rfc3339(NOW)},
    }


def name_of(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])


def pod(observed: Observed, *, number: int = 0, job: int = 0, **parts: Any) -> dict[str, Any]:
    """A pod of one of the observed Jobs; ``parts`` are merged into its status."""
    owner = observed.jobs[job]
    name = name_of(owner)
    labels = {**owner["spec"]["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": name}
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-{number}",
            "namespace": "team",
            "labels": labels,
            "creationTimestamp": to_rfc3339(NOW + timedelta(minutes=number)),
        },
        "spec": {"nodeName": "node-1"},
        "status": {"phase": "Pending", **parts},
    }


def running(observed: Observed, number: int = 0) -> dict[str, Any]:
    since = to_rfc3339(NOW + timedelta(minutes=number))
    return pod(
        observed,
        number=number,
        phase="Running",
        containerStatuses=[{"name": "runner", "state": {"running": {"startedAt": since}}}],
    )


def ended(
    observed: Observed, code: int, outcome: Outcome | None = None, *, number: int = 0, reason: str = "Error"
) -> dict[str, Any]:
    start = NOW + timedelta(minutes=number)
    state = {
        "exitCode": code,
        "reason": reason,
        "startedAt": to_rfc3339(start),
        "finishedAt": to_rfc3339(start + timedelta(seconds=30)),
        "message": "" if outcome is None else outcome.to_termination_message(),
    }
    return pod(
        observed,
        number=number,
        phase="Succeeded" if code == 0 else "Failed",
        containerStatuses=[{"name": "runner", "state": {"terminated": state}}],
    )


def with_pods(observed: ObservedFineTune, *pods: dict[str, Any]) -> ObservedFineTune:
    return replace(observed, pods=list(pods))


def with_job_condition(observed: ObservedFineTune, type_: str, reason: str = "", message: str = "") -> ObservedFineTune:
    condition = {"type": type_, "status": "True", "reason": reason, "message": message}
    status = {"conditions": [condition], "completionTime": to_rfc3339(NOW)}
    return replace(observed, jobs=[{**observed.jobs[0], "status": status}, *observed.jobs[1:]])


def reporting(observed: ObservedFineTune, progress: Progress) -> ObservedFineTune:
    """The newest pod reports."""
    name = name_of(observed.pods[-1])
    return replace(observed, progress={name: ProgressReport(name, progress, NOW)})


SUCCEEDED = Outcome(
    reason="Succeeded",
    last_step=40,
    metrics={"eval.loss": 0.5, "train.loss": 0.4},
    artifact_uri="s3://models/bot",
    artifact_digest="sha256:" + "a" * 64,
    artifact_size_bytes=123,
)


def finished(spec: Mapping[str, Any] | None = None) -> ObservedFineTune:
    """The run has succeeded, and the status says so."""
    observed = started(spec)
    observed = with_job_condition(with_pods(observed, ended(observed, 0, SUCCEEDED)), "Complete")
    return carry_out(observed, plan(observed))


def failed(code: int, outcome: Outcome | None, spec: Mapping[str, Any] | None = None) -> ObservedFineTune:
    """The run was given up at once, and the status says so."""
    observed = started(spec)
    observed = with_pods(observed, ended(observed, code, outcome))
    observed = with_job_condition(observed, "Failed", "PodFailurePolicy", "a rule applied")
    return carry_out(observed, plan(observed))


def condition(status: Mapping[str, Any] | None, type_: str) -> tuple[str, str, str]:
    """Status, reason and message."""
    assert status is not None
    (found,) = [one for one in status["conditions"] if one["type"] == type_]
    return found["status"], found["reason"], found["message"]


def warnings(plan: Plan) -> Sequence[str]:
    return [note.reason for note in plan.events if note.type == "Warning"]
