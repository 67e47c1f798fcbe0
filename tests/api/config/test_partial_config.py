"""The config of an inference: any part of an LLM config, over that of the fine-tune."""

import pytest
from llm_api.config import load_config
from llm_api.config.llm import LLMConfig
from llm_api.config.partial import PartialLLMConfig
from llm_api.issues import InvalidConfig, load

from tests.support.documents import build_config, issues_of, paths_of, read

FINETUNE = "trainer: {type: finetune}\nadapter: {type: lora}"


def load_partial(text: str) -> PartialLLMConfig:
    return load(PartialLLMConfig, read(text))


def test_every_key_of_a_whole_config_is_one_of_a_partial_one() -> None:
    assert PartialLLMConfig.model_fields.keys() == LLMConfig.model_fields.keys()


def test_a_whole_config_pastes_in_unchanged() -> None:
    config = build_config(f"{FINETUNE}\ntrust_remote_code: false\nbackend: {{type: local}}\nludwig_version: 0.10.1")
    assert load(PartialLLMConfig, config).base_model == config["base_model"]


@pytest.mark.parametrize("text", ["{}", "generation: {top_k: 3}", "prompt: null", "output_features: null"])
def test_any_part_may_be_left_out(text: str) -> None:
    load_partial(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("generation: {top_k: 0}", "generation.top_k"),
        ("genration: {top_k: 1}", "genration"),
        ("quantization: {bits: 2}", "quantization.bits"),
        ("prompt: {template: 'no column'}", "prompt.template"),
        ("trust_remote_code: true", "trust_remote_code"),
        ("backend: {type: ray}", "backend.type"),
        ("hyperopt: {}", "hyperopt"),
    ],
)
def test_a_part_is_as_strict_as_in_a_whole_config(text: str, path: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_partial(text)
    assert paths_of(list(caught.value.issues)) == [path]


def test_what_has_no_effect_is_warned_of() -> None:
    warnings = load_partial("trainer: {type: finetune}\nbackend: {}\nludwig_version: a").warnings()
    assert [warning.partition(" ")[0] for warning in warnings] == ["trainer", "backend", "ludwig_version"]
    assert load_partial("generation: {}").warnings() == []


def test_generation_goes_over_the_fine_tunes_key_by_key() -> None:
    base = build_config("generation: {top_k: 5, temperature: 0.7}")
    over = load_partial("generation: {temperature: 0}").over(base)
    assert over["generation"] == {"top_k": 5, "temperature": 0}


def test_other_sections_take_the_place_of_the_fine_tunes_as_a_whole() -> None:
    base = build_config("prompt: {task: Sort}\nquantization: {bits: 4, bnb_4bit_quant_type: fp4}")
    over = load_partial("prompt: {template: '{question}'}\nquantization: {bits: 8}").over(base)
    assert (over["prompt"], over["quantization"]) == ({"template": "{question}"}, {"bits": 8})


def test_what_is_unset_stays_the_fine_tunes() -> None:
    base = build_config(f"{FINETUNE}\npreprocessing: {{sample_size: 5}}")
    assert load_partial("{}").over(base) == base


@pytest.mark.parametrize("text", ["penalty_alpha: 0.6", "num_beams: 4, num_beam_groups: 2", "min_length: 50"])
def test_a_strategy_may_be_chosen_over_a_resolved_config_whose_defaults_nobody_wrote(text: str) -> None:
    resolved = load_config(build_config(FINETUNE)).resolved()
    over = load_partial(f"generation: {{{text}}}").over(resolved)
    assert issues_of(over) == []
    assert load_config(over).generation.samples is text.startswith("min")


def test_a_strategy_over_one_that_somebody_wrote_is_judged_on_the_whole() -> None:
    base = load_config(build_config("generation: {do_sample: true}")).resolved()
    assert paths_of(issues_of(load_partial("generation: {penalty_alpha: 0.6}").over(base))) == ["generation.do_sample"]
