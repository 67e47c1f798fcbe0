"""The lengths of a manifest's rows: counted uncut, as a table and a picture, without training anything."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_runner.__main__ import main

PNG = b"\x89PNG\r\n\x1a\n"
QUESTIONS = ["q" * length for length in (10, 20, 40, 80)]
"""A token a byte, and four for the answer with its end: 14, 24, 44 and 84 tokens."""


def write_manifest(folder: Path, model_path: Path, **spec: Any) -> Path:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": text, "answer": "yes"}) + "\n" for text in QUESTIONS))
    manifest = {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMFineTune",
        "metadata": {"name": "bot"},
        "spec": {
            "config": {
                "base_model": str(model_path),
                "input_features": [{"name": "question", "type": "text", "preprocessing": {"max_sequence_length": 30}}],
                "output_features": [{"name": "answer", "type": "text"}],
                "preprocessing": {"global_max_sequence_length": 24},
                "trainer": {"type": "finetune"},
            },
            "dataset": {"train": {"volume": {"claimName": "data", "path": "rows.jsonl"}}},
            "output": {"uri": "s3://nowhere/bot"},
            **spec,
        },
    }
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return path


def profile(folder: Path, model_path: Path, **spec: Any) -> Path:
    manifest = write_manifest(folder, model_path, **spec)
    out = folder / "profile"
    arguments = ["profile", "-f", str(manifest), "--volume", f"data={folder}", "--output-dir", str(out)]
    assert main(arguments) == 0
    return out


def read_table(folder: Path) -> dict[tuple[str, int], dict[str, str]]:
    with (folder / "token_lengths.csv").open(newline="") as file:
        return {(row["key"], int(row["limit"])): row for row in csv.DictReader(file)}


def test_the_table_says_what_each_limit_would_cut_by_itself(llama_path: Path, tmp_path: Path) -> None:
    table = read_table(profile(tmp_path, llama_path))
    whole, prompt = "preprocessing.global_max_sequence_length", "input_features[0].preprocessing.max_sequence_length"
    answer = "output_features[0].preprocessing.max_sequence_length"
    assert [limit for key, limit in table if key == whole] == [24, 32, 64, 128]
    assert [limit for key, limit in table if key == prompt] == [30, 32, 64, 128]
    assert [limit for key, limit in table if key == answer] == [32]
    assert [table[whole, limit]["prompts cut"] for limit in (24, 32, 64, 128)] == ["2", "2", "1", "0"]
    assert [table[prompt, limit]["prompts cut"] for limit in (30, 64, 128)] == ["2", "1", "0"]
    assert {row["answers cut"] for row in table.values()} == {row["rows lost"] for row in table.values()} == {"0"}
    assert (table[whole, 128]["tokens kept"], table[prompt, 30]["tokens kept"]) == ("100.0%", "63.9%")


def test_there_is_a_picture_and_words_for_what_the_config_cuts_as_it_is(
    llama_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = profile(tmp_path, llama_path)
    assert (folder / "token_lengths.png").read_bytes().startswith(PNG)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    texts = [line["message"] for line in told if "message" in line]
    assert any(text.startswith("tokens of prompt, at most: 30 (50 %)") and "80 (100 %)" in text for text in texts)
    assert any("2 prompts and 0 answers are cut, 0 rows lost" in text for text in texts)
    assert told[-1]["reason"] == "Profiled"


def test_a_suspended_fine_tune_is_profiled_too_and_nothing_is_stored(llama_path: Path, tmp_path: Path) -> None:
    folder = profile(tmp_path, llama_path, run={"suspend": True})
    assert sorted(path.name for path in folder.iterdir()) == ["token_lengths.csv", "token_lengths.png"]
