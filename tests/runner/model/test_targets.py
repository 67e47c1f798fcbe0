"""Where adapters go when the config does not say, and what is said when it names what isn't there."""

import pytest
from llm_runner.errors import ConfigInvalid, TargetModulesNotFound
from llm_runner.model.targets import attention_targets, check_targets, feedforward_among, ia3_targets, is_transposed
from transformers import (
    BloomConfig,
    Cohere2Config,
    DeepseekV2Config,
    FalconConfig,
    Gemma2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    MambaConfig,
    MptConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    Qwen3Config,
)

from tests.support.models import SIZES, build_model, gpt2_config, llama_config, neox_config

SMALL = {**SIZES, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {**SMALL, "intermediate_size": 64}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (llama_config(), ["q_proj", "v_proj"]),
        (gpt2_config(), ["c_attn"]),
        (neox_config(), ["query_key_value"]),
        (Qwen3Config(**WIDE, num_key_value_heads=2, head_dim=8), ["q_proj", "v_proj"]),
        (Gemma2Config(**WIDE, num_key_value_heads=2, head_dim=8), ["q_proj", "v_proj"]),
        (Cohere2Config(**WIDE, num_key_value_heads=2), ["q_proj", "v_proj"]),
        (PhiConfig(**WIDE), ["q_proj", "v_proj"]),
        (Phi3Config(**WIDE), ["qkv_proj"]),
        (OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=32), ["q_proj", "v_proj"]),
        (FalconConfig(**SMALL), ["query_key_value"]),
        (BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=64), ["query_key_value"]),
        (MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=64), ["Wqkv"]),
        (GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, vocab_size=64), ["q_proj", "v_proj"]),
        (GPTBigCodeConfig(n_embd=32, n_layer=2, n_head=4, vocab_size=64), ["c_attn"]),
    ],
    ids=lambda value: value.model_type if isinstance(value, PretrainedConfig) else "",
)
def test_query_and_value_projections_are_found_whatever_they_are_called(
    config: PretrainedConfig, expected: list[str]
) -> None:
    assert attention_targets(build_model(config)) == expected


def test_low_rank_attention_is_adapted_where_queries_and_values_come_out() -> None:
    config = DeepseekV2Config(
        **WIDE, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
        moe_intermediate_size=16, n_routed_experts=2, num_experts_per_tok=1, first_k_dense_replace=1,
    )  # fmt: skip
    assert attention_targets(build_model(config)) == ["kv_b_proj", "q_b_proj"]


def test_a_fused_projection_of_an_unknown_name_is_found_by_its_shape() -> None:
    model = build_model(neox_config())
    for layer in model.gpt_neox.layers:
        layer.attention.mixed = layer.attention.query_key_value
        del layer.attention.query_key_value
    assert attention_targets(model) == ["mixed"]


def test_a_model_without_attention_asks_for_target_modules() -> None:
    model = build_model(MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=64, state_size=4))
    with pytest.raises(TargetModulesNotFound, match=r"no attention found in a model of type mamba.*dt_proj.*x_proj"):
        attention_targets(model)


def test_ia3_follows_the_table_of_known_architectures() -> None:
    assert ia3_targets(build_model(llama_config())) == (["k_proj", "v_proj", "down_proj"], ["down_proj"])


def test_ia3_finds_key_value_and_the_way_down_in_others() -> None:
    model = build_model(Cohere2Config(**WIDE, num_key_value_heads=2))
    assert ia3_targets(model) == (["down_proj", "k_proj", "v_proj"], ["down_proj"])


def test_feedforward_modules_are_found_among_written_targets() -> None:
    model = build_model(llama_config())
    assert feedforward_among(model, ["v_proj", "down_proj"]) == ["down_proj"]
    assert feedforward_among(model, r".*\.(k_proj|v_proj)") == []


@pytest.mark.parametrize("targets", [["q_proj"], ["self_attn.q_proj", "down_proj"], r".*\.0\..*_proj", "all-linear"])
def test_targets_that_match_pass(targets: list[str] | str) -> None:
    check_targets(build_model(llama_config()), targets)


def test_a_target_that_matches_nothing_is_named_with_those_there_are() -> None:
    with pytest.raises(TargetModulesNotFound) as caught:
        check_targets(build_model(llama_config()), ["q_proj", "c_attn", "fc1"])
    message = str(caught.value)
    assert "'c_attn', 'fc1' matches no module" in message
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in message
    assert "model.layers.0.self_attn.q_proj" in message


def test_a_name_written_as_a_text_is_explained() -> None:
    with pytest.raises(
        TargetModulesNotFound, match=r"a text is a regex for a whole path; for a name, write \[q_proj\]"
    ):
        check_targets(build_model(llama_config()), "q_proj")


def test_a_broken_regex_is_named() -> None:
    with pytest.raises(ConfigInvalid, match=r"'\.\*\(q_proj' is not a regular expression"):
        check_targets(build_model(llama_config()), ".*(q_proj")


def test_only_gpt2s_layers_are_transposed() -> None:
    assert is_transposed(build_model(gpt2_config()), ["c_attn"])
    assert not is_transposed(build_model(gpt2_config()), ["lm_head"])
    assert not is_transposed(build_model(llama_config()), "all-linear")
