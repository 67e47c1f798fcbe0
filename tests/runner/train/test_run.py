"""Whole runs of a tiny model: what the trainer's other keys do, and what a run says on its way."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_runner.errors import GateNotMet
from safetensors.torch import load_file

from tests.support.models import gpt2_config, llama_config, save_model
from tests.support.runs import Messages, build_run, read_curve, read_metrics, run_train

TRAINER: dict[str, Any] = {"type": "finetune", "batch_size": 4, "learning_rate": 0.01, "epochs": 2}
LORA = {"type": "lora", "dropout": 0.1}


def tune(
    folder: Path, model_path: Path, *, adapter: Any = LORA, messages: Messages | None = None, **trainer: Any
) -> Path:
    config = {"trainer": {**TRAINER, **trainer}, **({} if adapter is None else {"adapter": adapter})}
    run = build_run(folder, model_path, config)
    run_train(run, folder / "work", messages)
    return Path(run.output_uri)


def losses_of(folder: Path) -> list[float]:
    return [float(row[3]) for row in read_curve(folder)]


def test_the_same_run_twice_is_the_same_run(llama_path: Path, tmp_path: Path) -> None:
    assert read_curve(tune(tmp_path / "a", llama_path)) == read_curve(tune(tmp_path / "b", llama_path))


@pytest.mark.parametrize("adapter", [LORA, None], ids=["lora", "full"])
def test_gradient_checkpointing_changes_no_loss(adapter: Any, llama_path: Path, tmp_path: Path) -> None:
    plain = losses_of(tune(tmp_path / "plain", llama_path, adapter=adapter))
    saving = losses_of(tune(tmp_path / "saving", llama_path, adapter=adapter, enable_gradient_checkpointing=True))
    assert saving == pytest.approx(plain, abs=1e-5)


@pytest.mark.proves("trainer.batch_size", "trainer.gradient_accumulation_steps")
def test_accumulation_is_one_step_of_all_its_rows(llama_path: Path, tmp_path: Path) -> None:
    whole = losses_of(tune(tmp_path / "whole", llama_path, batch_size=8))
    parts = losses_of(tune(tmp_path / "parts", llama_path, batch_size=2, gradient_accumulation_steps=4))
    assert len(whole) == 6
    assert parts == whole


@pytest.mark.proves("trainer.use_mixed_precision")
def test_mixed_precision_stays_near(llama_path: Path, tmp_path: Path) -> None:
    plain = losses_of(tune(tmp_path / "plain", llama_path))
    mixed = losses_of(tune(tmp_path / "mixed", llama_path, use_mixed_precision=True))
    assert mixed != plain
    assert mixed == pytest.approx(plain, rel=0.02)


@pytest.mark.proves("trainer.layers_to_freeze_regex")
def test_frozen_layers_stay_as_they_were(llama_path: Path, tmp_path: Path) -> None:
    folder = tune(tmp_path, llama_path, adapter=None, layers_to_freeze_regex=r"layers\.0\.|embed_tokens")
    before, after = load_file(llama_path / "model.safetensors"), load_file(folder / "model.safetensors")
    for name, weight in before.items():
        is_frozen = re.search(r"layers\.0\.|embed_tokens", name) is not None
        assert torch.equal(weight, after[name]) is is_frozen, name


def test_a_model_that_needs_padding_is_trained_with_it_and_says_so(tmp_path: Path) -> None:
    """Sequences that end to end are more than its learned positions are no trouble: they start again in each."""
    messages = Messages()
    path = save_model(tmp_path / "granite", llama_config())
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(
        config.replace('"llama"', '"granite"').replace("LlamaForCausalLM", "GraniteForCausalLM").rstrip()[:-1]
        + ',"logits_scaling": 4.0}'
    )
    losses = losses_of(tune(tmp_path / "run", path, messages=messages))
    assert losses[-1] < losses[0]
    (warning,) = (text for text in messages.texts if "batches are padded" in text)
    assert warning.startswith("warning: granite can't be trained without padding (the flattened loss is ")


def test_many_rows_end_to_end_are_more_than_learned_positions_and_no_trouble(tmp_path: Path) -> None:
    path = save_model(tmp_path / "gpt2", gpt2_config())
    losses = losses_of(tune(tmp_path / "run", path, batch_size=12))
    assert losses[-1] < losses[0]


@pytest.mark.proves(
    "trainer.eval_steps", "trainer.eval_batch_size", "trainer.evaluate_training_set", "trainer.skip_all_evaluation"
)
def test_evaluations_may_be_bounded_left_out_or_cover_the_training_rows(llama_path: Path, tmp_path: Path) -> None:
    messages = Messages()
    tune(tmp_path / "rows", llama_path, evaluate_training_set=True, messages=messages)
    told = [text for text in messages.texts if text.endswith("on all training rows")]
    assert [text.split(":")[1].strip() for text in told] == ["step 6", "step 12"]
    bounded = read_curve(tune(tmp_path / "bounded", llama_path, eval_steps=1, eval_batch_size=2))
    whole = read_curve(tune(tmp_path / "whole", llama_path))
    assert bounded[-1][4] != whole[-1][4]
    assert [row[3] for row in bounded] == [row[3] for row in whole]
    skipped = tune(tmp_path / "skipped", llama_path, skip_all_evaluation=True)
    assert [row[4] for row in read_curve(skipped)] == [""] * 12
    assert "loss" in read_metrics(skipped)["eval"]


def test_without_a_hold_out_there_are_no_figures_of_one(llama_path: Path, tmp_path: Path) -> None:
    messages = Messages()
    split = {"split": {"type": "random", "probabilities": [1.0, 0.0, 0.0]}}
    config = {"trainer": TRAINER, "adapter": LORA, "preprocessing": split}
    run = build_run(tmp_path, llama_path, config, hold_out=0)
    outcome = run_train(run, tmp_path / "work", messages)
    assert "eval" not in read_metrics(Path(run.output_uri))
    assert "eval.loss" not in outcome.metrics
    assert any("no rows are held out" in text for text in messages.texts)


def test_an_outcome_holds_every_figure_and_where_the_artifact_is(llama_path: Path, tmp_path: Path) -> None:
    run = build_run(tmp_path, llama_path, {"trainer": TRAINER, "adapter": LORA})
    outcome = run_train(run, tmp_path / "work")
    wanted = {"train.tokens_per_second", "train.steps", "train.loss", "eval.loss", "peak_memory_bytes"}
    assert {*wanted, "rows_dropped", "rows_truncated"} <= outcome.metrics.keys()
    assert (outcome.reason, outcome.last_step, outcome.artifact_uri) == ("Succeeded", 12, run.output_uri)
    assert outcome.artifact_digest is not None
    assert outcome.artifact_digest.startswith("sha256:")


@pytest.mark.parametrize(("bound", "said"), [({"max": 0.1}, "at most 0.1"), ({"min": 99.0}, "at least 99.0")])
def test_a_gate_that_is_not_met_stores_nothing(
    bound: dict[str, float], said: str, llama_path: Path, tmp_path: Path
) -> None:
    config = {"trainer": TRAINER, "adapter": LORA}
    run = build_run(tmp_path, llama_path, config, gate={"metric": "loss", **bound})
    with pytest.raises(GateNotMet, match=rf"loss on the hold-out is \d\.\d+, and the gate asks for {said}"):
        run_train(run, tmp_path / "work")
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_gate_that_is_met_changes_nothing(llama_path: Path, tmp_path: Path) -> None:
    gate = {"metric": "next_token_accuracy", "min": 0.0, "max": 1.0}
    run = build_run(tmp_path, llama_path, {"trainer": TRAINER, "adapter": LORA}, gate=gate)
    assert run_train(run, tmp_path / "work").reason == "Succeeded"
