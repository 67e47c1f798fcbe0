"""A fine-tune's objects: Kubernetes knows every field of them, and they hold what the spec asks for."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import V1ConfigMap, V1Job, V1Service
from llm_api.issues import load
from llm_api.report import ExitCode
from llm_api.run import TrainRun
from llm_operator.observed import ObservedFineTune
from llm_operator.settings import Settings

from tests.support.fine_tunes import SETTINGS, fine_tune, name_of, of_kind, plan
from tests.support.repository import ROOT

MODELS = {"Job": V1Job, "ConfigMap": V1ConfigMap, "Service": V1Service}
EXAMPLES = [
    pytest.param(document, id=f"{path.stem}-{document['metadata']['name']}")
    for path in sorted((ROOT / "examples").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if document["kind"] == "LLMFineTune"
]
S3 = {"s3": {"secretRef": {"name": "store"}, "endpointUrl": "https://s3.example.com", "region": "eu-1"}}


SHARED = {"trainer": {"effective_batch_size": 16, "batch_size": "auto"}}
"""A step whose rows several devices can share."""


def build(spec: dict[str, Any] | None = None, kind: str = "Job", settings: Settings = SETTINGS) -> dict[str, Any]:
    planned = plan(ObservedFineTune(document=fine_tune(spec)), settings=settings)
    assert planned.apply, planned.status
    return of_kind(planned, kind)


def build_pod(spec: dict[str, Any] | None = None) -> dict[str, Any]:
    return dict(build(spec)["spec"]["template"]["spec"])


def runner_of(pod: dict[str, Any]) -> dict[str, Any]:
    (runner,) = [container for container in pod["containers"] if container["name"] == "runner"]
    return dict(runner)


def mounts_of(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Path -> the volume that is mounted there, with what the mount says."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    return {mount["mountPath"]: {**volumes[mount["name"]], **mount} for mount in runner_of(pod)["volumeMounts"]}


def run_file(spec: dict[str, Any] | None = None) -> TrainRun:
    return load(TrainRun, json.loads(build(spec, "ConfigMap")["data"]["run.json"]))


def run_name(spec: dict[str, Any] | None = None, settings: Settings = SETTINGS) -> str:
    return name_of(build(spec, settings=settings))


@pytest.mark.parametrize("document", EXAMPLES)
def test_every_example_becomes_objects_that_kubernetes_knows_field_for_field(document: dict[str, Any]) -> None:
    metadata = {"namespace": "team", "uid": "uid-1", **document["metadata"]}
    planned = plan(ObservedFineTune(document={**document, "metadata": metadata}))
    assert {manifest["kind"] for manifest in planned.apply} >= {"ConfigMap", "Job"}
    for manifest in planned.apply:
        MODELS[manifest["kind"]].model_validate(manifest, by_alias=True, by_name=False)


@pytest.mark.parametrize("document", EXAMPLES)
def test_the_runner_reads_the_config_back_as_the_user_wrote_it(document: dict[str, Any]) -> None:
    metadata = {"namespace": "team", "uid": "uid-1", **document["metadata"]}
    planned = plan(ObservedFineTune(document={**document, "metadata": metadata}))
    run = load(TrainRun, json.loads(of_kind(planned, "ConfigMap")["data"]["run.json"]))
    assert run.config.base_model == document["spec"]["config"]["base_model"]
    assert run.config.model_fields_set == set(document["spec"]["config"])


def test_the_run_file_is_immutable_and_mounted_where_the_command_reads_it() -> None:
    assert build(kind="ConfigMap")["immutable"] is True
    pod = build_pod()
    assert runner_of(pod)["command"] == ["llm-runner"]
    assert runner_of(pod)["args"][:2] == ["train", "/etc/llm-operator/run.json"]
    assert mounts_of(pod)["/etc/llm-operator"]["configMap"]["name"] == run_name()


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"trainer": {"type": "finetune", "epochs": 3}}},
        {"config": {"base_model": "acme/large"}},
        {"dataset": {"train": {"uri": "s3://datasets/other.jsonl"}}},
        {"dataset": {"validation": {"uri": "s3://datasets/held-out.jsonl"}}},
        {"output": {"uri": "s3://models/other"}},
        {"output": {"hub": {"repoId": "acme/bot"}}},
        {"gate": {"metric": "loss", "max": 1.0}},
        {"model": {"volume": {"claimName": "models"}}},
    ],
)
def test_what_changes_the_result_makes_another_result(change: dict[str, Any]) -> None:
    assert result_of(change) != result_of({})


@pytest.mark.parametrize(
    "change",
    [
        {"credentials": S3},
        {"model": {"cacheVolume": {"claimName": "cache"}}},
        {"compute": {"resources": {"limits": {"memory": "9Gi"}}}},
        {"run": {"checkpoint": {"everySteps": 5}}},
    ],
)
def test_what_only_changes_the_pods_makes_another_run_of_the_same_result(change: dict[str, Any]) -> None:
    assert run_name(change) != run_name()
    assert result_of(change) == result_of({})


@pytest.mark.parametrize(
    "change",
    [
        {"run": {"maxRetries": 7, "deadlineSeconds": 60, "ttlSecondsAfterFinished": 1}},
        {"output": {"deletionPolicy": "Delete"}},
        {"config": {"ludwig_version": "0.10"}},
    ],
)
def test_what_changes_neither_is_the_same_run(change: dict[str, Any]) -> None:
    assert run_name(change) == run_name()


def test_the_operators_own_settings_make_no_other_run() -> None:
    others = Settings(runner_image="other:2", progress_url="http://elsewhere", grace_period_seconds=1)
    assert run_name(settings=others) == run_name()


def result_of(spec: dict[str, Any]) -> str:
    return str(build(spec)["metadata"]["labels"]["llmoperator.dev/result"])


def test_the_exit_codes_mean_to_the_job_what_they_mean_to_the_runner() -> None:
    rules = build()["spec"]["podFailurePolicy"]["rules"]
    by_action = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule}
    assert by_action == {"FailJob": [10, 11, 12, 13, 14], "Ignore": [ExitCode.PEER_LOST, 143]}
    final = {code for code in ExitCode if code.is_final and code != ExitCode.DONE}
    assert {ExitCode(code) for code in by_action["FailJob"]} == final
    assert [rule["onPodConditions"][0]["type"] for rule in rules if "onPodConditions" in rule] == ["DisruptionTarget"]


def test_retries_and_deadline_are_the_jobs() -> None:
    spec = build({"run": {"maxRetries": 5, "deadlineSeconds": 900}})["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (5, 900)
    assert "activeDeadlineSeconds" not in build()["spec"]


def test_a_retry_of_several_nodes_counts_once() -> None:
    """The others end because one did, and the first stores the result for all."""
    spec = build({"run": {"maxRetries": 2}, "compute": {"nodes": 4}, "config": SHARED})["spec"]
    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (2, 4, 4)
    assert spec["completionMode"] == "Indexed"
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert "successPolicy" not in build()["spec"]
    by_action = {rule["action"]: rule["onExitCodes"]["values"] for rule in spec["podFailurePolicy"]["rules"][:2]}
    assert ExitCode.PEER_LOST in by_action["Ignore"]


def test_several_nodes_meet_at_the_first_one_by_name() -> None:
    spec = {"compute": {"nodes": 2, "accelerators": {"count": 8}, "parallelism": "fsdp"}, "config": SHARED}
    name = run_name(spec)
    assert build_pod(spec)["subdomain"] == name
    together = run_file(spec).together
    assert (together.nodes, together.processes_per_node, together.parallelism) == (2, 8, "fsdp")
    assert together.rendezvous == f"{name}-0.{name}:29500"
    assert run_file().together.rendezvous is None


def test_the_resource_owns_what_is_made_for_it() -> None:
    owner = {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMFineTune",
        "name": "bot",
        "uid": "uid-1",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    for kind in ("ConfigMap", "Service", "Job"):
        assert build({"compute": {"nodes": 2}, "config": SHARED}, kind)["metadata"]["ownerReferences"] == [owner]


def test_keys_for_s3_come_from_the_secret_one_by_one() -> None:
    env = {entry["name"]: entry.get("valueFrom") for entry in runner_of(build_pod({"credentials": S3}))["env"]}
    assert env["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "store", "key": "AWS_ACCESS_KEY_ID"}}
    assert env["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "store", "key": "AWS_SECRET_ACCESS_KEY"}}
    assert (env["AWS_SESSION_TOKEN"] or {})["secretKeyRef"]["optional"] is True
    assert run_file({"credentials": S3}).s3.endpoint_url == "https://s3.example.com"


def test_a_hub_token_is_a_file_and_never_an_argument() -> None:
    spec = {"credentials": {"huggingFace": {"secretRef": {"name": "hf", "key": "read"}}}}
    mount = mounts_of(build_pod(spec))["/var/run/secrets/llmoperator.dev/hugging-face"]
    assert mount["secret"]["items"] == [{"key": "read", "path": "token"}]
    assert run_file(spec).hub_token_path == "/var/run/secrets/llmoperator.dev/hugging-face/token"
    assert run_file().hub_token_path is None


def test_progress_is_sent_with_a_token_for_that_alone() -> None:
    mount = mounts_of(build_pod())["/var/run/secrets/llmoperator.dev/progress"]
    (source,) = mount["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "llmoperator.dev/progress"
    run = run_file()
    assert run.progress_url == f"http://llm-operator.llm.svc:8081/team/{run_name()}"
    assert run.progress_token_path == "/var/run/secrets/llmoperator.dev/progress/token"


def test_without_a_progress_endpoint_there_is_no_token() -> None:
    silent = Settings(runner_image="runner")
    pod = build(settings=silent)["spec"]["template"]["spec"]
    assert not any("projected" in volume for volume in pod["volumes"])


def test_data_models_and_output_on_volumes_are_where_the_run_file_says() -> None:
    spec = {
        "config": {"base_model": "/models/small"},
        "dataset": {
            "train": {"uri": None, "volume": {"claimName": "data", "path": "a/train.csv"}},
            "validation": {"volume": {"claimName": "data", "path": "a/held-out.csv"}},
            "test": {"configMap": {"name": "tables", "key": "test.csv"}},
        },
        "model": {"volume": {"claimName": "models"}, "cacheVolume": {"claimName": "cache"}},
        "output": {"uri": None, "volume": {"claimName": "results", "path": "bot"}},
    }
    pod, run = build_pod(spec), run_file(spec)
    mounts = mounts_of(pod)
    assert run.dataset.train.uri == "/data/train/a/train.csv"
    assert run.dataset.validation is not None
    assert run.dataset.validation.uri == "/data/validation/a/held-out.csv"
    assert run.dataset.test is not None
    assert run.dataset.test.uri == "/data/test/test.csv"
    assert (run.model_root, run.model_cache_path, run.output_uri) == ("/models", "/cache", "/output/bot")
    assert run.checkpoint.uri == "/output/bot/checkpoints"
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    assert writable == {"/cache", "/output", "/work", "/tmp"}
    claims = [volume for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert len(claims) == 4, "a claim that is mounted twice is one volume"


@pytest.mark.parametrize(
    ("checkpoint", "uri"),
    [
        ({}, "s3://models/bot/checkpoints"),
        ({"uri": "s3://scratch/checkpoints/"}, "s3://scratch/checkpoints/team/bot"),
    ],
)
def test_checkpoints_outlive_the_pod_in_a_folder_of_their_own(checkpoint: dict[str, Any], uri: str) -> None:
    assert run_file({"run": {"checkpoint": checkpoint}}).checkpoint.uri == uri


def test_devices_are_limits_beside_the_users_own() -> None:
    compute = {"accelerators": {"count": 2}, "resources": {"requests": {"cpu": 4}, "limits": {"memory": "8Gi"}}}
    resources = runner_of(build_pod({"compute": compute}))["resources"]
    assert resources == {"requests": {"cpu": "4"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": "2"}}


def test_the_longest_name_leaves_room_for_the_names_of_pods() -> None:
    document = fine_tune()
    document["metadata"]["name"] = "n" * 48
    planned = plan(ObservedFineTune(document=document))
    assert len(f"{name_of(of_kind(planned, 'Job'))}-1023") <= 63


def test_examples_are_read_from_the_repository() -> None:
    assert Path(ROOT / "examples").is_dir()
    assert len(EXAMPLES) >= 3
