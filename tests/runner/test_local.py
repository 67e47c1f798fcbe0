import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_api.run import RunCheckpoints, RunGate, S3Settings, TrainRun
from llm_runner.errors import ConfigInvalid
from llm_runner.local.run import LocalOptions, LocalRun, load_local_run

CONFIG = {
    "base_model": "acme/tiny",
    "input_features": [{"name": "question", "type": "text"}],
    "output_features": [{"name": "answer", "type": "text"}],
    "adapter": {"type": "lora"},
    "trainer": {"type": "finetune", "epochs": 1},
}
S3_SPEC = {"dataset": {"train": {"uri": "s3://data/train.csv"}}, "output": {"uri": "s3://models/bot"}}


def fine_tune(spec: Mapping[str, Any], name: str = "bot") -> dict[str, Any]:
    return {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMFineTune",
        "metadata": {"name": name},
        "spec": {"config": CONFIG, **S3_SPEC, **spec},
    }


def config_map(name: str = "rows", **content: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, **content}


def from_config_map(key: str = "train.csv", name: str = "rows") -> dict[str, Any]:
    return {"dataset": {"train": {"configMap": {"name": name, "key": key}}}}


def from_volume(path: str, claim: str = "data") -> dict[str, Any]:
    return {"dataset": {"train": {"volume": {"claimName": claim, "path": path}}}}


def load_objects(folder: Path, *objects: Any, **options: Any) -> LocalRun:
    manifest = folder / "manifest.yaml"
    manifest.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    return load_local_run(manifest, LocalOptions(**options), folder / "work")


def load_run(folder: Path, spec: Mapping[str, Any], *others: Any, **options: Any) -> TrainRun:
    return load_objects(folder, fine_tune(spec), *others, **options).run


def issues_of(folder: Path, spec: Mapping[str, Any], *others: Any, **options: Any) -> dict[str, str]:
    """Path -> message."""
    with pytest.raises(ConfigInvalid) as caught:
        load_run(folder, spec, *others, **options)
    start = f"{folder / 'manifest.yaml'}: LLMFineTune/bot: "
    assert all(line.startswith(start) for line in str(caught.value).splitlines())
    parts = [line.removeprefix(start).partition(": ") for line in str(caught.value).splitlines()]
    return {path: message for path, _, message in parts}


def test_addresses_are_taken_as_they_are(tmp_path: Path) -> None:
    dataset = {
        "train": {"uri": "s3://data/train.csv"},
        "validation": {"uri": "hf://datasets/acme/rows/dev.csv"},
        "test": {"uri": "https://example.com/test.csv"},
        "format": "csv",
    }
    run = load_run(tmp_path, {"dataset": dataset})
    assert run.dataset.validation is not None
    assert run.dataset.test is not None
    locations = [run.dataset.train, run.dataset.validation, run.dataset.test]
    assert [(location.uri, location.format) for location in locations] == [
        ("s3://data/train.csv", "csv"),
        ("hf://datasets/acme/rows/dev.csv", "csv"),
        ("https://example.com/test.csv", "csv"),
    ]
    assert (run.name, run.namespace, run.output_uri) == ("bot", "default", "s3://models/bot")


def test_the_config_keeps_what_was_written_apart_from_what_was_not(tmp_path: Path) -> None:
    run = load_run(tmp_path, {})
    assert json.loads(run.config.model_dump_json(exclude_unset=True)) == CONFIG


def test_a_config_map_in_the_same_file_becomes_a_file_with_the_name_of_its_key(tmp_path: Path) -> None:
    text = "question,answer\nWie groß?,1 m\n"
    run = load_run(tmp_path, from_config_map(), config_map(data={"train.csv": text}))
    path = Path(run.dataset.train.uri)
    assert path.name == "train.csv"
    assert path.is_relative_to(tmp_path / "work")
    assert path.read_text(encoding="utf-8") == text


def test_binary_data_of_a_config_map_is_decoded(tmp_path: Path) -> None:
    encoded = base64.encodebytes(bytes(range(256))).decode()
    run = load_run(tmp_path, from_config_map("train.parquet"), config_map(binaryData={"train.parquet": encoded}))
    assert Path(run.dataset.train.uri).read_bytes() == bytes(range(256))


@pytest.mark.parametrize(
    ("content", "path", "message"),
    [
        ({"data": {"a": "x", "b": "y"}}, "key", "ConfigMap rows has no key train.csv; there is: a, b"),
        ({"data": {"train.csv": {"question": 1}}}, "key", "ConfigMap rows has no text at train.csv"),
        ({"binaryData": {"train.csv": "*"}}, "key", "ConfigMap rows has no base64 at train.csv"),
        ({"metadata": {"name": "others"}}, "name", "there is no ConfigMap rows in this file; there is: others"),
    ],
)
def test_a_config_map_that_can_not_be_used_says_what_there_is(
    tmp_path: Path, content: dict[str, Any], path: str, message: str
) -> None:
    issues = issues_of(tmp_path, from_config_map(), {**config_map(), **content})
    assert list(issues) == [f"spec.dataset.train.configMap.{path}"]
    assert issues[f"spec.dataset.train.configMap.{path}"].startswith(message)


def test_a_volume_is_the_folder_that_the_caller_names(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.csv").touch()
    run = load_run(tmp_path, from_volume("rows/train.csv"), volumes={"data": tmp_path})
    assert run.dataset.train.uri == str(tmp_path / "rows" / "train.csv")


def test_all_claims_without_a_folder_are_named_at_once_with_the_flag_to_add(tmp_path: Path) -> None:
    spec = {
        **from_volume("train.csv"),
        "output": {"volume": {"claimName": "artifacts"}},
        "model": {"volume": {"claimName": "models"}},
    }
    assert issues_of(tmp_path, spec) == {
        "spec.dataset.train.volume.claimName": "no folder stands for the claim data here; add --volume data=DIR",
        "spec.output.volume.claimName": "no folder stands for the claim artifacts here; add --volume artifacts=DIR",
        "spec.model.volume.claimName": "no folder stands for the claim models here; add --volume models=DIR",
    }


def test_a_missing_file_names_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "training.csv").touch()
    issues = issues_of(tmp_path, from_volume("train.csv"), volumes={"data": tmp_path})
    assert issues["spec.dataset.train.volume.path"] == (
        f"there is no file {tmp_path}/train.csv; in its folder there is: manifest.yaml, training.csv"
    )


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    issues = issues_of(tmp_path, from_volume("train.csv"), volumes={"data": tmp_path / "nowhere"})
    assert f"there is no folder {tmp_path}/nowhere either" in issues["spec.dataset.train.volume.path"]


def test_dots_do_not_lead_out_of_a_volume(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    issues = issues_of(tmp_path, from_volume("../manifest.yaml"), volumes={"data": tmp_path / "volume"})
    assert "inside the volume" in issues["spec.dataset.train.volume.path"]


def test_a_link_does_not_lead_out_of_a_volume(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "train.csv").symlink_to(tmp_path / "manifest.yaml")
    issues = issues_of(tmp_path, from_volume("train.csv"), volumes={"data": tmp_path / "volume"})
    assert "leads out of the volume's folder" in issues["spec.dataset.train.volume.path"]


def test_an_output_on_a_volume_need_not_be_there_yet(tmp_path: Path) -> None:
    spec = {"output": {"volume": {"claimName": "artifacts", "path": "bot/v1"}}}
    run = load_run(tmp_path, spec, volumes={"artifacts": tmp_path / "out"})
    assert run.output_uri == str(tmp_path / "out" / "bot" / "v1")


def test_a_folder_given_by_the_caller_wins_over_the_manifest(tmp_path: Path) -> None:
    spec = {"output": {"volume": {"claimName": "artifacts"}}}
    run = load_run(tmp_path, spec, output_path=tmp_path / "mine")
    assert run.output_uri == str(tmp_path / "mine")
    assert run.checkpoint.uri == str(tmp_path / "mine" / "checkpoints")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, RunCheckpoints(uri="s3://models/bot/checkpoints", every_steps=None, keep=2)),
        ({"everySteps": 5, "keep": 3}, RunCheckpoints(uri="s3://models/bot/checkpoints", every_steps=5, keep=3)),
        ({"uri": "s3://scratch/"}, RunCheckpoints(uri="s3://scratch/bot", every_steps=None, keep=2)),
    ],
)
def test_checkpoints_have_a_folder_of_their_own(
    tmp_path: Path, policy: dict[str, Any], expected: RunCheckpoints
) -> None:
    assert load_run(tmp_path, {"run": {"checkpoint": policy}}).checkpoint == expected


@pytest.mark.parametrize(("base_model", "expected"), [("tiny", "tiny"), ("/models/tiny", "tiny"), ("acme/b", "acme/b")])
def test_a_base_model_on_a_volume_is_looked_up_in_its_folder(tmp_path: Path, base_model: str, expected: str) -> None:
    spec = {"config": {**CONFIG, "base_model": base_model}, "model": {"volume": {"claimName": "models"}}}
    run = load_run(tmp_path, spec, volumes={"models": tmp_path})
    assert (run.config.base_model, run.model_root) == (expected, str(tmp_path))


def test_a_path_of_this_machine_stays_when_there_is_no_volume_of_models(tmp_path: Path) -> None:
    run = load_run(tmp_path, {"config": {**CONFIG, "base_model": "/models/tiny"}})
    assert (run.config.base_model, run.model_root) == ("/models/tiny", None)


def test_the_cache_of_the_hub_may_be_named_or_left_out(tmp_path: Path) -> None:
    spec = {"model": {"cacheVolume": {"claimName": "cache"}}}
    assert load_run(tmp_path, spec).model_cache_path is None
    assert load_run(tmp_path, spec, volumes={"cache": tmp_path}).model_cache_path == str(tmp_path)


def test_of_credentials_the_address_is_used_and_the_secrets_are_not(tmp_path: Path) -> None:
    s3 = {"secretRef": {"name": "keys"}, "endpointUrl": "https://objects.example.com", "region": "eu-west-1"}
    local = load_objects(tmp_path, fine_tune({"credentials": {"s3": s3}}))
    assert local.run.s3 == S3Settings(endpoint_url="https://objects.example.com", region="eu-west-1")
    assert local.notes[0] == "not used on this machine: spec.credentials.s3.secretRef"
    assert "AWS_ACCESS_KEY_ID" in local.notes[1]


def test_what_only_a_cluster_can_do_is_said_in_one_line(tmp_path: Path) -> None:
    spec = {
        "compute": {"resources": {"requests": {"cpu": "1"}}},
        "run": {"maxRetries": 1, "deadlineSeconds": 60, "checkpoint": {"keep": 1}},
    }
    assert load_objects(tmp_path, fine_tune(spec)).notes == [
        "not used on this machine: spec.compute.resources, spec.run.maxRetries, spec.run.deadlineSeconds"
    ]


def test_devices_are_used_as_far_as_they_are_there(tmp_path: Path) -> None:
    """How many of them that are is seen once it starts."""
    compute = {"nodes": 2, "accelerators": {"count": 4}, "parallelism": "fsdp"}
    local = load_objects(
        tmp_path,
        fine_tune({"compute": compute, "config": {**CONFIG, "trainer": {"type": "finetune", "batch_size": 8}}}),
    )
    assert local.notes == []
    together = local.run.together
    assert (together.processes, together.parallelism) == (8, "fsdp")


def test_a_plain_manifest_needs_no_notes(tmp_path: Path) -> None:
    assert load_objects(tmp_path, fine_tune({})).notes == []


def test_hub_and_gate_go_into_the_run(tmp_path: Path) -> None:
    hub = {"repoId": "acme/bot", "private": False}
    spec = {"output": {"uri": "s3://models/bot", "hub": hub}, "gate": {"metric": "loss", "max": 1.9}}
    run = load_run(tmp_path, spec)
    assert (run.hub_repo_id, run.hub_private) == ("acme/bot", False)
    assert run.gate == RunGate(metric="loss", min=None, max=1.9)


@pytest.mark.parametrize("suspend", [True, False])
def test_a_suspended_run_is_told_apart(tmp_path: Path, suspend: bool) -> None:
    local = load_objects(tmp_path, fine_tune({"run": {"suspend": suspend}}))
    assert local.suspended_by == ("run.suspend is true" if suspend else None)


def test_one_of_several_is_chosen_by_name(tmp_path: Path) -> None:
    objects = [fine_tune({}, "one"), fine_tune({}, "two")]
    assert load_objects(tmp_path, *objects, name="two").run.name == "two"


def test_mistakes_in_others_do_not_matter(tmp_path: Path) -> None:
    broken = fine_tune({"dataset": "none"}, "broken")
    assert load_objects(tmp_path, broken, fine_tune({}, "good"), name="good").run.name == "good"


def test_a_status_is_nobodys_mistake(tmp_path: Path) -> None:
    assert load_objects(tmp_path, {**fine_tune({}), "status": {"phase": 7}}).run.name == "bot"


@pytest.mark.parametrize(
    ("objects", "name", "message"),
    [
        (
            [fine_tune({}, "one"), fine_tune({}, "two")],
            None,
            "choose one with --name: LLMFineTune/one, LLMFineTune/two",
        ),
        (
            [fine_tune({}, "one"), fine_tune({}, "two")],
            "three",
            "LLMInference 'three'; there is: LLMFineTune/one, LLMFineTune/two",
        ),
        ([fine_tune({}), fine_tune({})], "bot", "holds LLMFineTune/bot 2 times; keep one"),
        ([config_map()], None, "holds no LLMFineTune or LLMInference, only ConfigMap"),
        ([CONFIG], None, "put it under spec.config of an LLMFineTune"),
        ([["a list"]], None, "not all of it are Kubernetes objects"),
        ([None], None, "nothing is in it"),
    ],
)
def test_a_file_without_the_one_that_is_meant_says_what_it_holds(
    tmp_path: Path, objects: list[Any], name: str | None, message: str
) -> None:
    with pytest.raises(ConfigInvalid, match=r"manifest\.yaml") as caught:
        load_objects(tmp_path, *objects, name=name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: [1,\nc: 2", "line 3, column "),
        (b"a: 1\na: 2", "the key 'a' stands twice"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (None, "can't be read: No such file"),
    ],
)
def test_a_file_that_is_no_yaml_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    manifest = tmp_path / "manifest.yaml"
    if content is not None:
        manifest.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=message):
        load_local_run(manifest, LocalOptions(), tmp_path / "work")


def test_an_inference_beside_a_fine_tune_must_be_chosen_or_not(tmp_path: Path) -> None:
    objects = [fine_tune({}), {"kind": "LLMInference", "metadata": {"name": "bot"}}]
    for name in (None, "bot"):
        with pytest.raises(ConfigInvalid, match="choose one with --name: LLMFineTune/bot, LLMInference/bot"):
            load_objects(tmp_path, *objects, name=name)
    for spelling in ("LLMFineTune/bot", "llmft/bot", "llmfinetunes/bot"):
        assert load_objects(tmp_path, *objects, name=spelling).run.kind == "TrainRun"


def test_all_mistakes_in_the_resource_are_found_at_once(tmp_path: Path) -> None:
    config = {**CONFIG, "adapter": {"type": "lora", "r": -1}, "trainer": {"type": "finetune", "learning_rat": 1}}
    issues = issues_of(tmp_path, {"config": config, "output": {"uri": "/a/path"}})
    assert set(issues) == {"spec.config.adapter.r", "spec.config.trainer.learning_rat", "spec.output.uri"}
