"""AdaLoRA with ranks that an earlier run has found: layers have them, learn, and are stored as any other's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import AdaLoraAdapter
from llm_runner.errors import ConfigInvalid
from llm_runner.model.adapter import add_adapter
from llm_runner.model.load import load_base, load_tokenizer
from llm_runner.model.pretrained import load_adapter
from llm_runner.model.save import BaseName, save_adapter
from llm_runner.train.allocator import RankAllocator, build_allocator
from peft import PeftModel
from peft.tuners.adalora import AdaLoraLayer

# PEFT asks transformers by a deprecated name whether gradients are checkpointed, and takes names for patterns.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing", "ignore:The following rank_pattern keys")

STEPS = 6


def adapted(path: Path, rank_pattern: dict[str, Any], dtype: torch.dtype = torch.float32) -> PeftModel:
    keys = {"type": "adalora", "init_r": 4, "target_r": 2, "dropout": 0.0, "rank_pattern": rank_pattern}
    torch.manual_seed(3)
    return add_adapter(load_base(path, dtype=dtype), AdaLoraAdapter.model_validate(keys), STEPS)


def ranks_of(model: PeftModel) -> dict[str, int]:
    """By layer and projection, as in 0.q_proj."""
    layers = {
        name.split(".")[-3] + "." + name.split(".")[-1]: one
        for name, one in model.named_modules()
        if isinstance(one, AdaLoraLayer)
    }
    return {name: len(one.lora_E["default"]) for name, one in layers.items()}


def train(model: PeftModel, token_ids: torch.Tensor) -> list[float]:
    optimizer = torch.optim.AdamW((one for one in model.parameters() if one.requires_grad), lr=0.05)
    allocator = build_allocator(model)
    assert isinstance(allocator, RankAllocator)
    losses = []
    for step in range(STEPS):
        loss = model(input_ids=token_ids, labels=token_ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        allocator.after_update(step + 1)
        losses.append(loss.item())
    return losses


@pytest.mark.proves("adapter.rank_pattern[adalora]")
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({"q_proj": 3}, {"0.q_proj": 3, "0.v_proj": 4, "1.q_proj": 3, "1.v_proj": 4}),
        ({"layers.1.self_attn.v_proj": [False, True, False, True]}, {"0.v_proj": 4, "1.q_proj": 4, "1.v_proj": 2}),
        ({"base_model.model.model.layers.0.self_attn.v_proj.lora_E": 1, "q_proj": 2}, {"0.v_proj": 1, "1.q_proj": 2}),
    ],
    ids=["names", "paths", "as PEFT stores them"],
)
def test_a_layer_has_the_rank_that_is_given_and_no_rank_is_moved(
    pattern: dict[str, Any], expected: dict[str, int], llama_path: Path, token_ids: torch.Tensor
) -> None:
    model = adapted(llama_path, pattern)
    given = ranks_of(model)
    assert given | expected == given
    losses = train(model, token_ids)
    assert losses[-1] < losses[0]
    assert ranks_of(model) == given
    assert all((one.lora_E["default"] != 0).all() for one in model.modules() if isinstance(one, AdaLoraLayer))


def test_it_is_stored_with_its_ranks_and_loads_as_it_was(
    llama_path: Path, tmp_path: Path, token_ids: torch.Tensor
) -> None:
    model = adapted(llama_path, {"q_proj": 3, "layers.1.self_attn.v_proj": 1})
    train(model, token_ids)
    save_adapter(model, tmp_path, base=BaseName("acme/base"), tokenizer=load_tokenizer(llama_path))
    stored = json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    assert sorted(sum(rank) for rank in stored.values()) == [1, 3, 3]
    loaded = load_adapter(load_base(llama_path, dtype=torch.float32), tmp_path)
    assert ranks_of(loaded) == ranks_of(model)
    torch.testing.assert_close(loaded(input_ids=token_ids).logits, model.eval()(input_ids=token_ids).logits)
    assert ranks_of(adapted(llama_path, stored)) == ranks_of(model)


def test_beside_a_base_of_16_bits_it_is_held_in_float32(llama_path: Path) -> None:
    model = adapted(llama_path, {"q_proj": 2}, torch.bfloat16)
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}


def test_a_name_of_no_layer_is_told_with_what_layers_are_called(llama_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"'layers\.0\.up_proj' is no layer .* like model\.layers\.0\.self_attn"):
        adapted(llama_path, {"layers.0.up_proj": 2})
