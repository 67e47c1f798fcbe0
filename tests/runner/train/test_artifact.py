"""What is stored is what was trained: loaded by plain PEFT or transformers, it gives the trained model's own logits."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from llm_runner.model.load import load_base
from llm_runner.model.pretrained import load_adapter
from llm_runner.train import run as run_module
from llm_runner.train.artifact import flatten
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from tests.support.runs import build_run, read_metrics, run_train

PROBE = torch.arange(2, 60)[None]
TRAINER = {"type": "finetune", "batch_size": 4, "learning_rate": 0.02, "epochs": 2}
MERGE = {"postprocessor": {"merge_adapter_into_base_model": True}}
ADAPTERS: dict[str, Any] = {
    "lora": {"type": "lora", "r": 4},
    "rslora": {"type": "lora", "r": 4, "use_rslora": True, "target_modules": "all-linear"},
    "dora": {"type": "lora", "r": 4, "use_dora": True},
    "biases": {"type": "lora", "r": 4, "bias_type": "all"},
    "pissa": {"type": "lora", "r": 4, "init_lora_weights": "pissa"},
    "olora": {"type": "lora", "r": 4, "init_lora_weights": "olora"},
    "eva": {"type": "lora", "r": 4, "target_modules": "all-linear", "init_lora_weights": "eva"},
    "adalora": {"type": "adalora", "init_r": 6, "target_r": 1},
    "given ranks": {"type": "adalora", "init_r": 6, "rank_pattern": {"q_proj": 2}, "target_r": 1, "use_rslora": True},
    "ia3": {"type": "ia3"},
    "vera": {"type": "vera", "r": 16, "projection_prng_key": 5},
    "loha": {"type": "loha", "r": 4},
    "lokr": {"type": "lokr", "r": 2},
    "oft": {"type": "oft", "oft_block_size": 8},
    "coft": {"type": "oft", "r": 4, "coft": True, "eps": 2},
    "boft": {"type": "boft", "boft_dropout": 0.25},
    "full": None,
    "pissa merged": {"type": "lora", "r": 4, "init_lora_weights": "pissa", **MERGE},
    "lora merged": {"type": "lora", "r": 4, **MERGE},
    "adalora merged": {"type": "adalora", "init_r": 6, "target_r": 1, **MERGE},
    "given ranks merged": {"type": "adalora", "init_r": 6, "rank_pattern": {"q_proj": 2}, "target_r": 1, **MERGE},
    "ia3 merged": {"type": "ia3", **MERGE},
    "vera merged": {"type": "vera", "r": 16, **MERGE},
    "loha merged": {"type": "loha", "r": 4, **MERGE},
    "lokr merged": {"type": "lokr", "r": 2, **MERGE},
    "oft merged": {"type": "oft", "oft_block_size": 8, **MERGE},
    "boft merged": {"type": "boft", **MERGE},
}


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=PROBE, use_cache=False).logits  # type: ignore[no-any-return]


def tune(name: str, model_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, torch.Tensor]:
    """The artifact, and the logits of the model that it was made of."""
    seen: list[torch.Tensor] = []
    save_weights = run_module.save_weights

    def note(run: Any, inputs: Any, model: Any, *others: Any) -> Any:
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        base.set_attn_implementation("sdpa")
        seen.append(logits_of(base))
        return save_weights(run, inputs, model, *others)

    monkeypatch.setattr(run_module, "save_weights", note)
    adapter = ADAPTERS[name]
    config = {"trainer": TRAINER} if adapter is None else {"trainer": TRAINER, "adapter": adapter}
    run = build_run(folder, model_path, config)
    run_train(run, folder / "work")
    return Path(run.output_uri), seen[0]


@pytest.mark.proves("adapter.postprocessor.merge_adapter_into_base_model")
# PEFT reads the ranks that AdaLoRA left by names that it then says it does not know.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing", "ignore:The following rank_pattern keys")
@pytest.mark.parametrize("name", ADAPTERS)
def test_it_loads_elsewhere_with_the_same_logits(
    name: str, llama_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = tune(name, llama_path, tmp_path, monkeypatch)
    assert not torch.allclose(expected, logits_of(load_base(llama_path, dtype=torch.float32)), atol=1e-2)
    if ADAPTERS[name] is None or "merged" in name:
        assert not list(folder.glob("adapter*"))
        models = [AutoModelForCausalLM.from_pretrained(folder)]
    else:
        base = AutoModelForCausalLM.from_pretrained(llama_path)
        models = [PeftModel.from_pretrained(base, str(folder)), AutoPeftModelForCausalLM.from_pretrained(str(folder))]
        models.append(load_adapter(load_base(llama_path, dtype=torch.float32), folder))
    for model in models:
        torch.testing.assert_close(logits_of(model), expected, rtol=1e-4, atol=1e-4)


def test_a_merged_model_does_as_well_as_its_adapter(
    llama_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = tune("lora merged", llama_path, tmp_path, monkeypatch)
    figures = read_metrics(folder)["eval"]
    assert figures["merged_loss"] == pytest.approx(figures["loss"], abs=1e-4)
    assert figures["loss"] < figures["base_loss"]


def test_the_best_weights_are_stored_where_later_ones_were_worse(llama_path: Path, tmp_path: Path) -> None:
    """The training rows answer other than the hold-out, so that each step makes it worse."""
    config = {"trainer": {**TRAINER, "learning_rate": 0.05, "epochs": 6, "early_stop": 2}, "adapter": ADAPTERS["lora"]}
    run = build_run(tmp_path, llama_path, config, hold_out=4)
    validation = tmp_path / "validation.csv"
    validation.write_text("question,answer\nWhere is it?,~~~ ### @@@\nAnd that?,^^^ $$$\n")
    run_train(run, tmp_path / "work")
    metrics = read_metrics(Path(run.output_uri))
    curve = (Path(run.output_uri) / "loss_curve.csv").read_text()
    evaluated = [float(line.split(",")[4]) for line in curve.splitlines()[1:] if line.split(",")[4]]
    assert metrics["train"]["stopped_early"] is True
    assert metrics["train"]["best_step"] < metrics["train"]["steps"]
    assert metrics["eval"]["loss"] == pytest.approx(min(evaluated), abs=1e-6)
    assert evaluated[-1] > min(evaluated)


def test_what_generation_was_told_and_where_to_stop_is_stored(llama_path: Path, tmp_path: Path) -> None:
    config = {"trainer": TRAINER, "adapter": ADAPTERS["lora"], "generation": {"temperature": 0.3, "max_new_tokens": 9}}
    run = build_run(tmp_path, llama_path, config)
    run_train(run, tmp_path / "work")
    stored = GenerationConfig.from_pretrained(run.output_uri)
    assert (stored.eos_token_id, stored.bos_token_id) == (1, 0)
    assert (stored.temperature, stored.max_new_tokens, stored.do_sample) == (0.3, 9, True)
    resolved = yaml.safe_load((Path(run.output_uri) / "llm_config.yaml").read_text())
    assert resolved["generation"]["temperature"] == 0.3
    assert resolved["trainer"]["epochs"] == 2


def test_a_second_artifact_takes_the_place_of_the_first(
    llama_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune("lora", llama_path, tmp_path, monkeypatch)
    shutil.rmtree(tmp_path / "work")
    folder, _ = tune("full", llama_path, tmp_path, monkeypatch)
    assert not list(folder.glob("adapter*"))
    assert (folder / "model.safetensors").is_file()


def test_nested_settings_are_shown_by_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}
