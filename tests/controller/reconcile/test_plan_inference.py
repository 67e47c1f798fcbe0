"""One inference through its life: waits for its model, serves it, follows the next one, or answers a dataset once."""

import json
from dataclasses import replace
from typing import Any

import pytest
from llm_api.inference import InferenceStatus
from llm_api.issues import load
from llm_api.vllm import VLLM_VERSION
from llm_operator.build.deployment import VLLM_CONFIG
from llm_operator.reconcile.plan import Plan

from tests.support.fine_tunes import condition, fine_tune, name_of, of_kind
from tests.support.inferences import (
    ARTIFACT,
    PREDICTS,
    SERVES,
    carry_out,
    edit,
    observe,
    plan,
    started,
    tuned,
    with_servers,
)
from tests.support.vllm import check_options, read_options, vllm_version_of

BASE = {"config": {"base_model": "acme/small"}, "serve": {}}
NEXT_ARTIFACT = {**ARTIFACT, "digest": "sha256:" + "b" * 64}


def kinds(plan: Plan) -> list[str]:
    return [manifest["kind"] for manifest in plan.apply]


def run_file(plan: Plan) -> dict[str, Any]:
    text = of_kind(plan, "ConfigMap")["data"]["run.json"]
    return dict(json.loads(text))


def test_an_endpoint_gets_its_run_file_service_and_servers() -> None:
    planned = plan(observe(SERVES))
    assert kinds(planned) == ["ConfigMap", "Service", "Deployment"]
    assert run_file(planned)["model"] == {
        "artifactUri": "s3://models/bot",
        "artifactDigest": ARTIFACT["digest"],
        "baseModel": "acme/small",
    }
    assert planned.status is not None
    assert planned.status["url"] == "http://bot.team.svc:8000"
    assert planned.status["phase"] == "Starting"
    load(InferenceStatus, planned.status)


@pytest.mark.parametrize("spec", [SERVES, PREDICTS])
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(spec: dict[str, Any]) -> None:
    settled = carry_out(started(spec), plan(started(spec)))
    again = plan(settled)
    assert (again.apply, again.delete, again.patch, again.status, again.events) == ((), (), (), None, ())


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "FineTuneNotFound"),
        (fine_tune(), "FineTuneNotFinished"),
        ({**fine_tune(), "status": {"phase": "Training"}}, "FineTuneNotFinished"),
        (
            {
                **fine_tune(),
                "status": {
                    "phase": "Failed",
                    "conditions": [
                        {
                            "type": "Succeeded",
                            "status": "False",
                            "reason": "OutOfMemory",
                            "message": "too big",
                            "lastTransitionTime": "2026-03-01T00:00:00Z",
                        }
                    ],
                },
            },
            "FineTuneFailed",
        ),
    ],
)
def test_a_fine_tune_without_an_artifact_is_waited_for(found: dict[str, Any] | None, reason: str) -> None:
    planned = plan(observe(SERVES, fine_tune=found))
    assert planned.apply == ()
    assert planned.status is not None
    assert planned.status["phase"] == "WaitingForModel"
    assert condition(planned.status, "ModelReady")[:2] == ("False", reason)


def test_an_artifact_of_another_base_than_the_config_names_is_refused() -> None:
    planned = plan(observe({**SERVES, "config": {"base_model": "acme/large"}}))
    assert planned.apply == ()
    status, reason, message = condition(planned.status, "ModelReady")
    assert (status, reason) == ("False", "ConfigInvalid")
    assert "tuned on acme/small" in message
    assert "says acme/large" in message
    assert "Deployment" in kinds(plan(observe({**SERVES, "config": {"base_model": "acme/small"}})))


def test_an_artifact_is_served_while_the_next_run_fails() -> None:
    assert "Deployment" in kinds(plan(observe(SERVES, fine_tune=tuned(phase="Failed"))))


def test_a_base_model_is_served_as_it_is() -> None:
    planned = plan(observe(BASE, fine_tune=None))
    assert run_file(planned)["model"] == {}
    assert run_file(planned)["config"] == {"base_model": "acme/small"}
    assert condition(planned.status, "ModelReady")[0] == "True"


def test_a_new_artifact_rolls_the_servers_and_keeps_the_old_run_file_until_the_last_one_is_gone() -> None:
    observed = with_servers(started(SERVES), ready=1, updated=1, replicas=1)
    planned = plan(replace(observed, fine_tune=tuned(NEXT_ARTIFACT)))
    assert kinds(planned) == ["ConfigMap", "Deployment"]
    assert planned.status is not None
    assert condition(planned.status, "Ready")[0] == "False", "what answers is still the model of before"
    old, new = name_of(observed.config_maps[0]), name_of(of_kind(planned, "ConfigMap"))
    assert old != new
    rolling = with_servers(carry_out(observed, planned), ready=1, updated=0, replicas=2)
    rolling = replace(rolling, fine_tune=tuned(NEXT_ARTIFACT), config_maps=[*observed.config_maps, *planned.apply[:1]])
    assert plan(rolling).delete == ()
    done = with_servers(rolling, ready=1, updated=1, replicas=1)
    assert [deletion.key.name for deletion in plan(done).delete] == [old]


def test_a_fine_tune_that_was_deleted_leaves_its_servers_running() -> None:
    observed = with_servers(started(SERVES), ready=1, updated=1, replicas=1)
    planned = plan(replace(observed, fine_tune=None))
    assert (planned.apply, planned.delete) == ((), ())
    assert planned.status is not None
    assert planned.status["phase"] == "Serving"
    assert condition(planned.status, "ModelReady")[0] == "False"


@pytest.mark.parametrize(
    ("ready", "updated", "replicas", "phase", "available", "is_ready"),
    [
        (0, 1, 1, "Starting", "False", "False"),
        (2, 2, 2, "Serving", "True", "True"),
        (1, 2, 2, "Degraded", "True", "False"),
        (2, 1, 3, "Serving", "True", "False"),
    ],
)
def test_the_phase_follows_from_how_many_servers_are_ready(
    ready: int, updated: int, replicas: int, phase: str, available: str, is_ready: str
) -> None:
    observed = with_servers(
        started({**SERVES, "serve": {"replicas": 2}}), ready=ready, updated=updated, replicas=replicas
    )
    status = carry_out(observed, plan(observed)).document["status"]
    assert status["phase"] == phase
    assert condition(status, "Available")[0] == available
    assert condition(status, "Ready")[0] == is_ready
    assert status["ready"] == f"{ready}/2"


def test_scaling_to_nothing_is_no_failure() -> None:
    observed = started({**SERVES, "serve": {"replicas": 0}})
    assert of_kind(plan(observe({**SERVES, "serve": {"replicas": 0}})), "Deployment")["spec"]["replicas"] == 0
    status = carry_out(observed, plan(observed)).document["status"]
    assert status["phase"] == "Suspended"


def metric_of(planned: Plan) -> tuple[str, str]:
    """That its autoscaler follows, and its aim for each pod."""
    (metric,) = of_kind(planned, "HorizontalPodAutoscaler")["spec"]["metrics"]
    return metric["pods"]["metric"]["name"], metric["pods"]["target"]["averageValue"]


def test_replicas_are_left_to_the_autoscaler_where_there_is_one() -> None:
    scaling = {"minReplicas": 2, "maxReplicas": 5, "target": {"metric": "queueDepth", "value": 8}}
    planned = plan(observe({**SERVES, "serve": {"autoscaling": scaling}}))
    assert kinds(planned)[-1] == "HorizontalPodAutoscaler"
    assert metric_of(planned) == ("llm_serve_queue_depth", "8")
    on_vllm = plan(observe({**SERVES, "serve": {"autoscaling": scaling, "engine": "vllm"}}))
    assert metric_of(on_vllm) == ("vllm:num_requests_waiting", "8")
    assert "replicas" not in of_kind(planned, "Deployment")["spec"]
    observed = carry_out(observe({**SERVES, "serve": {"autoscaling": scaling}}), planned)
    plain = plan(edit(observed, {"serve": {"autoscaling": None}}))
    assert [deletion.key.kind for deletion in plain.delete] == ["HorizontalPodAutoscaler"]
    assert of_kind(plain, "Deployment")["spec"]["replicas"] == 1


def test_servers_that_cannot_be_made_are_explained() -> None:
    observed = started(SERVES)
    failure = {"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota: gpus, …'}
    observed = replace(observed, deployments=[{**observed.deployments[0], "status": {"conditions": [failure]}}])
    planned = plan(observed)
    assert condition(planned.status, "Available")[:2] == ("False", "QuotaExceeded")
    assert [note.reason for note in planned.events if note.type == "Warning"] == ["QuotaExceeded"]


ENDED_FOR_MEMORY = {
    "exitCode": 12,
    "reason": "Error",
    "message": '{"reason": "OutOfMemory", "message": "needs 20 GiB"}',
}
STATES_BETWEEN = [
    {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
    {"running": {"startedAt": "2026-07-01T12:00:00Z"}},
    {"terminated": {"exitCode": 137, "reason": "Error", "startedAt": "2026-07-01T12:00:00Z"}},
]


@pytest.mark.parametrize("state", STATES_BETWEEN)
def test_a_server_that_ends_again_and_again_is_explained_by_its_last_words(state: dict[str, Any]) -> None:
    observed = started(SERVES)
    template = observed.deployments[0]["spec"]["template"]["metadata"]
    container = {"name": "runner", "state": state, "lastState": {"terminated": ENDED_FOR_MEMORY}}
    pod = {
        "metadata": {"name": "bot-1", "labels": template["labels"]},
        "status": {"phase": "Running", "containerStatuses": [container]},
    }
    status, reason, message = condition(plan(replace(observed, pods=[pod])).status, "Available")
    assert (status, reason) == ("False", "OutOfMemory")
    assert "needs 20 GiB" in message


def test_what_ended_a_server_is_past_once_it_is_ready_again() -> None:
    observed = started(SERVES)
    template = observed.deployments[0]["spec"]["template"]["metadata"]
    container = {"name": "runner", "state": STATES_BETWEEN[1], "lastState": {"terminated": ENDED_FOR_MEMORY}}
    ready = {"type": "Ready", "status": "True"}
    pod = {
        "metadata": {"name": "bot-1", "labels": template["labels"]},
        "status": {"phase": "Running", "containerStatuses": [container], "conditions": [ready]},
    }
    assert condition(plan(replace(observed, pods=[pod])).status, "Available")[1] == "Starting"


def test_a_batch_is_one_job_with_an_index_for_each_shard() -> None:
    planned = plan(observe(PREDICTS))
    spec = of_kind(planned, "Job")["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (4, 4, "Indexed")
    assert run_file(planned)["shards"] == 4
    assert planned.status is not None
    assert planned.status["ready"] == "0/4"


def test_a_new_artifact_does_not_repeat_a_batch() -> None:
    observed = started(PREDICTS)
    planned = plan(replace(observed, fine_tune=tuned(NEXT_ARTIFACT)))
    assert (planned.apply, planned.delete) == ((), ())
    assert observed.document["status"]["artifact"]["digest"] == ARTIFACT["digest"]


def complete(observed: Any) -> Any:
    status = {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 4}
    return replace(observed, jobs=[{**observed.jobs[0], "status": status}])


def test_a_batch_that_is_complete_is_not_repeated_for_an_edit_of_its_compute() -> None:
    observed = edit(complete(started(PREDICTS)), {"compute": {"resources": {"limits": {"memory": "8Gi"}}}})
    planned = plan(observed)
    assert (planned.apply, planned.delete) == ((), ())
    assert planned.status is not None
    assert (planned.status["phase"], planned.status["ready"]) == ("Succeeded", "4/4")


def test_an_edited_batch_waits_for_the_one_before_to_end() -> None:
    observed = edit(started(PREDICTS), {"batch": {"shards": 2}})
    planned = plan(observed)
    assert [deletion.key.name for deletion in planned.delete] == [name_of(observed.jobs[0])]
    assert planned.apply == ()
    assert of_kind(plan(carry_out(observed, planned)), "Job")["spec"]["completions"] == 2


def test_an_endpoint_that_becomes_a_batch_takes_its_servers_down() -> None:
    observed = edit(started(SERVES), {"serve": None, "batch": PREDICTS["batch"]})
    planned = plan(observed)
    assert {deletion.key.kind for deletion in planned.delete} == {"Deployment", "Service", "ConfigMap"}
    assert "Job" in kinds(planned)


def test_an_invalid_spec_starts_nothing() -> None:
    planned = plan(observe({**SERVES, "batch": PREDICTS["batch"]}))
    assert planned.apply == ()
    assert condition(planned.status, "SpecValid")[:2] == ("False", "Invalid")
    assert planned.status is not None
    assert planned.status["phase"] == "Failed"


def test_a_model_on_a_volume_is_mounted_where_the_run_file_says() -> None:
    observed = observe(SERVES, fine_tune=tuned({**ARTIFACT, "uri": "volume://results/bot/v1"}))
    planned = plan(observed)
    assert run_file(planned)["model"]["artifactUri"] == "/artifact/bot/v1"
    pod = of_kind(planned, "Deployment")["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    claims = {volume["name"]: volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]}
    assert claims[mounts["/artifact"]["name"]] == "results"
    assert mounts["/artifact"]["readOnly"] is True


def test_vllm_serves_what_the_runner_fetched() -> None:
    key = {"secretRef": {"name": "api", "key": "key"}}
    spec = {
        **SERVES,
        "serve": {"engine": "vllm", "maxConcurrency": 32, "apiKey": key},
        "compute": {"accelerators": {"count": 2}},
    }
    pod = of_kind(plan(observe(spec)), "Deployment")["spec"]["template"]["spec"]
    (fetch,), (server,) = pod["initContainers"], pod["containers"]
    assert fetch["command"] == ["llm-runner"]
    assert server["command"] == ["vllm", "serve"]
    assert fetch["args"] == ["export", "/etc/llm-operator/run.json", "--work-dir", "/work",
                             "--termination-log", "/dev/termination-log"]  # fmt: skip
    options = read_options(server["args"])
    assert options == {
        "config": [VLLM_CONFIG], "host": ["0.0.0.0"], "port": ["8000"],
        "tensor-parallel-size": ["2"], "max-num-seqs": ["32"],
    }  # fmt: skip
    check_options(options)
    assert vllm_version_of(server["image"]) == VLLM_VERSION
    assert {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": "api", "key": "key"}}} in server["env"]
    assert {one["name"]: one.get("value") for one in server["env"]}["HF_HUB_OFFLINE"] == "1"
    assert "resources" not in fetch


@pytest.mark.parametrize("state", STATES_BETWEEN)
def test_a_model_that_vllm_can_not_serve_is_explained_by_what_fetched_it(state: dict[str, Any]) -> None:
    observed = started({**SERVES, "serve": {"engine": "vllm"}})
    template = observed.deployments[0]["spec"]["template"]["metadata"]
    words = '{"reason": "ConfigInvalid", "message": "vLLM can\'t serve this adapter: it trains biases"}'
    fetch = {
        "name": "fetch",
        "state": state,
        "lastState": {"terminated": {"exitCode": 10, "reason": "Error", "message": words}},
    }
    waiting = {"name": "runner", "state": {"waiting": {"reason": "PodInitializing"}}}
    pod = {
        "metadata": {"name": "bot-1", "labels": template["labels"]},
        "status": {"phase": "Pending", "initContainerStatuses": [fetch], "containerStatuses": [waiting]},
    }
    status, reason, message = condition(plan(replace(observed, pods=[pod])).status, "Available")
    assert (status, reason) == ("False", "ConfigInvalid")
    assert "it trains biases" in message


def test_a_fetch_that_succeeded_at_last_is_no_obstacle_any_more() -> None:
    observed = started({**SERVES, "serve": {"engine": "vllm"}})
    template = observed.deployments[0]["spec"]["template"]["metadata"]
    last = {"exitCode": 11, "reason": "Error", "message": '{"reason": "ModelUnreachable", "message": "try later"}'}
    fetch = {"name": "fetch", "state": {"terminated": {"exitCode": 0}}, "lastState": {"terminated": last}}
    runner = {"name": "runner", "state": STATES_BETWEEN[1]}
    pod = {
        "metadata": {"name": "bot-1", "labels": template["labels"]},
        "status": {"phase": "Running", "initContainerStatuses": [fetch], "containerStatuses": [runner]},
    }
    assert condition(plan(replace(observed, pods=[pod])).status, "Available")[1] == "Starting"
