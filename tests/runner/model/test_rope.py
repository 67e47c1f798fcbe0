"""Longer contexts: the config that the library gets, and the limit that follows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import ModelParameters
from llm_runner.errors import ConfigInvalid
from llm_runner.model.load import load_base, load_config
from llm_runner.model.rope import UNBOUNDED_CONTEXT, context_length, scale_rope
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3TextConfig, MambaConfig

from tests.support.models import CONTEXT_LENGTH, gpt2_config, llama_config


def scaling(kind: str | None, factor: float | None) -> ModelParameters:
    return ModelParameters.model_validate({"rope_scaling": {"type": kind, "factor": factor}})


@pytest.mark.proves("model_parameters.rope_scaling.factor")
@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_the_context_grows_by_the_factor(kind: str) -> None:
    config = llama_config()
    assert context_length(config) == CONTEXT_LENGTH
    assert context_length(config, scaling(kind, 2.5)) == 640
    scale_rope(config, scaling(kind, 2.5))
    assert (config.rope_parameters["rope_type"], config.rope_parameters["factor"]) == (kind, 2.5)
    assert config.max_position_embeddings == CONTEXT_LENGTH
    assert context_length(config) == 640


def test_the_models_own_base_frequency_is_kept() -> None:
    config = llama_config(rope_parameters={"rope_type": "default", "rope_theta": 123.0})
    scale_rope(config, scaling("linear", 2))
    assert config.rope_parameters["rope_theta"] == 123.0


@pytest.mark.parametrize("parameters", [None, {}, {"rope_scaling": None}, {"rope_scaling": {}}])
def test_nothing_written_changes_nothing(parameters: dict[str, Any] | None) -> None:
    config = llama_config()
    before = config.to_dict()
    scale_rope(config, None if parameters is None else ModelParameters.model_validate(parameters))
    assert config.to_dict() == before


def test_a_scaling_that_the_model_came_with_is_replaced_and_counted_from_what_it_was_trained_on() -> None:
    own = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32}
    config = llama_config(rope_parameters={**own, "low_freq_factor": 1.0, "high_freq_factor": 4.0})
    assert context_length(config) == CONTEXT_LENGTH
    assert context_length(config, scaling("linear", 2)) == 64
    scale_rope(config, scaling("linear", 2))
    assert context_length(config) == 64


def test_only_layers_that_see_everything_are_scaled() -> None:
    config = Gemma3TextConfig(num_hidden_layers=2, hidden_size=32)
    sliding = dict(config.rope_parameters["sliding_attention"])
    scale_rope(config, scaling("linear", 4))
    assert config.rope_parameters["full_attention"]["factor"] == 4
    assert config.rope_parameters["sliding_attention"] == sliding


def test_a_model_without_rotary_embeddings_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match=r"rope_scaling: a model of type gpt2 has no rotary embeddings"):
        scale_rope(gpt2_config(), scaling("linear", 2))


def test_a_model_that_names_no_limit_has_none() -> None:
    assert context_length(MambaConfig()) == UNBOUNDED_CONTEXT
    assert context_length(gpt2_config()) == CONTEXT_LENGTH


@pytest.mark.proves("model_parameters.rope_scaling.type", "model_parameters.rope_scaling.factor")
def test_linear_scaling_reaches_the_model(llama_path: Path) -> None:
    """Positions 0, 2, 4 scaled by two are positions 0, 1, 2: the logits of such a row are the unscaled model's."""
    plain = load_base(llama_path, dtype=torch.float32)
    scaled = load_base(llama_path, dtype=torch.float32, model_parameters=scaling("linear", 2))
    token_ids, positions = torch.arange(10, 18)[None], torch.arange(8)[None]
    wanted = plain(token_ids, position_ids=positions).logits
    torch.testing.assert_close(scaled(token_ids, position_ids=2 * positions).logits, wanted)
    assert not torch.allclose(scaled(token_ids, position_ids=positions).logits, wanted, atol=1e-4)


@pytest.mark.proves("model_parameters.rope_scaling.type", "model_parameters.rope_scaling.rope_type")
@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_a_scaled_model_computes_what_the_librarys_own_scaling_computes(kind: str, llama_path: Path) -> None:
    """Beyond the context that it was trained on, where a dynamic scaling begins."""
    token_ids = torch.arange(2, 302)[None] % 250
    wanted_config = AutoConfig.from_pretrained(llama_path)
    wanted_config.rope_parameters = {**wanted_config.rope_parameters, "rope_type": kind, "factor": 2.0}
    wanted = AutoModelForCausalLM.from_pretrained(llama_path, config=wanted_config, dtype=torch.float32)
    plain = load_base(llama_path, dtype=torch.float32)
    for written in ({"type": kind, "factor": 2}, {"rope_type": kind, "factor": 2}):
        parameters = ModelParameters.model_validate({"rope_scaling": written})
        scaled = load_base(llama_path, dtype=torch.float32, model_parameters=parameters)
        torch.testing.assert_close(scaled(token_ids).logits, wanted(token_ids).logits)
        assert not torch.allclose(scaled(token_ids).logits, plain(token_ids).logits, atol=1e-4)
        within = token_ids[:, : CONTEXT_LENGTH // 2]
        is_same = torch.allclose(scaled(within).logits, plain(within).logits, atol=1e-5)
        assert is_same is (kind == "dynamic")


def test_scaling_is_part_of_the_loaded_config(llama_path: Path) -> None:
    assert context_length(load_config(llama_path, scaling("dynamic", 3))) == 3 * CONTEXT_LENGTH
