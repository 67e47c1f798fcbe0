"""The CRDs: as generated, of the form that the API server asks for, bounded, and described for kubectl explain."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_api.crd import FOLDERS, KINDS, build_crd, build_files, find_differences, main, write_files

from tests.support.repository import ROOT

Schema = dict[str, Any]
UNTYPED = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
FORBIDDEN = {"$ref", "$defs", "oneOf", "anyOf", "allOf", "not", "title", "default", "const", "discriminator"}
MEANT_TO_BE_UNTYPED = {
    ".spec.config.adapter.target_modules",
    ".spec.config.adapter.feedforward_modules",
    ".spec.config.adapter.rank_pattern",
    ".spec.config.trainer.learning_rate",
    ".spec.config.generation.early_stopping",
    ".spec.config.generation.forced_eos_token_id",
    ".spec.config.generation.eos_token_id",
    ".spec.config.generation.sequence_bias",
    ".spec.compute.podTemplate.spec",
}
CRDS = {kind.name: build_crd(kind) for kind in KINDS}
both_kinds = pytest.mark.parametrize("kind", CRDS)


def version_of(kind: str) -> dict[str, Any]:
    versions: list[dict[str, Any]] = CRDS[kind]["spec"]["versions"]
    assert len(versions) == 1
    return versions[0]


def nodes_of(kind: str) -> list[tuple[str, Schema]]:
    return list(walk(version_of(kind)["schema"]["openAPIV3Schema"], ""))


def walk(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{path}.{name}")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from walk(schema["additionalProperties"], f"{path}.*")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")


def find_paths(kind: str, is_wrong: Any) -> list[str]:
    return [path for path, schema in nodes_of(kind) if is_wrong(path, schema)]


def test_the_files_are_what_the_models_say() -> None:
    assert find_differences(ROOT) == []


def test_a_changed_file_is_told_and_fails_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(tmp_path)
    changed = tmp_path / next(iter(build_files()))
    changed.write_text(changed.read_text().replace("LLMFineTune", "LLMFinetune"))
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert "+    kind: LLMFineTune" in capsys.readouterr().out
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--check", "--root", str(tmp_path)]) == 0


def test_a_missing_file_fails_the_check(tmp_path: Path) -> None:
    write_files(tmp_path)
    shutil.rmtree(tmp_path / FOLDERS[-1])
    assert main(["--check", "--root", str(tmp_path)]) == 1


def test_the_chart_has_the_same_files_as_the_folder() -> None:
    texts = [{path.name: path.read_text() for path in (ROOT / folder).glob("*.yaml")} for folder in FOLDERS]
    assert texts[0] == texts[1]
    assert sorted(texts[0]) == ["llmoperator.dev_llmfinetunes.yaml", "llmoperator.dev_llminferences.yaml"]


@both_kinds
def test_what_is_written_is_plain_yaml_that_reads_back_the_same(kind: str) -> None:
    file = next(one.file_name for one in KINDS if one.name == kind)
    text = (ROOT / FOLDERS[0] / file).read_text()
    assert yaml.safe_load(text) == CRDS[kind]
    assert "&id" not in text


@pytest.mark.parametrize(
    ("kind", "plural", "short_name"),
    [("LLMFineTune", "llmfinetunes", "llmft"), ("LLMInference", "llminferences", "llminf")],
)
def test_a_kind_goes_by_the_names_of_the_design(kind: str, plural: str, short_name: str) -> None:
    spec = CRDS[kind]["spec"]
    assert CRDS[kind]["metadata"]["name"] == f"{plural}.llmoperator.dev"
    assert (spec["group"], spec["scope"]) == ("llmoperator.dev", "Namespaced")
    assert spec["names"] == {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short_name],
        "categories": ["llm"],
    }
    assert [version_of(kind)[key] for key in ("name", "served", "storage")] == ["v1alpha1", True, True]


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("LLMFineTune", ["PHASE", "MODEL", "PROGRESS", "LOSS", "ETA", "AGE"]),
        ("LLMInference", ["PHASE", "MODEL", "READY", "URL", "AGE"]),
    ],
)
def test_kubectl_get_shows_the_columns_of_the_design(kind: str, columns: list[str]) -> None:
    shown = version_of(kind)["additionalPrinterColumns"]
    assert [column["name"].upper() for column in shown if column.get("priority", 0) == 0] == columns


@both_kinds
def test_every_column_shows_a_field_of_its_type(kind: str) -> None:
    types = {path: schema.get("type") for path, schema in nodes_of(kind)}
    types[".metadata.creationTimestamp"] = "date"
    shown = {column["jsonPath"]: column["type"] for column in version_of(kind)["additionalPrinterColumns"]}
    assert shown == {path: types.get(path) for path in shown}


def test_both_kinds_have_a_status_and_an_inference_can_be_scaled() -> None:
    assert version_of("LLMFineTune")["subresources"] == {"status": {}}
    scale = version_of("LLMInference")["subresources"]["scale"]
    types = {path: schema.get("type") for path, schema in nodes_of("LLMInference")}
    assert {key: types[path] for key, path in scale.items()} == {
        "specReplicasPath": "integer",
        "statusReplicasPath": "integer",
        "labelSelectorPath": "string",
    }


@both_kinds
def test_the_schema_is_structural(kind: str) -> None:
    assert find_paths(kind, lambda _, schema: FORBIDDEN & schema.keys()) == []
    assert find_paths(kind, lambda _, schema: schema.get("type") == "object" and has_both_forms(schema)) == []
    assert find_paths(kind, lambda _, schema: schema.get("type") == "array" and "items" not in schema) == []


def has_both_forms(schema: Schema) -> bool:
    return "properties" in schema and "additionalProperties" in schema


@both_kinds
def test_everything_is_typed_but_what_takes_values_of_several_types(kind: str) -> None:
    untyped = find_paths(kind, lambda _, schema: UNTYPED in schema)
    assert set(untyped) <= MEANT_TO_BE_UNTYPED
    typeless = find_paths(kind, lambda _, schema: not {"type", UNTYPED, INT_OR_STRING} & schema.keys())
    assert typeless == []


def test_no_key_is_named_as_untyped_that_is_typed_by_now() -> None:
    untyped = {path for kind in CRDS for path in find_paths(kind, lambda _, schema: UNTYPED in schema)}
    assert untyped == MEANT_TO_BE_UNTYPED


@both_kinds
def test_every_field_is_described_in_whole_lines(kind: str) -> None:
    fields = [(path, schema) for path, schema in nodes_of(kind) if path and not path.endswith(("[]", ".*"))]
    silent = [path for path, schema in fields if not schema.get("description")]
    assert silent == [".metadata"]  # Kubernetes' own; a description of it isn't allowed here.
    assert [path for path, schema in fields if "\n" in schema.get("description", "")] == []


@both_kinds
def test_every_text_list_and_mapping_is_bounded_so_that_the_cost_of_rules_is(kind: str) -> None:
    def is_unbounded(path: str, schema: Schema) -> bool:
        if path in ("", ".apiVersion", ".kind"):
            return False
        needed = {"string": {"maxLength", "enum", "format"}, "array": {"maxItems"}}.get(schema.get("type", ""), set())
        if "additionalProperties" in schema:
            needed = {"maxProperties"}
        return bool(needed) and not needed & schema.keys()

    assert find_paths(kind, is_unbounded) == []


@both_kinds
def test_a_nullable_option_is_a_pattern_since_the_api_server_finds_null_in_no_enum(kind: str) -> None:
    assert find_paths(kind, lambda _, schema: schema.get("nullable") and "enum" in schema) == []


@both_kinds
def test_no_default_is_written_into_what_users_stored(kind: str) -> None:
    assert find_paths(kind, lambda _, schema: "default" in schema) == []


@both_kinds
def test_every_rule_says_what_is_wrong_and_points_at_a_field_that_is_there(kind: str) -> None:
    for path, schema in nodes_of(kind):
        for rule in schema.get("x-kubernetes-validations", ()):
            assert rule["message"], path
            assert "\n" not in rule["message"], path
            assert leads_somewhere(schema, rule.get("fieldPath", "")), (path, rule)


def leads_somewhere(schema: Schema, field_path: str) -> bool:
    for name in field_path.split(".")[1:]:
        if name not in schema.get("properties", {}):
            return False
        schema = schema["properties"][name]
    return True


@both_kinds
def test_conditions_are_merged_by_type(kind: str) -> None:
    conditions = dict(nodes_of(kind))[".status.conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert conditions["items"]["required"] == ["type", "status", "lastTransitionTime", "reason"]


@both_kinds
def test_only_the_spec_is_required_of_a_resource(kind: str) -> None:
    root = version_of(kind)["schema"]["openAPIV3Schema"]
    assert root["required"] == ["spec"]
    assert set(root["properties"]) == {"apiVersion", "kind", "metadata", "spec", "status"}
    assert set(root["properties"]["metadata"]) == {"type", "properties"}
    assert set(root["properties"]["metadata"]["properties"]) == {"name"}
