"""Argo CD shows how a resource fares: its checks run in Lua 5.1, as there, over statuses that the operator makes.

The Applications are held to what the chart and the examples hold.
"""

import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
import yaml
from llm_api.conditions import Reason
from llm_api.finetune import FineTunePhase, FineTuneStatus, ProgressStatus, RunStatus
from llm_api.inference import InferencePhase, InferenceStatus
from llm_api.resource import Artifact
from llm_operator.build.names import FIELD_MANAGER, FINALIZER
from llm_operator.status.finding import Finding
from llm_operator.status.finetune import status_invalid, status_of_run
from llm_operator.status.run import RunFacts
from llm_operator.status.verdict import Standing, set_standings
from llm_operator.status.writing import to_manifest
from lupa import lua51  # type: ignore[import-untyped]

from tests.support.charts import CHART, operator_container, render
from tests.support.cluster.access import Access
from tests.support.repository import ROOT

FOLDER = ROOT / "examples" / "argocd"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GENERATION = 3
CHECKS: dict[str, str] = yaml.safe_load((FOLDER / "health.yaml").read_text())["data"]
UNSAFE = ("io", "os", "string", "math", "debug", "package", "require", "dofile", "loadfile")
"""What Argo CD doesn't give to checks, or not in all of its versions."""
FINE_TUNE_HEALTH = {
    "Pending": "Progressing",
    "Queued": "Progressing",
    "Preparing": "Progressing",
    "Training": "Progressing",
    "Evaluating": "Progressing",
    "Storing": "Progressing",
    "Succeeded": "Healthy",
    "Failed": "Degraded",
    "Suspended": "Suspended",
}
INFERENCE_HEALTH = {
    "Pending": "Progressing",
    "WaitingForModel": "Progressing",
    "Queued": "Progressing",
    "Starting": "Progressing",
    "Serving": "Progressing",  # until it is Ready as well
    "Degraded": "Degraded",
    "Running": "Progressing",
    "Succeeded": "Healthy",
    "Failed": "Degraded",
    "Suspended": "Suspended",
}


def judge(kind: str, status: dict[str, Any] | None, spec: dict[str, Any] | None = None) -> tuple[str, str]:
    """Health and message of a resource, as Argo CD would find them."""
    resource = {"kind": kind, "metadata": {"name": "bot", "generation": GENERATION}, "spec": spec or {}}
    if status is not None:
        resource["status"] = status
    runtime = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    for name in UNSAFE:
        runtime.globals()[name] = None
    runtime.globals()["obj"] = runtime.table_from(resource, recursive=True)
    found = runtime.execute(CHECKS[f"resource.customizations.health.llmoperator.dev_{kind}"])
    return found["status"], found["message"]


def fine_tune_status(phase: str, conditions: dict[str, Standing], **more: Any) -> dict[str, Any]:
    fields = {"phase": phase, "conditions": set_standings([], conditions, GENERATION, NOW), **more}
    return to_manifest(FineTuneStatus.model_validate({"observed_generation": GENERATION, **fields}))


def inference_status(phase: str, conditions: dict[str, Standing], **more: Any) -> dict[str, Any]:
    fields = {"phase": phase, "conditions": set_standings([], conditions, GENERATION, NOW), **more}
    return to_manifest(InferenceStatus.model_validate({"observed_generation": GENERATION, **fields}))


def run_status(**changes: Any) -> dict[str, Any]:
    """What the operator makes of a run that has only just begun, but for ``changes``."""
    nothing: dict[str, Any] = {
        "job": None,
        "pods": [],
        "attempts": [],
        "is_suspended": False,
        "is_queued": False,
        "queue_words": None,
        "holdup": None,
        "obstacle": None,
        "report": None,
        "known_phase": None,
    }
    facts = RunFacts(**{**nothing, **changes})
    run, artifact = RunStatus(name="bot-1", result_hash="1"), Artifact(uri="s3://models/bot")
    return to_manifest(status_of_run(FineTuneStatus(), run, facts, artifact, GENERATION, NOW))


def test_every_phase_of_a_fine_tune_has_its_health() -> None:
    assert set(get_args(FineTunePhase)) == set(FINE_TUNE_HEALTH)
    for phase, health in FINE_TUNE_HEALTH.items():
        assert judge("LLMFineTune", fine_tune_status(phase, {}))[0] == health, phase


def test_every_phase_of_an_inference_has_its_health() -> None:
    assert set(get_args(InferencePhase)) == set(INFERENCE_HEALTH)
    for phase, health in INFERENCE_HEALTH.items():
        assert judge("LLMInference", inference_status(phase, {}))[0] == health, phase


@pytest.mark.parametrize("kind", ["LLMFineTune", "LLMInference"])
def test_what_the_operator_has_not_seen_yet_is_progressing(kind: str) -> None:
    assert judge(kind, None) == ("Progressing", "Waiting for the operator")
    assert judge(kind, {"observedGeneration": GENERATION}) == ("Progressing", "Waiting for the operator")
    old = {"observedGeneration": GENERATION - 1, "phase": "Failed"}
    assert judge(kind, old) == ("Progressing", "Waiting for the operator to see the change")


def test_a_run_that_begins_says_what_it_waits_for() -> None:
    assert judge("LLMFineTune", run_status()) == ("Progressing", "Pending: its pod is being started")


def test_a_run_that_lacks_gpus_is_waited_for() -> None:
    lack = Finding(Reason.UNSCHEDULABLE, "no node has 8 nvidia.com/gpu")
    assert judge("LLMFineTune", run_status(obstacle=lack)) == ("Progressing", "Pending: no node has 8 nvidia.com/gpu")


@pytest.mark.parametrize(
    "reason", [Reason.IMAGE_PULL, Reason.SECRET_NOT_FOUND, Reason.CONFIG_MAP_NOT_FOUND, Reason.VOLUME_NOT_FOUND]
)
def test_a_run_that_lacks_what_its_owner_must_bring_is_degraded(reason: Reason) -> None:
    assert judge("LLMFineTune", run_status(obstacle=Finding(reason, "bring it"))) == ("Degraded", "bring it")


def test_a_suspended_run_is_suspended() -> None:
    assert judge("LLMFineTune", run_status(is_suspended=True)) == ("Suspended", "set run.suspend to false to go on")


def test_a_run_that_trains_says_how_far_it_is() -> None:
    training = {"Running": Standing("True", Reason.RUNNING)}
    status = fine_tune_status("Training", training, progress=ProgressStatus(step=41, of=100, percent="41%"))
    assert judge("LLMFineTune", status) == ("Progressing", "Training 41%")


def test_a_failed_run_says_why() -> None:
    failed = {"Succeeded": Standing("False", Reason.DIVERGED, "the loss became NaN at step 7")}
    assert judge("LLMFineTune", fine_tune_status("Failed", failed)) == ("Degraded", "the loss became NaN at step 7")


def test_a_run_that_succeeded_says_where_its_result_is() -> None:
    done = {"Succeeded": Standing("True", Reason.SUCCEEDED, "stored at s3://models/bot")}
    assert judge("LLMFineTune", fine_tune_status("Succeeded", done)) == ("Healthy", "stored at s3://models/bot")


def test_an_invalid_spec_is_degraded_though_an_earlier_run_succeeded() -> None:
    known = FineTuneStatus(phase="Succeeded", run=RunStatus(name="bot-1", result_hash="1"))
    status = to_manifest(status_invalid(known, ["spec.config.adapter: unknown"], GENERATION, NOW))
    assert judge("LLMFineTune", status) == ("Degraded", "spec.config.adapter: unknown")


def test_a_server_is_healthy_once_it_is_ready() -> None:
    ready = {"Ready": Standing("True", Reason.RUNNING, "1 of 1 servers take requests")}
    status = inference_status("Serving", ready, url="http://bot.ml.svc:8000")
    assert judge("LLMInference", status, {"serve": {}}) == ("Healthy", "http://bot.ml.svc:8000")


def test_a_server_that_rolls_to_a_new_model_is_progressing() -> None:
    rolling = {"Ready": Standing("False", Reason.STARTING, "servers load the model")}
    status = inference_status("Serving", rolling)
    assert judge("LLMInference", status, {"serve": {}}) == ("Progressing", "Serving: servers load the model")


def test_a_server_whose_secret_is_missing_is_degraded() -> None:
    missing = {"Ready": Standing("False", Reason.SECRET_NOT_FOUND, "there is no Secret api-key")}
    status = inference_status("Starting", missing)
    assert judge("LLMInference", status, {"serve": {}}) == ("Degraded", "there is no Secret api-key")


def test_an_inference_without_its_model_says_what_it_waits_for() -> None:
    waiting = {"ModelReady": Standing("False", Reason.WAITING, "waits for fine-tune bot")}
    assert judge("LLMInference", inference_status("WaitingForModel", waiting)) == (
        "Progressing",
        "waits for fine-tune bot",
    )


def test_a_batch_in_a_queue_is_progressing_and_not_suspended() -> None:
    queued = {"Complete": Standing("Unknown", Reason.QUEUED, "waits for its queue to admit it")}
    health, message = judge("LLMInference", inference_status("Queued", queued), {"batch": {}})
    assert (health, message) == ("Progressing", "Queued: waits for its queue to admit it")


def test_a_batch_that_is_done_is_healthy() -> None:
    done = {"Complete": Standing("True", Reason.SUCCEEDED, "all rows are answered")}
    assert judge("LLMInference", inference_status("Succeeded", done), {"batch": {}}) == (
        "Healthy",
        "all rows are answered",
    )


def application(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    assert found["kind"] == "Application"
    return found


def test_the_application_of_the_operator_names_the_chart_and_values_that_it_takes() -> None:
    source = application("operator.yaml")["spec"]["source"]
    assert ROOT / source["path"] == CHART
    images = {"registry.example.com/ml/llm-operator:0.1.0"}
    assert operator_container(render(source["helm"]["valuesObject"]))["image"] in images


def test_the_chart_renders_the_same_each_time_so_that_argo_cd_sees_no_drift() -> None:
    values = application("operator.yaml")["spec"]["source"]["helm"]["valuesObject"]
    assert render(values) == render(values)


def test_the_application_of_a_fine_tune_names_an_example() -> None:
    source = application("finetune.yaml")["spec"]["source"]
    assert (ROOT / source["path"] / source["directory"]["include"]).is_file()


def test_the_health_checks_are_of_kinds_that_there_are() -> None:
    crds = (yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml")))
    kinds = {f"{crd['spec']['group']}_{crd['spec']['names']['kind']}" for crd in crds}
    assert {name.removeprefix("resource.customizations.health.") for name in CHECKS} == kinds


def test_what_the_operator_writes_is_no_difference_to_what_stands_in_git(control_plane: Access) -> None:
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    control_plane.kubectl("wait", "--for=condition=Established", "crd/llmfinetunes.llmoperator.dev", "--timeout=30s")
    namespace = control_plane.make_namespace()
    (manifest,) = yaml.safe_load_all((ROOT / "examples" / "finetune-s3-hub.yaml").read_text())
    applied = {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}
    gitops = ["--server-side", "--field-manager=argocd-controller", "-f", "-"]
    control_plane.kubectl("apply", *gitops, stdin=json.dumps(applied))
    write_as_operator(control_plane, applied)
    difference = control_plane.run_kubectl("diff", *gitops, stdin=json.dumps(applied))
    assert (difference.returncode, difference.stdout) == (0, "")
    found = control_plane.get("llmft", applied["metadata"]["name"], namespace)
    assert (found["spec"], found["status"]["phase"]) == (applied["spec"], "Succeeded")


def write_as_operator(access: Access, applied: dict[str, Any]) -> None:
    """A status by server-side apply, a finalizer by a patch, both under the operator's name."""
    metadata = {key: applied["metadata"][key] for key in ("name", "namespace")}
    identity = {key: applied[key] for key in ("apiVersion", "kind")}
    done = fine_tune_status("Succeeded", {"Succeeded": Standing("True", Reason.SUCCEEDED)}, progress=ProgressStatus())
    manager = f"--field-manager={FIELD_MANAGER}"
    status = json.dumps({**identity, "metadata": metadata, "status": done})
    access.kubectl("apply", "--server-side", "--subresource=status", manager, "-f", "-", stdin=status)
    finalizer = json.dumps({"metadata": {"finalizers": [FINALIZER]}})
    target = ["llmft", metadata["name"], "--namespace", metadata["namespace"]]
    access.kubectl("patch", *target, "--type=merge", manager, "--patch", finalizer)
