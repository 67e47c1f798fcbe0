"""Several adapters beside one base, unmerged: each sequence of a batch gets its own, with PEFT's own results."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import Quantization
from llm_runner.errors import ConfigInvalid, ModelNotFound
from llm_runner.generate.engine_batch import Piece
from llm_runner.generate.engine_build import CachePlan, build_forward
from llm_runner.generate.engine_forward import PagedForward
from llm_runner.model.load import load_base
from llm_runner.model.silence import peft_silenced
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    PeftType,
    TaskType,
    VeraConfig,
    get_peft_model,
)
from transformers import PreTrainedModel

from tests.support.models import build_model, llama_config, neox_config, save_model

PLAN = CachePlan(context_tokens=256, concurrency=2)
ROW = torch.randint(2, 250, (30,), generator=torch.Generator().manual_seed(3)).tolist()
LORA: dict[str, Any] = {"task_type": TaskType.CAUSAL_LM, "r": 4, "lora_alpha": 16}
EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ADAPTERS: dict[str, PeftConfig] = {
    "lora on queries and values": LoraConfig(**LORA, target_modules=["q_proj", "v_proj"]),
    "lora everywhere, by patterns": LoraConfig(
        **LORA, target_modules=[*EVERYWHERE, "lm_head"], rank_pattern={"down_proj": 2}, alpha_pattern={"q_proj": 3}
    ),
    "rank-stabilized lora": LoraConfig(**LORA, use_rslora=True, target_modules=EVERYWHERE),
    "dora": LoraConfig(**LORA, use_dora=True, target_modules=["q_proj", "o_proj", "up_proj"]),
    "adalora": AdaLoraConfig(
        task_type=TaskType.CAUSAL_LM, init_r=4, target_r=2, total_step=10, target_modules=["q_proj", "down_proj"]
    ),
    "ia3": IA3Config(
        task_type=TaskType.CAUSAL_LM,
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "loha": LoHaConfig(task_type=TaskType.CAUSAL_LM, r=3, alpha=5, target_modules=EVERYWHERE),
    "vera": VeraConfig(task_type=TaskType.CAUSAL_LM, r=8, target_modules=EVERYWHERE),
}
BY_THE_LIBRARY: dict[str, PeftConfig] = {
    "with biases": LoraConfig(**LORA, bias="lora_only", target_modules=["q_proj"]),
    "with a whole module": LoraConfig(**LORA, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "with embeddings": LoraConfig(**LORA, target_modules=["q_proj", "embed_tokens"]),
    "lokr": LoKrConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=EVERYWHERE),
    "oft": OFTConfig(task_type=TaskType.CAUSAL_LM, oft_block_size=8, target_modules=EVERYWHERE),
    "boft": BOFTConfig(task_type=TaskType.CAUSAL_LM, boft_block_size=4, target_modules=EVERYWHERE),
}


def save_adapter(folder: Path, model: PreTrainedModel, config: PeftConfig, seed: int = 0) -> Path:
    """An adapter that changes something: all its weights are random."""
    with peft_silenced():
        adapted = get_peft_model(model, deepcopy(config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and "ranknum" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 3)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def base(**changes: Any) -> PreTrainedModel:
    return build_model(llama_config(tie_word_embeddings=False, **changes))


def peft_logits(model: PreTrainedModel, folder: Path | None) -> torch.Tensor:
    with peft_silenced():
        adapted: Any = model if folder is None else PeftModel.from_pretrained(model, str(folder))
    with torch.inference_mode():
        logits: torch.Tensor = adapted(input_ids=torch.tensor([ROW])).logits[0, -1]
    return logits


def mixed_logits(forward: Any, names: list[str | None]) -> torch.Tensor:
    """Of the same row with each adapter, read in one step but for its last token, and that in another."""
    last = len(ROW) - 1
    with torch.inference_mode():
        for end, start in ((last, 0), (last + 1, last)):
            pieces = [
                Piece(ROW[start:end], start, [2 * place, 2 * place + 1], sequence=place, adapter=name)
                for place, name in enumerate(names)
            ]
            logits: torch.Tensor = forward(pieces)
    return logits


@pytest.mark.parametrize("name", [*ADAPTERS, *BY_THE_LIBRARY])
def test_each_row_of_a_batch_gets_the_logits_that_peft_gives_with_its_adapter(name: str, tmp_path: Path) -> None:
    config = {**ADAPTERS, **BY_THE_LIBRARY}[name]
    other = ADAPTERS["lora on queries and values"] if config.peft_type == PeftType.LORA else config
    first = save_adapter(tmp_path / "first", base(), config, seed=1)
    second = save_adapter(tmp_path / "second", base(), other, seed=2)
    expected = torch.stack([peft_logits(base(), folder) for folder in (None, first, second)])
    assert not torch.allclose(expected[0], expected[1], atol=1e-2)
    forward, _ = build_forward(base(), PLAN)
    forward.adapters.add("first", first)
    forward.adapters.add("second.v2", second)
    torch.testing.assert_close(mixed_logits(forward, [None, "first", "second.v2"]), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_of_known_kinds_keep_our_own_decoder(name: str, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path, base(), ADAPTERS[name])
    forward, _ = build_forward(base(), PLAN)
    forward.adapters.add("one", folder)
    assert isinstance(forward, PagedForward)
    assert forward._lean is not None
    assert forward._lean.knows_adapter("one")


def test_adapters_work_on_models_that_the_library_runs(tmp_path: Path) -> None:
    config = LoraConfig(**LORA, target_modules=["query_key_value"])
    folder = save_adapter(tmp_path, build_model(neox_config()), config)
    expected = torch.stack([peft_logits(build_model(neox_config()), one) for one in (None, folder)])
    forward, _ = build_forward(build_model(neox_config()), PLAN)
    forward.adapters.add("one", folder)
    torch.testing.assert_close(mixed_logits(forward, [None, "one"]), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("bits", [4, 8])
def test_adapters_work_on_a_quantized_base(bits: int, tmp_path: Path) -> None:
    path = save_model(tmp_path / "base", llama_config(hidden_size=64, intermediate_size=128))
    quantization = Quantization.model_validate({"bits": bits})

    def quantized() -> PreTrainedModel:
        return load_base(path, quantization=quantization, dtype=torch.float32)

    folder = save_adapter(tmp_path / "adapter", quantized(), ADAPTERS["lora on queries and values"])
    expected = torch.stack([peft_logits(quantized(), one) for one in (None, folder)])
    forward, reason = build_forward(quantized(), PLAN)
    forward.adapters.add("one", folder)
    assert reason is None
    torch.testing.assert_close(mixed_logits(forward, [None, "one"]), expected, atol=2e-2, rtol=0)


def test_adapters_are_replaced_and_taken_away_while_others_stay(tmp_path: Path) -> None:
    config = ADAPTERS["lora on queries and values"]
    first, second = (save_adapter(tmp_path / str(seed), base(), config, seed) for seed in (1, 2))
    expected = torch.stack([peft_logits(base(), folder) for folder in (None, first, second)])
    forward, _ = build_forward(base(), PLAN)
    forward.adapters.add("one", first)
    forward.adapters.add("one", second)
    torch.testing.assert_close(mixed_logits(forward, [None, "one"]), expected[[0, 2]], atol=1e-4, rtol=0)
    forward.adapters.add("two", first)
    forward.adapters.remove("one")
    assert "one" not in forward.adapters
    torch.testing.assert_close(mixed_logits(forward, [None, "two"]), expected[[0, 1]], atol=1e-4, rtol=0)
    forward.adapters.remove("two")
    torch.testing.assert_close(mixed_logits(forward, [None]), expected[[0]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("is_first", [True, False])
def test_an_adapter_of_another_base_is_refused_and_all_else_goes_on(is_first: bool, tmp_path: Path) -> None:
    config = ADAPTERS["lora on queries and values"]
    good = save_adapter(tmp_path / "good", base(), config)
    wrong = save_adapter(tmp_path / "wrong", base(hidden_size=64), config)
    model = base()
    forward, _ = build_forward(model, PLAN)
    if not is_first:
        forward.adapters.add("good", good)
    with pytest.raises(ModelNotFound, match="do not go into this base model"):
        forward.adapters.add("wrong", wrong)
    with torch.inference_mode(), forward.adapters.using(None):
        bare = model(input_ids=torch.tensor([ROW])).logits[:, -1]
    torch.testing.assert_close(bare, peft_logits(base(), None)[None], atol=1e-4, rtol=0)
    forward.adapters.add("good", good)
    expected = torch.stack([peft_logits(base(), folder) for folder in (None, good)])
    torch.testing.assert_close(mixed_logits(forward, [None, "good"]), expected, atol=1e-4, rtol=0)


def test_adapters_of_unlike_types_do_not_go_together_but_one_after_the_other(tmp_path: Path) -> None:
    lora = save_adapter(tmp_path / "lora", base(), ADAPTERS["lora on queries and values"])
    ia3 = save_adapter(tmp_path / "ia3", base(), ADAPTERS["ia3"])
    forward, _ = build_forward(base(), PLAN)
    forward.adapters.add("lora", lora)
    with pytest.raises(ConfigInvalid, match="is of type ia3, and those that are served beside it are of type lora"):
        forward.adapters.add("ia3", ia3)
    forward.adapters.remove("lora")
    forward.adapters.add("ia3", ia3)
    expected = torch.stack([peft_logits(base(), ia3)])
    torch.testing.assert_close(mixed_logits(forward, ["ia3"]), expected, atol=1e-4, rtol=0)
