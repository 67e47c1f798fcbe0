"""The real small model, tuned in 32 bits: what is stored gives others the same answers and figures as it gave here.

Every method, 4-bit layers among them, is trained to its end in test_fine_tune_methods; a real model's prompts that show
rows are in predict/test_shown_rows and predict/test_semantic_rows.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.run import TrainRun
from llm_runner.predict.sample import answer_sample
from llm_runner.report.sample import SAMPLE_NAME
from llm_runner.train.sample import Ask
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.repository import ROOT
from tests.support.runs import read_curve, read_metrics, run_train
from tests.support.smollm2 import smollm2_path

DATA = ROOT / "examples" / "data" / "support-tickets"
TEMPLATE = "Turn the ticket into JSON with category, product, urgency and order.\n\nTicket: {ticket}\n\nJSON:\n"
R, ALPHA, NEW_TOKENS = 4, 12, 12
# PEFT asks transformers for a name that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
LAYER = "model.layers.7.self_attn.q_proj"


@dataclass(frozen=True)
class Stored:
    """The same run twice: with its adapter stored, and with it merged into the base."""

    adapter: Path
    merged: Path
    rows: list[dict[str, str]]
    """The hold-out."""


def copy_rows(name: str, count: int, folder: Path) -> str:
    lines = (DATA / name).read_text("utf-8").splitlines(keepends=True)[:count]
    (folder / name).write_text("".join(lines), encoding="utf-8")
    return str(folder / name)


def tune(folder: Path, postprocessor: dict[str, Any], ask: Ask | None = None) -> Path:
    folder.mkdir()
    config = {
        "base_model": str(smollm2_path()),
        "input_features": [{"name": "ticket", "type": "text"}],
        "output_features": [{"name": "answer", "type": "text"}],
        "prompt": {"template": TEMPLATE},
        "adapter": {"type": "lora", "r": R, "alpha": ALPHA, "dropout": 0.0, "postprocessor": postprocessor},
        "generation": {"do_sample": False, "max_new_tokens": NEW_TOKENS},
        "trainer": {"type": "finetune", "learning_rate": 0.01, "batch_size": 2, "train_steps": 3},
    }
    document = {
        "name": "tickets",
        "config": config,
        "dataset": {
            "train": {"uri": copy_rows("train.jsonl", 6, folder)},
            "validation": {"uri": copy_rows("validation.jsonl", 2, folder)},
        },
        "outputUri": str(folder / "out"),
        "checkpoint": {"uri": str(folder / "checkpoints")},
        "dtype": "float32",
    }
    run_train(TrainRun.model_validate(document), folder / "work", ask=ask)
    return folder / "out"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    folder = tmp_path_factory.mktemp("stored")
    adapter = tune(folder / "adapter", {}, answer_sample)
    merged = tune(folder / "merged", {"merge_adapter_into_base_model": True})
    lines = (folder / "adapter" / "validation.jsonl").read_text("utf-8").splitlines()
    return Stored(adapter, merged, [json.loads(line) for line in lines])


@pytest.fixture(scope="module")
def tuned(stored: Stored) -> Any:
    """As PEFT alone loads it, from nothing but the folder."""
    return AutoPeftModelForCausalLM.from_pretrained(str(stored.adapter), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(stored: Stored) -> Any:
    return AutoTokenizer.from_pretrained(stored.adapter)


def measure_loss(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> float:
    """Mean over the answers' tokens, worked out from texts, row by row."""
    total, targets = 0.0, 0
    for row in rows:
        prompt = tokenizer(TEMPLATE.replace("{ticket}", row["ticket"]))["input_ids"]
        answer = [*tokenizer(row["answer"])["input_ids"], tokenizer.eos_token_id]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
        total += cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(answer), reduction="sum").item()
        targets += len(answer)
    return total / targets


def test_loaded_by_peft_it_answers_as_it_did_before_it_was_stored(stored: Stored, tuned: Any, tokenizer: Any) -> None:
    sample = [json.loads(line) for line in (stored.adapter / SAMPLE_NAME).read_text("utf-8").splitlines()]
    assert [row["prompt"] for row in sample] == [TEMPLATE.replace("{ticket}", row["ticket"]) for row in stored.rows]
    for row in sample:
        inputs = tokenizer(row["prompt"], return_tensors="pt")
        found = tuned.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
        answer = found[0, inputs["input_ids"].shape[1] :]
        assert tokenizer.decode(answer, skip_special_tokens=True) == row["answer"]
        assert len(row["answer"]) > 3


def test_the_perplexity_is_that_of_the_mean_over_the_answers_tokens(stored: Stored, tuned: Any, tokenizer: Any) -> None:
    figures = read_metrics(stored.adapter)["eval"]
    loss = measure_loss(tuned, tokenizer, stored.rows)
    assert figures["loss"] == pytest.approx(loss, abs=1e-4)
    assert figures["perplexity"] == pytest.approx(math.exp(loss), rel=2e-4)
    with tuned.disable_adapter():
        base_loss = measure_loss(tuned, tokenizer, stored.rows)
    assert figures["base_loss"] == pytest.approx(base_loss, abs=1e-4)
    assert base_loss > loss + 0.1


def test_a_merged_model_is_the_base_with_the_adapter_added_once(stored: Stored, tuned: Any, tokenizer: Any) -> None:
    """As the paper has it (Hu et al. 2021, arXiv:2106.09685, section 4.1): W + alpha / r * B A."""
    assert read_curve(stored.merged) == read_curve(stored.adapter)
    assert not [path.name for path in stored.merged.iterdir() if "adapter" in path.name]
    own, base = (load_file(folder / "model.safetensors") for folder in (stored.merged, smollm2_path()))
    parts = load_file(stored.adapter / "adapter_model.safetensors")
    up, down = (parts[f"base_model.model.{LAYER}.lora_{which}.weight"] for which in "BA")
    added = own[f"{LAYER}.weight"].float() - base[f"{LAYER}.weight"].float()
    torch.testing.assert_close(added, ALPHA / R * up.float() @ down.float(), rtol=0, atol=1e-5)
    assert added.abs().max() > 1e-3
    merged: Any = AutoModelForCausalLM.from_pretrained(stored.merged, dtype=torch.float32)
    inputs = tokenizer(TEMPLATE, return_tensors="pt")
    with torch.inference_mode():
        found, expected = (model(**inputs, use_cache=False).logits for model in (merged.eval(), tuned))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    figures = read_metrics(stored.merged)["eval"]
    assert figures["merged_loss"] == pytest.approx(measure_loss(merged, tokenizer, stored.rows), abs=1e-4)
