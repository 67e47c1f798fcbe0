import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from llm_runner.model.silence import peft_silenced
from llm_runner.report.artifact import save_report
from llm_runner.report.card import CardExample, CardInfo, build_card
from llm_runner.report.metrics_file import EvalMetrics, RunMetrics, TrainMetrics, to_flat_metrics
from llm_runner.report.plot import smooth
from matplotlib.image import imread

from tests.support.models import llama_config, save_model


@dataclass(frozen=True)
class Counts:
    rows_read: int = 310
    rows_train: int = 250
    rows_validation: int = 30
    rows_test: int = 20
    rows_dropped: int = 10
    rows_truncated: int = 4


@dataclass(frozen=True)
class Point:
    step: int
    epoch: float = 0.5
    learning_rate: float = 1e-4
    train_loss: float = 2.0
    tokens_per_second: float = 400.0
    eval_loss: float | None = None


METRICS = RunMetrics(
    train=TrainMetrics(steps=2, epochs=1.0, loss=0.61, tokens=800, seconds=2.5, tokens_per_second=320.0),
    eval=EvalMetrics(loss=0.81, perplexity=2.25, next_token_accuracy=0.8137),
    rows=Counts(),
    peak_memory_bytes=2_000_000_000,
    trained_parameters=460_800,
    parameters=135_000_000,
)
CURVE = [Point(1, train_loss=3.25), Point(2, 1.0, train_loss=0.1 + 0.2, eval_loss=0.81)]
INFO = CardInfo(
    name="support-tickets",
    base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
    kind="adapter",
    method="LoRA",
    data_uris=["s3://tickets/train.jsonl"],
    data_digest="ab" * 32,
    settings={"adapter.r": 8},
    base_licence="apache-2.0",
)


def save(folder: Path, *, metrics: RunMetrics = METRICS, curve: Sequence[Point] = CURVE) -> dict[str, Any]:
    save_report(folder, INFO, metrics, curve)
    loaded = json.loads((folder / "metrics.json").read_text())
    assert isinstance(loaded, dict)
    return loaded


def front_matter(**changes: Any) -> dict[str, Any]:
    card: dict[str, Any] = ModelCard(build_card(replace(INFO, **changes), METRICS)).data.to_dict()
    return card


def test_metrics_json_has_the_figures_of_the_training_of_the_hold_out_and_of_the_rows(tmp_path: Path) -> None:
    metrics = save(tmp_path)
    assert metrics["train"]["tokens_per_second"] == 320.0
    assert metrics["train"]["steps"] == 2
    assert metrics["train"]["loss"] == 0.61
    assert metrics["eval"]["loss"] == 0.81
    assert metrics["eval"]["split"] == "validation"
    assert metrics["peak_memory_bytes"] == 2_000_000_000
    assert (metrics["rows_dropped"], metrics["rows_truncated"]) == (10, 4)


def test_figures_that_are_not_known_are_left_out(tmp_path: Path) -> None:
    assert "best_step" not in save(tmp_path)["train"]
    assert "eval" not in save(tmp_path, metrics=replace(METRICS, eval=None))


def test_an_infinite_perplexity_is_null_as_json_has_no_infinity(tmp_path: Path) -> None:
    metrics = replace(METRICS, eval=EvalMetrics(loss=900.0, perplexity=math.inf, next_token_accuracy=0.0))
    assert save(tmp_path, metrics=metrics)["eval"]["perplexity"] is None
    assert "eval.perplexity" not in to_flat_metrics(metrics)


def test_flat_metrics_have_dotted_names_and_numbers_only() -> None:
    flat = to_flat_metrics(METRICS)
    assert flat["eval.next_token_accuracy"] == 0.8137
    assert flat["rows_train"] == 250.0
    assert {"eval.split", "train.stopped_early"}.isdisjoint(flat)


def test_the_curve_has_one_line_a_step_with_every_digit(tmp_path: Path) -> None:
    save(tmp_path)
    with (tmp_path / "loss_curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "epoch", "learning_rate", "train_loss", "eval_loss", "tokens_per_second"]
    assert [float(row["train_loss"]) for row in rows] == [3.25, 0.1 + 0.2]
    assert [row["eval_loss"] for row in rows] == ["", "0.81"]


@pytest.mark.parametrize("steps", [0, 1, 19, 20, 300])
def test_the_plot_is_a_picture_with_something_in_it(tmp_path: Path, steps: int) -> None:
    curve = [
        Point(step + 1, train_loss=3 - step / 300, eval_loss=2.5 if step % 50 == 49 else None) for step in range(steps)
    ]
    save(tmp_path, curve=curve)
    pixels = imread(tmp_path / "loss_curve.png")
    assert pixels.shape == (720, 1280, 4)
    coloured = (pixels[..., :3].max(axis=2) - pixels[..., :3].min(axis=2) > 0.3).sum()
    assert (coloured > 0) == (steps > 0)


def test_smoothing_keeps_a_line_where_it_is_and_calms_what_jumps() -> None:
    assert smooth([2.0] * 30, 7) == pytest.approx([2.0] * 30)
    assert smooth([float(value) for value in range(30)], 7)[5:25] == pytest.approx(range(5, 25))
    assert abs(smooth([1.0, -1.0] * 20, 11)[5:35]).max() < 0.1


def test_the_front_matter_is_what_the_hub_reads() -> None:
    assert front_matter() == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["llm-operator", "lora"],
    }


@pytest.mark.parametrize("kind", ["merged", "full"])
def test_full_weights_are_a_fine_tune_for_transformers(kind: str) -> None:
    data = front_matter(kind=kind)
    assert (data["library_name"], data["base_model_relation"]) == ("transformers", "finetune")


@pytest.mark.parametrize("base_model", ["./models/SmolLM2", "SmolLM2-135M", "/models/a/b", "s3://models/base", "a/b/c"])
def test_a_base_model_that_is_not_on_the_hub_is_named_in_the_text_only(base_model: str) -> None:
    assert "base_model" not in front_matter(base_model=base_model)
    assert f"`{base_model}`" in build_card(replace(INFO, base_model=base_model), METRICS)


def test_data_from_the_hub_is_linked() -> None:
    uris = ["hf://datasets/acme/tickets/train.csv", "hf://datasets/acme/tickets@main/test.csv", "s3://tickets/test.csv"]
    assert front_matter(data_uris=uris)["datasets"] == ["acme/tickets"]


def test_the_card_says_what_it_was_trained_on_and_how_well_it_does() -> None:
    card = build_card(INFO, METRICS)
    assert "- `s3://tickets/train.jsonl`" in card
    assert f"SHA-256 of the data: `{'ab' * 32}`" in card
    assert "310 rows were read: 250 trained on, 30 for validation, 20 for the test; 10 were dropped and 4 cut" in card
    assert "| `eval.loss` | `0.8100` |" in card
    assert "| `adapter.r` | `8` |" in card
    assert "![Loss by optimizer step](loss_curve.png)" in card


def test_a_card_of_pairs_names_their_method_and_what_the_figures_are_of() -> None:
    card = build_card(replace(INFO, preference="DPO"), METRICS)
    assert "made by llm-operator by DPO from pairs of a better and a worse answer. " in card
    assert "Losses are DPO's own, in the mean of pairs" in card
    assert "nats per target token" not in card
    assert front_matter(preference="DPO")["tags"] == ["llm-operator", "lora", "dpo"]
    assert front_matter()["tags"] == ["llm-operator", "lora"]


def test_of_a_file_on_somebodys_machine_the_name_is_told_only() -> None:
    assert "- `train.csv`\n" in build_card(replace(INFO, data_uris=["/data/secret-plans/train.csv"]), METRICS)


def test_an_unknown_licence_is_said() -> None:
    assert "licence is not known here" in build_card(replace(INFO, base_licence=None), METRICS)


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("<|user|> {question}", r"`<\|user\|> {question}`"),
        ("one\ntwo", r'`"one\ntwo"`'),
        ("a `b` c", "``a `b` c``"),
        ("`b`", "`` `b` ``"),
        ("", '`""`'),
        (None, "`null`"),
        ([0.9, 0.999], "`[0.9, 0.999]`"),
    ],
)
def test_a_setting_can_not_break_its_table(value: object, cell: str) -> None:
    assert f"| `key` | {cell} |\n" in build_card(replace(INFO, settings={"key": value}), METRICS)


def test_an_example_can_not_break_out_of_its_block() -> None:
    example = CardExample(prompt="```\n# Not a heading\n```", target="{}", answer="[]")
    card = build_card(replace(INFO, examples=[example]), METRICS)
    assert "````\n```\n# Not a heading\n```\n````" in card
    assert "Wanted:\n\n```\n{}\n```" in card
    assert "Answered:\n\n```\n[]\n```" in card


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_the_python_of_the_card_runs_as_it_stands(
    tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _save_adapter(tmp_path) if kind == "adapter" else save_model(tmp_path / "full", llama_config())
    examples = [CardExample(prompt='Say "hi"\\\n', target="hi")]
    card = build_card(replace(INFO, kind=kind, examples=examples, max_new_tokens=3), METRICS)
    found = re.search(r"```python\n(.*?)\n```", card, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    with peft_silenced():
        exec(found[1], names)
    assert names["prompt"] == examples[0].prompt
    assert 1 <= len(names["answer"]) <= 3
    assert capsys.readouterr().out.endswith("\n")


def _save_adapter(tmp_path: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = save_model(tmp_path / "base", llama_config())
    folder = tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base)
    with peft_silenced():
        get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder
