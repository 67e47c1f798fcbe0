"""The estimate of a fine-tune's memory: near what is measured, and right about what makes it larger."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import (
    BoftAdapter,
    LohaAdapter,
    LokrAdapter,
    LoraAdapter,
    OftAdapter,
    Quantization,
    VeraAdapter,
)
from llm_api.config.adapter import AnyAdapter
from llm_runner.errors import ConfigInvalid, OutOfMemory, TargetModulesNotFound
from llm_runner.model.adapter import add_adapter, count_trainable
from llm_runner.model.load import load_base
from llm_runner.model.memory import (
    GIB,
    MemoryEstimate,
    MemoryPlan,
    available_memory,
    check_memory,
    container_limit,
    estimate_memory,
)
from llm_runner.train.lora import fuse_lora
from transformers import LlamaConfig, PreTrainedModel

from tests.support.models import build_model, llama_config, save_model

LORA = LoraAdapter(type="lora")
PLAN = MemoryPlan(batch_tokens=256, dtype=torch.float32, adapter=LORA)
LLAMA_7B = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)


@pytest.fixture(scope="module")
def config() -> LlamaConfig:
    return llama_config(hidden_size=64, intermediate_size=160, num_hidden_layers=4)


def stored_bytes(model: PreTrainedModel) -> int:
    """Bytes of all parameters, with the scales of quantized ones."""
    total = 0
    for parameter in model.parameters():
        state: Any = getattr(parameter, "quant_state", None)
        total += parameter.nbytes + (0 if state is None else state.absmax.nbytes)
        if state is not None and state.nested:
            total += state.state2.absmax.nbytes
    return total


def kept_for_backward(model: PreTrainedModel, tokens: int) -> int:
    """Bytes of everything that a forward pass keeps, but for what is there anyway."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = model.get_decoder()(torch.ones(1, tokens, dtype=torch.long), use_cache=False).last_hidden_state
    assert hidden.requires_grad
    return sum(size for address, size in kept.items() if address not in weights)


@pytest.mark.proves("quantization.bits", "quantization.bnb_4bit_use_double_quant")
@pytest.mark.parametrize(
    "quantization",
    [None, Quantization(bits=4), Quantization(bits=4, bnb_4bit_use_double_quant=False), Quantization(bits=8)],
    ids=["plain", "double", "single", "int8"],
)
def test_weights_are_what_the_loaded_model_holds(
    quantization: Quantization | None, config: LlamaConfig, tmp_path: Path
) -> None:
    path = save_model(tmp_path, config)
    model = load_base(path, quantization=quantization, dtype=torch.float32)
    estimate = estimate_memory(config, replace(PLAN, quantization=quantization))
    assert estimate.weights_bytes == pytest.approx(stored_bytes(model), rel=0.03)


def test_the_trained_part_is_the_adapters_weights_gradients_and_two_states(config: LlamaConfig) -> None:
    trained = count_trainable(add_adapter(build_model(config), LORA, 10))
    assert estimate_memory(config, PLAN).trained_bytes == trained * 4 * 4
    assert estimate_memory(config, replace(PLAN, optimizer="paged_adamw_8bit")).trained_bytes == trained * (8 + 2)
    assert estimate_memory(config, replace(PLAN, optimizer="sgd")).trained_bytes == trained * 3 * 4


NEEDING_MORE: dict[str, AnyAdapter] = {
    "vera": VeraAdapter(type="vera", target_modules="all-linear"),
    "loha": LohaAdapter(type="loha", target_modules="all-linear"),
    "lokr": LokrAdapter(type="lokr", r=2, target_modules="all-linear"),
    "oft": OftAdapter(type="oft", target_modules="all-linear"),
    "boft": BoftAdapter(type="boft", boft_dropout=0, target_modules="all-linear"),
}
NO_DROPOUT = LORA.model_copy(update={"dropout": 0.0})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("adapter", [NO_DROPOUT, None, *NEEDING_MORE.values()], ids=["lora", "full", *NEEDING_MORE])
def test_activations_are_near_what_a_forward_pass_keeps(
    config: LlamaConfig, adapter: AnyAdapter | None, dtype: torch.dtype
) -> None:
    model = build_model(config, dtype=dtype)
    if adapter is not None:
        fuse_lora(add_adapter(model, adapter, 10))
    model.train()
    estimate = estimate_memory(config, replace(PLAN, adapter=adapter, dtype=dtype))
    # On a CPU the estimate holds what the allocator adds, too.
    assert estimate.activations_bytes / 1.45 == pytest.approx(kept_for_backward(model, 256), rel=0.25)


@pytest.mark.parametrize("kind", NEEDING_MORE)
def test_what_other_types_train_and_hold_is_what_peft_makes_of_them(config: LlamaConfig, kind: str) -> None:
    adapter = NEEDING_MORE[kind]
    adapted = add_adapter(build_model(config), adapter, 10)
    buffers = {name: one for name, one in adapted.named_buffers() if "vera_" in name or "boft_P" in name}
    held = sum(one.nbytes for one in buffers.values())
    assert (held > 0) == (kind in ("vera", "boft"))
    assert estimate_memory(config, replace(PLAN, adapter=adapter)).trained_bytes == (
        count_trainable(adapted) * 4 * 4 + held
    )


@pytest.mark.parametrize("kind", NEEDING_MORE)
@pytest.mark.parametrize("wanted", [["embed_tokens"], ["nothing_like_it"], ".*(q_proj"])
def test_modules_that_can_not_be_adapted_are_named_before_anything_is_measured(
    config: LlamaConfig, kind: str, wanted: Any
) -> None:
    adapter = NEEDING_MORE[kind].model_copy(update={"target_modules": wanted})
    with pytest.raises((ConfigInvalid, TargetModulesNotFound), match=r"^adapter\.t"):
        estimate_memory(config, replace(PLAN, adapter=adapter))


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_in_the_base_is_held_as_long_as_the_model(config: LlamaConfig, start: str) -> None:
    adapter = LORA.model_copy(update={"init_lora_weights": start})
    adapted = add_adapter(build_model(config), adapter, 10)
    kept = sum(one.nbytes for name, one in adapted.named_buffers() if ".start_" in name)
    estimate = estimate_memory(config, replace(PLAN, adapter=adapter))
    assert estimate.trained_bytes == estimate_memory(config, PLAN).trained_bytes + kept
    assert kept > 0


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_shared_out_layers_are_held_by_their_share_and_two_of_them_whole(
    config: LlamaConfig, adapter: AnyAdapter | None
) -> None:
    model = build_model(config)
    layers = sum(one.numel() for one in model.model.layers.parameters())
    outside = sum(one.numel() for one in model.parameters()) - layers
    whole, shared = (estimate_memory(config, replace(PLAN, adapter=adapter, shared_by=n)) for n in (1, 8))
    assert whole.weights_bytes == 4 * (outside + layers)
    assert shared.weights_bytes == pytest.approx(4 * (outside + layers / 8 + 2 * layers / 4), rel=0.001)
    numbers = outside + layers / 8 if adapter is None else whole.trained_bytes / (4 * 4) / 8
    assert shared.trained_bytes == pytest.approx(numbers * (4 * 3 if adapter is None else 4 * 4), rel=0.001)
    assert shared.activations_bytes == whole.activations_bytes


def test_the_processes_of_a_cpu_have_equal_parts_of_its_memory() -> None:
    alone, one_of_four = available_memory(), available_memory(processes=4)
    assert one_of_four < alone
    assert 4 * one_of_four > alone / 2


@pytest.fixture
def variants(config: LlamaConfig) -> dict[str, MemoryEstimate]:
    plans = {
        "plain": PLAN,
        "longer": replace(PLAN, batch_tokens=512),
        "checkpointed": replace(PLAN, gradient_checkpointing=True),
        "full": replace(PLAN, adapter=None),
        "quantized": replace(PLAN, quantization=Quantization(bits=4)),
        "dequantized": replace(PLAN, quantization=Quantization(bits=4), dequantized=True),
    }
    return {name: estimate_memory(config, plan) for name, plan in plans.items()}


def test_what_a_plan_changes_goes_the_right_way(variants: dict[str, MemoryEstimate]) -> None:
    plain = variants["plain"]
    assert variants["longer"].activations_bytes == pytest.approx(2 * plain.activations_bytes, abs=2)
    assert variants["checkpointed"].activations_bytes < plain.activations_bytes / 2
    assert variants["full"].total_bytes > plain.total_bytes
    assert variants["quantized"].weights_bytes < plain.weights_bytes / 2
    assert variants["dequantized"].weights_bytes == plain.weights_bytes


def test_a_7b_model_in_four_bits_fits_where_it_is_known_to() -> None:
    """QLoRA (arXiv:2305.14314) tunes 7B on a GPU of 24 GB, where 16-bit full fine-tuning needs more than 60."""
    qlora = replace(PLAN, batch_tokens=2048, dtype=torch.bfloat16, quantization=Quantization(bits=4))
    assert 6 * GIB < estimate_memory(LLAMA_7B, qlora, "cuda").total_bytes < 22 * GIB
    assert estimate_memory(LLAMA_7B, replace(qlora, adapter=None, quantization=None)).total_bytes > 60 * GIB


def test_too_little_memory_is_said_with_numbers_and_what_to_change() -> None:
    plan = MemoryPlan(batch_tokens=2048, dtype=torch.bfloat16)
    estimate = MemoryEstimate(12 * GIB, 36 * GIB, 10 * GIB, GIB, GIB)
    with pytest.raises(OutOfMemory) as caught:
        check_memory(estimate, 8 * GIB, plan)
    message = str(caught.value)
    assert "needs about 60.0 GiB" in message
    assert "there are 8.0 GiB" in message
    for advice in ("adapter: {type: lora}", "quantization: {bits: 4}", "enable_gradient_checkpointing", "global_max"):
        assert advice in message
    check_memory(estimate, 60 * GIB, plan)


def test_what_is_done_already_is_not_advised() -> None:
    plan = replace(PLAN, quantization=Quantization(bits=4), gradient_checkpointing=True)
    with pytest.raises(OutOfMemory, match=r"there are 0\.0 GiB\. Try a smaller preprocessing"):
        check_memory(MemoryEstimate(GIB, 0, 0, 0, 0), 0, plan)


def test_free_memory_is_at_most_the_containers_limit(tmp_path: Path) -> None:
    assert available_memory() > GIB / 4
    assert container_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert container_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("123456\n")
    assert container_limit(tmp_path) == 123456


def test_the_limit_of_older_control_groups_counts_too(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    limit = tmp_path / "memory" / "memory.limit_in_bytes"
    limit.write_text("9223372036854771712\n")
    assert container_limit(tmp_path) is None
    limit.write_text("777\n")
    assert container_limit(tmp_path) == 777
