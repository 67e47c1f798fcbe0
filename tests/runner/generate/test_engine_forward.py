"""The forward pass over the block-wise cache gives the library's own logits, whatever else is in the batch."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from llm_runner.generate.engine_batch import Piece
from llm_runner.generate.engine_build import CachePlan, build_forward
from llm_runner.generate.engine_forward import PagedForward
from llm_runner.generate.engine_request import Request
from llm_runner.generate.engine_serial import SerialForward
from llm_runner.generate.lean import LeanDecoder
from llm_runner.generate.lean_projection import WIDE_ROWS, Projection, can_pack, is_faster_in_float32
from transformers import (
    BloomConfig,
    Gemma2Config,
    GemmaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tests.support.engines import ask, running_engine
from tests.support.models import SIZES, build_model, gpt2_config, llama_config, neox_config

PLAN = CachePlan(context_tokens=256, concurrency=2)
GROUPED: dict[str, Any] = {
    **SIZES,
    "intermediate_size": 64,
    "num_key_value_heads": 2,
    "vocab_size": 258,
    "max_position_embeddings": 256,
}
LEAN = {
    "llama": llama_config(),
    "llama with scaled positions": llama_config(
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    ),
    "llama with biases": llama_config(attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**GROUPED, sliding_window=7, head_dim=16),
    "qwen 2": Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=9, max_window_layers=1),
    "qwen 3": Qwen3Config(**GROUPED, head_dim=16),
    "gemma": GemmaConfig(**GROUPED, head_dim=16, hidden_activation="gelu_pytorch_tanh"),
}
PAGED = {
    "gpt 2": gpt2_config(),
    "gpt neox": neox_config(),
    "gemma 2": Gemma2Config(**GROUPED, head_dim=16, sliding_window=8),
}
SERIAL = {
    "bloom": BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=258),
    "dynamic positions": llama_config(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
}


def uneven_model(config: PretrainedConfig) -> PreTrainedModel:
    """Biases and norms that would not go unnoticed if they were left out."""
    model = build_model(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
    return model


def token_rows(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, 250, (length,), generator=generator).tolist() for length in lengths]


def library_logits(model: PreTrainedModel, row: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]
    return logits


def run(forward: Any, *pieces: Piece) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = forward(pieces)
    return logits


def pieces_in_parts(rows: Sequence[Sequence[int]]) -> list[list[Piece]]:
    """Three steps of a mixed batch: a long prompt in two parts, a short one that is continued, a third that joins."""
    first, second, third = rows
    return [
        [Piece(first[:20], 0, [5, 2], 1, wants_logits=False), Piece(second[:-2], 0, [0], 2)],
        [Piece(second[-2:-1], len(second) - 2, [0], 2), Piece(first[20:], 20, [5, 2, 9], 1)],
        [Piece(second[-1:], len(second) - 1, [0], 2), Piece(third, 0, [7], 3)],
    ]


@pytest.mark.parametrize("name", [*LEAN, *PAGED, *SERIAL])
def test_logits_are_the_librarys_alone_and_in_mixed_batches(name: str) -> None:
    config: PretrainedConfig = {**LEAN, **PAGED, **SERIAL}[name]
    model = uneven_model(config)
    rows = token_rows(40, 12, 9)
    expected = [library_logits(model, row) for row in (rows[1][:-2], rows[1][:-1], rows[0], rows[1], rows[2])]
    forward, _ = build_forward(model, PLAN)
    found = torch.cat([run(forward, *pieces) for pieces in pieces_in_parts(rows)])
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [*LEAN, *PAGED])
def test_they_are_so_where_nothing_is_compiled_as_on_an_accelerator(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lean", "engine_attention", "engine_forward"):
        monkeypatch.setattr(f"llm_runner.generate.{module}.can_compile", lambda *_: False)
    test_logits_are_the_librarys_alone_and_in_mixed_batches(name)


@pytest.mark.parametrize("name", ["llama", "gpt 2", "bloom"])
def test_a_step_in_which_nobody_goes_on_gives_no_logits(name: str) -> None:
    forward, _ = build_forward(build_model({**LEAN, **PAGED, **SERIAL}[name]), PLAN)
    assert run(forward, Piece(token_rows(12)[0], 0, [0], wants_logits=False)).shape == (0, 258)


@pytest.mark.parametrize("name", LEAN)
def test_architectures_like_llama_run_on_a_decoder_of_our_own(name: str) -> None:
    forward, reason = build_forward(build_model(LEAN[name]), PLAN)
    assert isinstance(forward, PagedForward)
    assert reason is None


@pytest.mark.parametrize("name", PAGED)
def test_others_run_as_the_librarys_model_over_the_same_cache(name: str) -> None:
    forward, reason = build_forward(build_model(PAGED[name]), PLAN)
    assert isinstance(forward, PagedForward)
    assert reason is not None
    assert "not of a form that it knows" in reason


@pytest.mark.parametrize("name", SERIAL)
def test_what_can_not_be_run_over_the_cache_runs_sequence_by_sequence(name: str) -> None:
    forward, reason = build_forward(build_model(SERIAL[name]), PLAN)
    assert isinstance(forward, SerialForward)
    assert reason


def test_the_librarys_model_still_generates_by_itself_beside_the_engine() -> None:
    model = build_model(llama_config())
    prompt = torch.tensor(token_rows(12))
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "num_beams": 3}
    expected = model.generate(prompt, **options)
    forward, _ = build_forward(model, PLAN)
    run(forward, Piece(token_rows(20)[0], 0, [0, 1]))
    assert torch.equal(model.generate(prompt, **options), expected)


def test_fused_weights_take_no_memory_beside_those_they_are_made_of() -> None:
    model = build_model(llama_config())
    build_forward(model, PLAN)
    attention: Any = model.get_submodule("model.layers.0.self_attn")
    parts = (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1


def test_the_cache_is_as_large_as_memory_allows_and_no_larger_than_is_of_use() -> None:
    model = build_model(llama_config())
    useful, _ = build_forward(model, CachePlan(context_tokens=256, concurrency=4))
    scarce, _ = build_forward(model, CachePlan(context_tokens=256, concurrency=4, max_bytes=100_000))
    assert useful.block_count == 4 * 256 // 16
    token_bytes = 2 * 2 * 2 * 8 * 4
    assert scarce.block_count == 100_000 // (16 * token_bytes)


def test_blocks_that_may_hold_no_numbers_are_overwritten() -> None:
    model = build_model(llama_config())
    forward, _ = build_forward(model, PLAN)
    assert isinstance(forward, PagedForward)
    row = token_rows(12)[0]
    with torch.no_grad():
        healthy = model.get_input_embeddings().weight.clone()
        model.get_input_embeddings().weight.fill_(float("nan"))
    run(forward, Piece(row, 0, [3]))
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(healthy)
    with torch.inference_mode():
        forward.forget(1, [3])
    run(forward, Piece(row[:5], 0, [3]))
    torch.testing.assert_close(run(forward, Piece(row[5:6], 5, [3])), run(forward, Piece(row[:6], 0, [4])))


def test_greedy_answers_are_the_librarys_token_by_token_in_a_batch_of_unlike_prompts() -> None:
    model = build_model(llama_config())
    prompts = token_rows(70, 3, 25, 41)
    expected = []
    for prompt in prompts:
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False, pad_token_id=0, eos_token_id=1)
        answer = ids[0, len(prompt) :].tolist()
        expected.append(answer[: answer.index(1)] if 1 in answer else answer)
    forward, _ = build_forward(model, PLAN)
    with running_engine(forward, step_tokens=32) as engine:
        answers = ask(engine, *(Request(prompt, 30, stop_ids=frozenset({1})) for prompt in prompts))
    assert [tokens for tokens, _ in answers] == expected


def test_packed_weights_give_the_logits_of_plain_ones() -> None:
    model = build_model(llama_config(attention_bias=True), dtype=torch.bfloat16)
    packs = can_pack(model.dtype, model.device)
    assert packs == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with torch.inference_mode():
        packed, plain = (
            PagedForward(model, lean, lean.shapes, 8)
            for lean in (LeanDecoder(model, packs=packs), LeanDecoder(model, packs=False))
        )
    for rows in (token_rows(1), token_rows(30), token_rows(9, 30, 2)):
        pieces = [Piece(row, 0, [2 * place, 2 * place + 1]) for place, row in enumerate(rows)]
        torch.testing.assert_close(run(packed, *pieces), run(plain, *pieces), atol=0.03, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_of_other_types_are_not_packed(dtype: torch.dtype) -> None:
    assert not can_pack(dtype, torch.device("cpu"))


@pytest.mark.parametrize(
    ("capabilities", "is_faster"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, False),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, True),
        ({"cpu_name": "Intel Xeon"}, True),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, False),
        ({"cpu_name": "Neoverse-V2", "architecture": "aarch64"}, False),
    ],
)
def test_wide_passes_compute_in_what_a_cpu_is_faster_in(capabilities: dict[str, Any], is_faster: bool) -> None:
    assert is_faster_in_float32({"architecture": "x86_64", **capabilities}) == is_faster


@pytest.mark.parametrize("widens", [False, True])
@pytest.mark.parametrize("rows", [WIDE_ROWS - 1, WIDE_ROWS])
def test_a_projection_is_the_layers_product_at_any_width(
    monkeypatch: pytest.MonkeyPatch, rows: int, widens: bool
) -> None:
    monkeypatch.setattr("llm_runner.generate.lean_projection._widens_here", lambda: widens)
    layer = torch.nn.Linear(48, 24).to(torch.bfloat16)
    x = torch.randn(rows, 48, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    with torch.inference_mode():
        exact = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
        found = Projection([layer])(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, atol=0.01, rtol=0.01)
