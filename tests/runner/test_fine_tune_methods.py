"""Every method tunes the real small model on real rows: it learns, and others can load and judge what it leaves."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from llm_api.run import TrainRun
from llm_runner.train import run as run_module
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from tests.support.repository import ROOT
from tests.support.runs import Messages, read_metrics, run_train
from tests.support.smollm2 import smollm2_path

DATA = ROOT / "examples" / "data" / "support-tickets"
TEMPLATE = "Turn the ticket into JSON with category, product, urgency and order.\n\nTicket: {ticket}\n\nJSON:\n"
PROBE = torch.arange(1000, 1030)[None]
LORA = {"type": "lora", "r": 8}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": LORA, "rate": 0.005},
    "nf4": {"adapter": LORA, "rate": 0.005, "quantization": {"bits": 4, "bnb_4bit_compute_dtype": "bfloat16"}},
    "int8": {"adapter": LORA, "rate": 0.005, "quantization": {"bits": 8}, "steps": 4},
    "pissa": {"adapter": {**LORA, "init_lora_weights": "pissa_niter_4"}, "rate": 0.002},
    "adalora": {"adapter": {"type": "adalora", "init_r": 8, "target_r": 4}, "rate": 0.03},
    "ia3": {"adapter": {"type": "ia3"}, "rate": 0.03},
    "vera": {"adapter": {"type": "vera", "r": 64}, "rate": 0.05},
    "loha": {"adapter": {"type": "loha"}, "rate": 0.01},
    "lokr": {"adapter": {"type": "lokr"}, "rate": 0.01},
    "oft": {"adapter": {"type": "oft"}, "rate": 0.005},
    "boft": {"adapter": {"type": "boft", "boft_dropout": 0}, "rate": 0.02},
    "full": {"adapter": None, "rate": 0.0001, "steps": 4},
}


@dataclass(frozen=True)
class Tuned:
    """One finished run."""

    folder: Path
    metrics: dict[str, Any]
    logits: torch.Tensor
    """Of the model that was trained, before it was stored."""
    messages: list[str]


def copy_rows(name: str, count: int, folder: Path) -> Path:
    path = folder / name
    path.write_text("".join((DATA / name).read_text().splitlines(keepends=True)[:count]))
    return path


def build_run(folder: Path, *, adapter: Any, rate: float, quantization: Any = None, steps: int = 6) -> TrainRun:
    config: dict[str, Any] = {
        "base_model": str(smollm2_path()),
        "input_features": [{"name": "ticket", "type": "text"}],
        "output_features": [{"name": "answer", "type": "text"}],
        "prompt": {"template": TEMPLATE},
        "trainer": {
            "type": "finetune",
            "learning_rate": rate,
            "batch_size": 4,
            "train_steps": steps,
            "steps_per_checkpoint": 100,
            "learning_rate_scheduler": {"decay": "linear", "warmup_fraction": 0.2},
        },
    }
    parts = {"adapter": adapter, "quantization": quantization}
    return TrainRun.model_validate(
        {
            "name": "tickets",
            "config": {**config, **{key: part for key, part in parts.items() if part is not None}},
            "dataset": {
                "train": {"uri": str(copy_rows("train.jsonl", 24, folder))},
                "validation": {"uri": str(copy_rows("validation.jsonl", 6, folder))},
            },
            "outputUri": str(folder / "out"),
            "checkpoint": {"uri": str(folder / "checkpoints")},
        }
    )


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=PROBE, use_cache=False).logits[0].float()  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tuned(name: str, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder, messages, seen = tmp_path_factory.mktemp(name), Messages(), []
    save_weights = run_module.save_weights

    def note(run: Any, inputs: Any, model: Any, *others: Any) -> Any:
        own = model.get_base_model() if isinstance(model, PeftModel) else model
        own.set_attn_implementation("sdpa")
        seen.append(logits_of(own))
        return save_weights(run, inputs, model, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "save_weights", note)
        run_train(build_run(folder, **METHODS[name]), folder / "work", messages)
    return Tuned(folder / "out", read_metrics(folder / "out"), seen[0], messages.texts)


def load(tuned: Tuned, name: str) -> PreTrainedModel | PeftModel:
    """As anyone would, with transformers and PEFT alone and the base model as it is."""
    if name == "full":
        assert not list(tuned.folder.glob("adapter*"))
        model: Any = AutoModelForCausalLM.from_pretrained(tuned.folder, dtype=torch.bfloat16)
        return model  # type: ignore[no-any-return]
    base: Any = AutoModelForCausalLM.from_pretrained(smollm2_path(), dtype=torch.bfloat16)
    return PeftModel.from_pretrained(base, str(tuned.folder))


def hold_out_loss(model: Any, tokenizer: Any, folder: Path) -> float:
    """Mean over the answers' tokens, worked out from texts."""
    total, targets = 0.0, 0
    for line in (folder / "validation.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = tokenizer(TEMPLATE.replace("{ticket}", row["ticket"]))["input_ids"]
        answer = [*tokenizer(row["answer"])["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model.eval()(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0].float()
        total += cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(answer), reduction="sum").item()
        targets += len(answer)
    return total / targets


# PEFT reads the ranks that AdaLoRA left by names that it then says it does not know.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing", "ignore:The following rank_pattern keys")
def test_it_learns_and_anyone_can_load_and_judge_what_it_leaves(name: str, tuned: Tuned) -> None:
    figures = tuned.metrics["eval"]
    assert figures["loss"] < figures["base_loss"] - 0.25
    model, tokenizer = load(tuned, name), AutoTokenizer.from_pretrained(tuned.folder)
    judged = hold_out_loss(model, tokenizer, tuned.folder.parent)
    quantized = METHODS[name].get("quantization") is not None
    assert judged == pytest.approx(figures["loss"], abs=0.15 if quantized else 0.02)
    if not quantized:
        found = logits_of(model)
        # 16 bits round differently in our pass and in PEFT's; in 32 they are the same, as other tests hold.
        assert (found - tuned.logits).abs().mean() < 0.03 * tuned.logits.abs().mean()
        assert (found.argmax(-1) == tuned.logits.argmax(-1)).float().mean() > 0.85


def test_the_report_beside_the_weights_is_whole(name: str, tuned: Tuned) -> None:
    metrics = tuned.metrics
    steps = METHODS[name].get("steps", 6)
    assert metrics["train"]["steps"] == steps
    assert metrics["train"]["tokens_per_second"] == pytest.approx(
        metrics["train"]["tokens"] / metrics["train"]["seconds"]
    )
    assert metrics["peak_memory_bytes"] > 200_000_000
    assert (metrics["rows_dropped"], metrics["rows_truncated"], metrics["rows_train"]) == (0, 0, 24)
    lines = (tuned.folder / "loss_curve.csv").read_text().splitlines()
    assert len(lines) == steps + 1
    assert (tuned.folder / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    card = (tuned.folder / "README.md").read_text()
    assert "loss_curve.png" in card
    assert "SHA-256 of the data: `" in card


def test_the_config_and_where_to_stop_lie_beside_the_weights(name: str, tuned: Tuned) -> None:
    resolved = yaml.safe_load((tuned.folder / "llm_config.yaml").read_text())
    assert resolved["trainer"]["batch_size"] == 4
    assert resolved["prompt"]["template"] == TEMPLATE
    tokenizer = AutoTokenizer.from_pretrained(tuned.folder)
    assert GenerationConfig.from_pretrained(tuned.folder).eos_token_id == tokenizer.eos_token_id
    assert not list(tuned.folder.rglob("*.bin")) + list(tuned.folder.rglob("*.pt"))
