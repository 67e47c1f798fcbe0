"""EVA's start is PEFT's own over padded batches with a mask; ranks move, the model stays, and both are stored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import LoraAdapter, Quantization
from llm_runner.errors import ConfigInvalid
from llm_runner.model.adapter import add_adapter, count_trainable
from llm_runner.model.load import load_base, load_tokenizer
from llm_runner.model.save import BaseName, save_adapter
from llm_runner.train import eva
from llm_runner.train.batch import pad
from llm_runner.train.eva import group_rows, start_by_eva
from peft import PeftModel, initialize_lora_eva_weights
from peft.tuners.lora import LoraLayer
from torch import Tensor

from tests.support.models import neox_config, save_model
from tests.support.rows import TokenRows, make_row, random_rows

# PEFT asks transformers by a deprecated name whether gradients are checkpointed, and advises on its own options.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:lora with eva")

ROWS = random_rows(200)
PROBE = torch.arange(2, 60)[None]
EVERYWHERE = {"r": 4, "target_modules": "all-linear"}


def eva_adapter(**keys: Any) -> LoraAdapter:
    settings = {"type": "lora", "init_lora_weights": "eva", "dropout": 0, **EVERYWHERE, **keys}
    return LoraAdapter.model_validate(settings)


def build(path: Path, adapter: LoraAdapter, dtype: torch.dtype = torch.float32) -> PeftModel:
    return add_adapter(load_base(path, dtype=dtype), adapter, 50)


def started(path: Path, adapter: LoraAdapter, rows: TokenRows = ROWS, dtype: torch.dtype = torch.float32) -> PeftModel:
    model = build(path, adapter, dtype)
    start_by_eva(model, adapter, rows)
    return model


def started_by_peft(path: Path, adapter: LoraAdapter) -> PeftModel:
    """With PEFT's own functions for masks, on the same groups of rows, padded."""
    model, batches = build(path, adapter), []
    least = round(adapter.r * adapter.effective_eva.rho)
    for group in group_rows(ROWS, least, adapter.effective_eva.use_label_mask):
        padded = pad(group, torch.device("cpu"))
        labels = torch.full_like(padded.input_ids, -100)
        for place, row in enumerate(group):
            labels[place, row.prompt_length : len(row.token_ids)] = torch.from_numpy(row.token_ids[row.prompt_length :])
        batches.append({"input_ids": padded.input_ids, "attention_mask": padded.attention_mask, "labels": labels})
    initialize_lora_eva_weights(model, batches, show_progress_bar=False)
    return model


def matrices(model: PeftModel) -> dict[str, Tensor]:
    layers = {name: one for name, one in model.named_modules() if isinstance(one, LoraLayer)}
    return {name: layer.lora_A["default"].weight.detach() for name, layer in layers.items()}


def scales(model: PeftModel) -> dict[str, float]:
    layers = {name: one for name, one in model.named_modules() if isinstance(one, LoraLayer)}
    return {name: layer.scaling["default"] for name, layer in layers.items()}


@pytest.mark.proves("adapter.eva_config.rho", "adapter.eva_config.tau", "adapter.eva_config.use_label_mask")
@pytest.mark.proves("adapter.eva_config.whiten", "adapter.eva_config.adjust_scaling_factors")
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"use_label_mask": False},
        {"rho": 1},
        {"rho": 3.0, "tau": 0.9},
        {"whiten": True},
        {"adjust_scaling_factors": False},
    ],
    ids=str,
)
def test_directions_ranks_and_scales_are_pefts_own_over_padded_batches(keys: dict[str, Any], llama_path: Path) -> None:
    adapter = eva_adapter(eva_config=keys)
    ours, plain = started(llama_path, adapter), started_by_peft(llama_path, adapter)
    found, expected = matrices(ours), matrices(plain)
    assert {name: one.shape for name, one in found.items()} == {name: one.shape for name, one in expected.items()}
    for name, directions in found.items():
        cosines = torch.nn.functional.cosine_similarity(directions, expected[name]).abs()
        assert float(cosines.min()) > 0.999
    assert scales(ours) == pytest.approx(scales(plain))
    ranks = {one.shape[0] for one in found.values()}
    assert (ranks == {4}) == (keys.get("rho") == 1)
    assert max(ranks) <= 4 * keys.get("rho", 2)
    kept = keys.get("adjust_scaling_factors", True)
    assert (set(scales(ours).values()) == {2.0}) == kept


def test_each_key_changes_what_is_found(llama_path: Path) -> None:
    plain = matrices(started(llama_path, eva_adapter(eva_config={"rho": 1})))
    for keys in ({"rho": 1, "use_label_mask": False}, {"rho": 1, "whiten": True}, {"rho": 1, "tau": 0.2}):
        other = matrices(started(llama_path, eva_adapter(eva_config=keys)))
        assert any(not torch.allclose(plain[name], other[name], atol=1e-3) for name in plain)


@pytest.mark.proves("adapter.init_lora_weights")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "keys", [{}, {"use_dora": True}, {"use_rslora": True}, {"rank_pattern": {"up_proj": 2}}], ids=str
)
def test_the_model_starts_as_the_base_and_is_trained_in_float32(
    keys: dict[str, Any], dtype: torch.dtype, llama_path: Path
) -> None:
    model = started(llama_path, eva_adapter(**keys), dtype=dtype)
    base = load_base(llama_path, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=PROBE).logits, base(PROBE).logits, atol=tolerance, rtol=tolerance)
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    assert count_trainable(model) > 0


def test_what_is_stored_has_its_ranks_and_loads_with_plain_peft(llama_path: Path, tmp_path: Path) -> None:
    model = started(llama_path, eva_adapter())
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(5))
    save_adapter(model, tmp_path, base=BaseName("acme/base"), tokenizer=load_tokenizer(llama_path))
    again = PeftModel.from_pretrained(load_base(llama_path, dtype=torch.float32), str(tmp_path))
    assert again.peft_config["default"].rank_pattern  # type: ignore[union-attr]
    assert {name: one.shape for name, one in matrices(again).items()} == {
        name: one.shape for name, one in matrices(model).items()
    }
    torch.testing.assert_close(again(input_ids=PROBE).logits, model.eval()(input_ids=PROBE).logits)


def test_models_that_need_padding_start_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_model(tmp_path, neox_config())
    flat = matrices(started(path, eva_adapter()))
    monkeypatch.setattr(eva, "choose_forward", lambda model: (None, "not flat"))
    padded = matrices(started(path, eva_adapter()))
    assert {name: one.shape for name, one in flat.items()} == {name: one.shape for name, one in padded.items()}
    for name, directions in flat.items():
        assert float(torch.nn.functional.cosine_similarity(directions, padded[name]).abs().min()) > 0.999


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_base_starts_near_the_full_one(bits: int, llama_path: Path) -> None:
    adapter = eva_adapter(eva_config={"rho": 1})
    quantization = Quantization.model_validate({"bits": bits})
    model = add_adapter(load_base(llama_path, quantization=quantization, dtype=torch.float32), adapter, 50)
    start_by_eva(model, adapter, ROWS)
    full = matrices(started(llama_path, adapter))
    found = matrices(model)
    # The first layer's queries see the embeddings, which are as they were.
    first = next(name for name in full if "layers.0." in name and "q_proj" in name)
    assert float(torch.nn.functional.cosine_similarity(found[first], full[first]).abs().min()) > 0.999
    assert found.keys() == full.keys()


def test_too_few_tokens_or_inputs_for_the_rank_are_said(llama_path: Path) -> None:
    with pytest.raises(
        ConfigInvalid, match=r"eva needs 60 tokens to look at .* training rows have \d+; write a smaller r"
    ):
        started(llama_path, eva_adapter(r=30), random_rows(2, longest=20))
    with pytest.raises(ConfigInvalid, match=r"adapter\.r: EVA looks for up to 80 directions"):
        started(llama_path, eva_adapter(r=40))


def test_a_pass_is_bounded_where_few_positions_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eva, "MOST_TOKENS", 100)
    rows = TokenRows([make_row([5] * 40, 39) for _ in range(50)])
    with pytest.raises(ConfigInvalid, match=r"use_label_mask: EVA needs 20 tokens of answers .* more than 100 of prom"):
        list(group_rows(rows, 20, answers_only=True))
    assert len(next(group_rows(rows, 20, answers_only=False))) == 26


def test_directions_that_never_settle_end_with_what_to_write(llama_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eva, "MOST_BATCHES", 5)
    with pytest.raises(ConfigInvalid, match=r"adapter\.eva_config\.tau: .* not settled after 5 batches"):
        started(llama_path, eva_adapter(eva_config={"tau": 1.0}))
