"""`python -m llm_api validate`: files, documents, standard input, other kinds, both outputs and the exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_api.__main__ import main
from llm_api.validate import validate_documents, validate_files

from tests.support.documents import build_config, build_manifest

GOOD = build_manifest("LLMFineTune")
BAD = build_manifest("LLMFineTune", "run: {maxRetries: -1, keep: 3}", config=build_config("generation: {top_k: 0}"))
OTHER = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "data"}}


def write(path: Path, *documents: object) -> str:
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


def run(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "llm_api", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def run_json(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["validate", "--output", "json", *arguments])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def test_a_valid_manifest_ends_with_0() -> None:
    result = run("validate", "-", given=yaml.safe_dump(GOOD))
    assert (result.returncode, result.stdout) == (0, "1 document checked, no errors\n")


def test_every_error_of_every_document_of_every_file_is_printed_with_where_it_is(tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", GOOD, BAD)
    second = write(tmp_path / "second.yaml", build_config("prompt: {task: 5}"))
    result = run("validate", first, second)
    assert result.returncode == 1
    *errors, summary = result.stdout.splitlines()
    assert errors == [
        f"{first}: LLMFineTune/bot: spec.config.generation.top_k: must be at least 1 (found 0)",
        f"{first}: LLMFineTune/bot: spec.run.maxRetries: must be at least 0 (found -1)",
        f"{first}: LLMFineTune/bot: spec.run.keep: unknown key (found 3); known keys: suspend, maxRetries, "
        "deadlineSeconds, startTimeoutSeconds, ttlSecondsAfterFinished, checkpoint",
        f"{second}: config: prompt.task: write text (found 5)",
    ]
    assert summary == "3 documents checked, 4 errors in 2"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: [1", "line 1, column 6: "),
        (b"a: 1\na: 2", "line 2, column 1: the key 'a' stands twice"),
        (b"a: \xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_ends_with_1(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    result = run("validate", str(tmp_path / "a.yaml"))
    assert result.returncode == 1
    assert result.stderr.startswith(f"{tmp_path / 'a.yaml'}: {problem}")


def test_a_file_that_is_missing_does_not_keep_the_others_from_being_checked(tmp_path: Path) -> None:
    there = write(tmp_path / "there.yaml", BAD)
    result = run("validate", str(tmp_path / "missing.yaml"), there)
    assert result.returncode == 1
    assert "missing.yaml: can't be read: No such file or directory" in result.stderr
    assert "spec.config.generation.top_k" in result.stdout
    assert result.stdout.endswith("1 document checked, 3 errors in 1; 1 file not readable\n")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "can't be read: Is a directory" in run("validate", str(tmp_path)).stderr


def test_no_file_at_all_is_a_mistake_of_use() -> None:
    result = run("validate")
    assert result.returncode == 2
    assert "FILE" in result.stderr


def test_objects_of_other_kinds_are_left_alone_and_counted(tmp_path: Path) -> None:
    result = run("validate", write(tmp_path / "all.yaml", OTHER, GOOD, {"kind": "Namespace"}))
    assert result.returncode == 0
    assert result.stdout == "1 document checked, no errors; 2 objects of other kinds not checked\n"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"kind": "LLMFinetune"}, "kind"),
        ({"kind": None}, "kind"),
        ({"apiVersion": "llmoperator.dev/v1"}, "apiVersion"),
        ({"apiVersion": "other.dev/v1alpha1"}, "apiVersion"),
    ],
)
def test_a_resource_that_is_misspelt_is_ours_all_the_same(change: dict[str, Any], path: str) -> None:
    report = validate_documents([{**GOOD, **change}])
    assert [finding.issue.path for finding in report.findings] == [path]


@pytest.mark.parametrize("document", [[], "text", 5, True])
def test_what_is_no_mapping_is_told_what_to_write(document: object) -> None:
    report = validate_documents([document])
    assert [finding.issue.message for finding in report.findings] == ["write a manifest, or the keys of an LLM config"]


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    report = validate_files([str(tmp_path / "empty.yaml")])
    assert report.exit_code == 1
    assert [finding.issue.message for finding in report.findings] == ["nothing is in it; write a manifest"]


def test_the_items_of_a_list_are_checked_each_by_itself(tmp_path: Path) -> None:
    listing = {"apiVersion": "v1", "kind": "List", "items": [GOOD, BAD, OTHER]}
    report = validate_files([write(tmp_path / "list.yaml", listing)])
    assert (report.checked, report.ignored, len(report.findings)) == (2, 1, 3)


def test_json_is_yaml(tmp_path: Path) -> None:
    (tmp_path / "bot.json").write_text(json.dumps(GOOD))
    assert validate_files([str(tmp_path / "bot.json")]).exit_code == 0


def test_a_status_is_not_looked_at() -> None:
    assert validate_documents([{**GOOD, "status": {"phase": "Nonsense"}}]).exit_code == 0


def test_warnings_are_printed_but_are_no_errors(tmp_path: Path) -> None:
    result = run("validate", write(tmp_path / "c.yaml", build_config("ludwig_version: 0.10.1")))
    assert result.returncode == 0
    assert "c.yaml: config: warning: ludwig_version is ignored" in result.stdout
    assert result.stdout.endswith("1 document checked, no errors; 1 warning\n")


def test_warnings_of_a_manifest_name_the_key_from_the_root() -> None:
    manifest = build_manifest("LLMInference", "config: {base_model: a, trainer: {type: finetune}}")
    (warned,) = validate_documents([manifest]).warnings
    assert warned.message.startswith("spec.config.trainer is ignored")


def test_json_output_has_every_part_of_every_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "bad.yaml", build_config("generation: {top_k: 0, temprature: 1}"), OTHER)
    code, found = run_json(file, capsys=capsys)
    assert code == 1
    assert found == {
        "valid": False,
        "checked": 1,
        "ignored": 1,
        "errors": [
            {
                "file": file,
                "subject": "config",
                "path": "generation.top_k",
                "message": "must be at least 1",
                "found": "0",
                "hint": None,
            },
            {
                "file": file,
                "subject": "config",
                "path": "generation.temprature",
                "message": "unknown key",
                "found": "1",
                "hint": "did you mean temperature?",
            },
        ],
        "warnings": [],
        "unreadable": [],
    }


def test_json_output_tells_where_a_file_stops_being_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("a: 1\na: 2")
    code, found = run_json(str(tmp_path / "bad.yaml"), capsys=capsys)
    assert (code, found["valid"], found["errors"]) == (1, False, [])
    assert [(one["line"], one["column"]) for one in found["unreadable"]] == [(2, 1)]


def test_json_output_of_what_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run_json(write(tmp_path / "good.yaml", GOOD, build_config("backend: local")), capsys=capsys)
    assert (code, found["valid"], found["checked"]) == (0, True, 2)
    assert [warned["subject"] for warned in found["warnings"]] == ["config"]


def test_shorthand_is_for_bare_configs_since_the_api_server_takes_sections_only() -> None:
    config = build_config("trainer: {type: finetune}\nadapter: lora")
    assert validate_documents([config]).exit_code == 0
    (finding,) = validate_documents([build_manifest("LLMFineTune", config=config)]).findings
    assert finding.issue.hint == "did you mean {type: lora}?"


def test_help_names_the_exit_codes() -> None:
    result = run("validate", "--help")
    assert result.returncode == 0
    assert "exit codes:" in result.stdout
