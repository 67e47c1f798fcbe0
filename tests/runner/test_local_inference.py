"""An LLMInference of a manifest as the run that this machine does, and what is said where its model is not there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_api.run import PredictRun, S3Settings, ServeRun
from llm_runner.errors import ConfigInvalid
from llm_runner.local.options import LocalOptions
from llm_runner.local.run import LocalRun, load_local_run

from tests.support.s3 import run_s3_server, using_keys

FOLLOWS = {"fineTuneRef": {"name": "bot"}}
BATCH = {
    "dataset": {"volume": {"claimName": "data", "path": "rows.jsonl"}},
    "output": {"volume": {"claimName": "artifacts", "path": "answers/out.parquet"}},
}


def inference(spec: Mapping[str, Any], name: str = "answers") -> dict[str, Any]:
    return {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMInference",
        "metadata": {"name": name},
        "spec": {"model": FOLLOWS, **spec},
    }


def fine_tune(**spec: Any) -> dict[str, Any]:
    config = {
        "base_model": "/models/tiny",
        "input_features": [{"name": "question", "type": "text"}],
        "output_features": [{"name": "answer", "type": "text"}],
        "trainer": {"type": "finetune"},
    }
    return {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMFineTune",
        "metadata": {"name": "bot"},
        "spec": {
            "config": config,
            "dataset": {"train": {"uri": "s3://data/train.csv"}},
            "model": {"volume": {"claimName": "models"}},
            "output": {"volume": {"claimName": "artifacts", "path": "bot"}},
            **spec,
        },
    }


@pytest.fixture
def volumes(tmp_path: Path) -> dict[str, Path]:
    """With a finished artifact of ``bot`` and a table."""
    for name in ("models", "artifacts/bot", "data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "artifacts" / "bot" / "SHA256SUMS").touch()
    (tmp_path / "data" / "rows.jsonl").touch()
    return {name: tmp_path / name for name in ("models", "artifacts", "data")}


def load_objects(folder: Path, *objects: Any, beside: Any = None, **options: Any) -> LocalRun:
    """``beside`` stands in a second file."""
    files = {"manifest.yaml": objects, **({} if beside is None else {"beside.yaml": beside})}
    for name, documents in files.items():
        (folder / name).write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    further = [folder / "beside.yaml"] if beside is not None else []
    choices = LocalOptions(beside=further, **options)
    return load_local_run(folder / "manifest.yaml", choices, folder / "work")


def errors_of(folder: Path, *objects: Any, **options: Any) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        load_objects(folder, *objects, **options)
    start = f"{folder / 'manifest.yaml'}: LLMInference/answers: "
    return [line.removeprefix(start) for line in str(caught.value).splitlines()]


def test_a_reference_leads_to_what_the_fine_tune_has_stored_and_to_its_base(
    tmp_path: Path, volumes: dict[str, Path]
) -> None:
    run = load_objects(tmp_path, inference({"serve": {}}), beside=[fine_tune()], volumes=volumes).run
    assert isinstance(run, ServeRun)
    assert run.model.artifact_uri == str(volumes["artifacts"] / "bot")
    assert (run.model.base_model, run.model_root) == ("tiny", str(volumes["models"]))
    assert (run.name, run.host, run.port, run.api_key_path) == ("answers", "127.0.0.1", 8000, None)


def test_an_artifact_without_a_digest_is_followed(tmp_path: Path, volumes: dict[str, Path]) -> None:
    run = load_objects(tmp_path, inference({"serve": {}}), beside=[fine_tune()], volumes=volumes).run
    assert run.model.artifact_digest is None


def test_what_is_run_is_looked_for_in_the_first_file_only(tmp_path: Path, volumes: dict[str, Path]) -> None:
    others = [fine_tune(), inference({"serve": {}}, "other")]
    assert load_objects(tmp_path, inference({"serve": {}}), beside=others, volumes=volumes).run.name == "answers"


def test_a_fine_tune_in_the_same_file_is_found_as_well(tmp_path: Path, volumes: dict[str, Path]) -> None:
    objects = [fine_tune(), inference({"serve": {}})]
    run = load_objects(tmp_path, *objects, volumes=volumes, name="LLMInference/answers").run
    assert run.model.artifact_uri == str(volumes["artifacts"] / "bot")


def test_where_it_is_served_and_how_much_at_once_is_the_callers_and_the_manifests(
    tmp_path: Path, volumes: dict[str, Path]
) -> None:
    spec = {"serve": {"maxConcurrency": 3}}
    run = load_objects(tmp_path, inference(spec), beside=[fine_tune()], volumes=volumes, host="0.0.0.0", port=8080).run
    assert isinstance(run, ServeRun)
    assert (run.host, run.port, run.max_concurrency) == ("0.0.0.0", 8080, 3)


def test_a_batch_has_its_table_its_file_and_its_shards(tmp_path: Path, volumes: dict[str, Path]) -> None:
    run = load_objects(
        tmp_path, inference({"batch": {**BATCH, "shards": 4}}), beside=[fine_tune()], volumes=volumes
    ).run
    assert isinstance(run, PredictRun)
    assert run.dataset.uri == str(volumes["data"] / "rows.jsonl")
    assert (run.output_uri, run.shards) == (str(volumes["artifacts"] / "answers" / "out.parquet"), 4)


def test_a_batch_can_be_stored_elsewhere_under_its_own_name(tmp_path: Path, volumes: dict[str, Path]) -> None:
    options = {"volumes": volumes, "output_path": tmp_path / "mine"}
    run = load_objects(tmp_path, inference({"batch": BATCH}), beside=[fine_tune()], **options).run
    assert isinstance(run, PredictRun)
    assert run.output_uri == str(tmp_path / "mine" / "out.parquet")


def test_a_table_in_a_config_map_of_either_file_becomes_a_file(tmp_path: Path, volumes: dict[str, Path]) -> None:
    rows = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "rows"}, "data": {"new.csv": "question\na\n"}}
    batch = {**BATCH, "dataset": {"configMap": {"name": "rows", "key": "new.csv"}}}
    run = load_objects(tmp_path, inference({"batch": batch}), beside=[fine_tune(), rows], volumes=volumes).run
    assert isinstance(run, PredictRun)
    assert Path(run.dataset.uri).read_text() == "question\na\n"


def test_without_a_fine_tune_the_base_or_an_address_answers(tmp_path: Path) -> None:
    s3 = {"endpointUrl": "https://objects.example.com", "region": "eu-west-1"}
    parts: dict[str, Any] = {"serve": {}, "credentials": {"s3": s3}}
    run = load_objects(tmp_path, inference({**parts, "model": {"uri": "s3://models/bot"}})).run
    assert (run.model.artifact_uri, run.model_root) == ("s3://models/bot", None)
    assert run.s3 == S3Settings(endpoint_url="https://objects.example.com", region="eu-west-1")
    model = {"volume": {"claimName": "models"}}
    spec = {"serve": {}, "model": model, "config": {"base_model": "/models/tiny"}}
    run = load_objects(tmp_path, inference(spec), volumes={"models": tmp_path}).run
    assert isinstance(run, ServeRun)
    assert (run.model.artifact_uri, run.config.base_model, run.model_root) == (None, "tiny", str(tmp_path))


def test_a_fine_tune_that_is_in_no_file_is_asked_for_with_what_there_is(tmp_path: Path) -> None:
    other = {**fine_tune(), "metadata": {"name": "other"}}
    assert errors_of(tmp_path, inference({"serve": {}}), beside=[other]) == [
        "spec.model.fineTuneRef.name: no LLMFineTune bot is in the files given; there is: other. "
        "Add its file with another -f, or name the folder of a tuned model with --model-dir"
    ]


@pytest.mark.parametrize(
    ("left", "lack"),
    [
        (None, "there is no folder {folder}"),
        ("checkpoints", "{folder} holds no finished artifact, as it has no SHA256SUMS"),
    ],
)
def test_a_fine_tune_that_has_not_finished_is_said_with_how_to_tune_it(
    tmp_path: Path, left: str | None, lack: str
) -> None:
    folder = tmp_path / "bot"
    if left is not None:
        (folder / left).mkdir(parents=True)
    volumes = {"artifacts": tmp_path, "models": tmp_path}
    assert errors_of(tmp_path, inference({"serve": {}}), beside=[fine_tune()], volumes=volumes) == [
        f"spec.model.fineTuneRef.name: the LLMFineTune bot is not tuned yet: {lack.format(folder=folder)}; tune it "
        "first, by llm-runner run -f FILE --name LLMFineTune/bot with the same --volume options, "
        "or name the folder of a tuned model with --model-dir"
    ]


def test_volumes_that_no_folder_stands_for_are_all_named_at_once(tmp_path: Path) -> None:
    errors = errors_of(tmp_path, inference({"batch": BATCH}), beside=[fine_tune()])
    assert [error.partition(": no folder stands")[0] for error in errors] == [
        "spec.model.fineTuneRef: LLMFineTune/bot: spec.output.volume.claimName",
        "spec.model.volume.claimName",
        "spec.batch.dataset.volume.claimName",
    ]


def test_mistakes_in_the_fine_tune_are_found_where_they_are(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, inference({"serve": {}}), beside=[fine_tune(output={"uri": "ftp://models"})])
    assert error.startswith("spec.model.fineTuneRef: LLMFineTune/bot: spec.output.uri: ")


def test_a_folder_of_the_callers_answers_instead(tmp_path: Path) -> None:
    run = load_objects(tmp_path, inference({"serve": {}}), model_path=tmp_path).run
    assert run.model.artifact_uri == str(tmp_path)
    (error,) = errors_of(tmp_path, inference({"serve": {}}), model_path=tmp_path / "none")
    assert error == f"spec.model: --model-dir: there is no folder {tmp_path / 'none'}"


def test_a_key_that_requests_must_carry_is_never_left_out(tmp_path: Path) -> None:
    spec = {"serve": {"apiKey": {"secretRef": {"name": "key"}}}}
    (error,) = errors_of(tmp_path, inference(spec), model_path=tmp_path)
    assert error.startswith("spec.serve.apiKey: there are no Secrets on this machine; name a file with the key")
    run = load_objects(tmp_path, inference(spec), model_path=tmp_path, api_key_path=tmp_path / "key").run
    assert isinstance(run, ServeRun)
    assert run.api_key_path == str(tmp_path / "key")


def test_what_has_no_replicas_is_not_served_here_either(tmp_path: Path) -> None:
    local = load_objects(tmp_path, inference({"serve": {"replicas": 0}}), model_path=tmp_path)
    assert local.suspended_by == "serve.replicas is 0"


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("LLMFineTune/bot", {"port": 9, "model_path": Path("x")}, "--port, --model-dir: without effect on a fine-tune"),
        ("LLMInference/answers", {"output_path": Path("x")}, "--output-dir: without effect on a server"),
        (
            "LLMInference/batch",
            {"host": "::", "api_key_path": Path("x")},
            "--host, --api-key-file: without effect",
        ),
    ],
)
def test_what_would_change_nothing_is_refused(
    tmp_path: Path, volumes: dict[str, Path], name: str, options: dict[str, Any], error: str
) -> None:
    objects = [fine_tune(), inference({"serve": {}}), inference({"batch": BATCH}, name="batch")]
    with pytest.raises(ConfigInvalid, match=f"^{error}"):
        load_objects(tmp_path, *objects, volumes=volumes, name=name, **options)


def test_what_only_a_cluster_can_do_is_said(tmp_path: Path) -> None:
    spec = {"serve": {"replicas": 2, "engine": "vllm"}, "compute": {"resources": {"limits": {"cpu": "1"}}}}
    assert load_objects(tmp_path, inference(spec), model_path=tmp_path).notes == [
        "not used on this machine: spec.compute.resources, spec.serve.replicas",
        "vLLM serves in a cluster; here it is llm-runner's own server, which takes the same requests",
    ]


def test_a_fine_tune_in_an_object_store_is_there_once_its_sums_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_s3_server(tmp_path / "s3") as server, using_keys(server, monkeypatch):
        bucket = server.make_bucket("models")
        credentials = {"s3": {"endpointUrl": server.endpoint_url, "region": "us-east-1"}}
        wanted = inference({"serve": {}, "credentials": credentials})
        given = {"beside": [fine_tune(output={"uri": "s3://models/bot"})], "volumes": {"models": tmp_path}}
        (error,) = errors_of(tmp_path, wanted, **given)
        assert "is not tuned yet: s3://models/bot holds no finished artifact, as no SHA256SUMS is in it" in error
        (bucket / "bot").mkdir()
        (bucket / "bot" / "SHA256SUMS").touch()
        assert load_objects(tmp_path, wanted, **given).run.model.artifact_uri == "s3://models/bot"
