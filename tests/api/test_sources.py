"""Where data and models come from and go to: addresses, volumes, ConfigMaps, and secrets by reference."""

import pytest
from llm_api.issues import InvalidConfig, load
from llm_api.sources import Credentials, Dataset, Destination, Source

from tests.support.documents import build_manifest, issues_of_manifest, paths_of, read

TRAIN = "spec.dataset.train"


def finetune_issues(spec: str) -> list[str]:
    return paths_of(issues_of_manifest(build_manifest("LLMFineTune", spec)))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://data/train.jsonl",
        "s3://data.eu/a/b c.csv",
        "hf://datasets/acme/tickets/train.csv",
        "https://data.acme.org/a.csv?x=1",
    ],
)
def test_an_address_of_a_file_is_accepted(uri: str) -> None:
    assert finetune_issues(f"dataset: {{train: {{uri: '{uri}'}}}}") == []


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "train.csv",
        "/data/train.csv",
        "file:///data/train.csv",
        "s3://data",
        "s3://data/",
        "s3:///train.csv",
        "gs://data/train.csv",
        "http://data.acme.org/a.csv",
        "https://data.acme.org",
        "https://me:secret@data.acme.org/a.csv",
        "s3://data/" + "a" * 2048,
    ],
)
def test_what_is_no_address_of_a_file_or_shows_a_password_is_refused(uri: str) -> None:
    assert finetune_issues(f"dataset: {{train: {{uri: '{uri}'}}}}") == [f"{TRAIN}.uri"]


@pytest.mark.parametrize("uri", ["s3://models", "s3://models/", "s3://models/a/b"])
def test_results_go_to_a_folder_of_a_bucket(uri: str) -> None:
    assert finetune_issues(f"output: {{uri: '{uri}'}}") == []


@pytest.mark.parametrize("uri", ["", "s3://", "https://acme.org/a", "hf://acme/bot", "/models", "models"])
def test_results_go_nowhere_else(uri: str) -> None:
    assert finetune_issues(f"output: {{uri: '{uri}'}}") == ["spec.output.uri"]


@pytest.mark.parametrize(
    ("path", "is_inside"),
    [
        ("a/b.csv", True),
        ("a..b/..c", True),
        ("/a.csv", False),
        ("../a.csv", False),
        ("a/../../b", False),
        ("a/..", False),
    ],
)
def test_a_path_stays_inside_its_volume(path: str, is_inside: bool) -> None:
    issues = finetune_issues(f"dataset: {{train: {{volume: {{claimName: data, path: {path}}}}}}}")
    assert issues == ([] if is_inside else [f"{TRAIN}.volume.path"])


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        ("{configMap: {name: data, key: train.csv}}", []),
        ("{configMap: {name: data}}", [".configMap.key"]),
        ("{configMap: {name: Data, key: a/b}}", [".configMap.name", ".configMap.key"]),
        ("{volume: {path: a.csv}}", [".volume.claimName"]),
        ("{configmap: {name: data, key: a}, uri: s3://a/b}", [".configmap"]),
        ("{}", [""]),
        ("s3://a/b", [""]),
    ],
)
def test_a_table_has_exactly_one_place(source: str, paths: list[str]) -> None:
    assert finetune_issues(f"dataset: {{train: {source}}}") == [f"{TRAIN}{path}" for path in paths]


def test_a_dataset_needs_rows_to_train_on_and_may_have_others() -> None:
    assert finetune_issues("dataset: {test: {uri: s3://a/b}}") == ["spec.dataset.train"]
    dataset = load(Dataset, read("{train: {uri: s3://a/t}, test: {uri: s3://a/e}}"))
    assert [(name, source.uri) for name, source in dataset.sources()] == [("train", "s3://a/t"), ("test", "s3://a/e")]


@pytest.mark.parametrize("data_format", ["auto", "csv", "tsv", "jsonl", "json", "parquet"])
def test_a_format_of_the_design_is_accepted(data_format: str) -> None:
    assert finetune_issues(f"dataset: {{train: {{uri: s3://a/b}}, format: {data_format}}}") == []


@pytest.mark.parametrize("data_format", ["xlsx", "CSV", "null_", "5"])
def test_any_other_format_is_refused(data_format: str) -> None:
    assert finetune_issues(f"dataset: {{train: {{uri: s3://a/b}}, format: {data_format}}}") == ["spec.dataset.format"]


def test_null_is_unset_everywhere_around_the_config() -> None:
    source = load(Source, read("{uri: s3://a/b, configMap: null, volume: null}"))
    assert source == Source(uri="s3://a/b")
    spec = "credentials: null\ncompute: null\nrun: {suspend: null, checkpoint: null, maxRetries: null}\ngate: null"
    assert finetune_issues(spec) == []


def test_secrets_are_named_and_never_written_out() -> None:
    credentials = load(
        Credentials,
        read(
            "{huggingFace: {secretRef: {name: hf}}, s3: {secretRef: {name: s3}, endpointUrl: 'https://s3.acme.org', "
            "region: eu-west-1}}"
        ),
    )
    assert credentials.hugging_face is not None
    assert credentials.hugging_face.secret_ref.key == "token"
    with pytest.raises(InvalidConfig) as caught:
        load(
            Credentials,
            read("{huggingFace: {token: hf_abc}, s3: {accessKey: a, endpointUrl: 'https://u:p@s3.acme.org'}}"),
        )
    assert paths_of(list(caught.value.issues)) == [
        "huggingFace.secretRef",
        "huggingFace.token",
        "s3.endpointUrl",
        "s3.accessKey",
    ]


def test_a_destination_is_a_bucket_or_a_volume() -> None:
    assert load(Destination, {"volume": {"claimName": "models"}}).volume is not None
    with pytest.raises(InvalidConfig):
        load(Destination, {"uri": "s3://a/b", "volume": {"claimName": "models"}})
