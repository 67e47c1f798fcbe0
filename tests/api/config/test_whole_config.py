"""The config as a whole: its top-level keys, and sections that must fit each other."""

import pytest
from llm_api.config import load_config

from tests.support.documents import build_config, issues_of, paths_of, read
from tests.support.verdicts import Accepted, Refused, assert_accepted, assert_refused, parametrize

FINETUNE = "trainer: {type: finetune}"
LORA = f"{FINETUNE}\nadapter: {{type: lora}}"

ACCEPTED = [
    Accepted("model_type: llm", "the model type of the page's example"),
    Accepted("base_model: meta-llama/Llama-2-7b-hf", "the page's example: a hub's name"),
    Accepted("base_model: path/to/local/model/weights", "the page's example: a path to a locally saved model"),
    Accepted("base_model: s3://models/llama", "a folder in an object store"),
    Accepted(FINETUNE, "fine-tuning all weights: the page names full fine-tuning beside adapters"),
    Accepted(f"{FINETUNE}\nadapter: null", "no adapter"),
    Accepted(f"{FINETUNE}\nquantization: null", "no quantization"),
    Accepted("prompt: null", "no prompt: the input goes in as it is"),
    Accepted("preprocessing: null", "a null section is one that was left out"),
    Accepted("trainer: null", "a null section is one that was left out"),
    Accepted("generation: null", "a null section is one that was left out"),
    Accepted("generation: {}", "all defaults"),
    Accepted("preprocessing: {}", "all defaults"),
    Accepted("prompt: {}", "all defaults"),
    Accepted("model_parameters: {}", "all defaults"),
    Accepted(f"{FINETUNE}\nadapter: lora", "the page itself says `adapter: lora`"),
    Accepted(f"{LORA}\nquantization: {{bits: 4}}\nbackend: local", "the page itself says `backend: local`"),
    Accepted(f"{LORA}\nquantization: {{bits: 4}}\nbackend: {{type: local}}", "the backend that quantization asks for"),
    Accepted("ludwig_version: 0.10.1", "ignored, with a warning"),
    Accepted("trust_remote_code: false", "what is done anyway"),
    Accepted(
        "quantization: {bits: 8}\ntrainer: {type: none}", "in-context learning may be quantized without an adapter"
    ),
    Accepted(f"{LORA}\nquantization: {{bits: 8}}", "quantized fine-tuning with LoRA"),
    Accepted(
        f"{FINETUNE}\nadapter: {{type: lora, postprocessor: {{merge_adapter_into_base_model: true}}}}", "merging LoRA"
    ),
    Accepted(
        f"{FINETUNE}\nadapter: {{type: adalora, postprocessor: {{merge_adapter_into_base_model: true}}}}",
        "merging AdaLoRA",
    ),
    Accepted(
        f"{FINETUNE}\nadapter: {{type: ia3, postprocessor: {{merge_adapter_into_base_model: true}}}}", "merging IA3"
    ),
    Accepted(
        f"{FINETUNE}\nadapter: {{type: lora, postprocessor: {{merge_adapter_into_base_model: true}}}}\n"
        "quantization: {bits: 4}",
        "merging LoRA on 4 bits, through a dequantized base",
    ),
]

REFUSED = [
    Refused("base_model: null", "base_model", "base_model must name a model"),
    Refused("base_model: ''", "base_model", "base_model must name a model"),
    Refused("base_model: ' '", "base_model", "base_model must name a model"),
    Refused("base_model: 7", "base_model", "a name is text"),
    Refused("base_model: [a/b]", "base_model", "one model"),
    Refused("model_type: LLM", "model_type", "the model type is llm"),
    Refused("model_type: ecd", "model_type", "ECD models are other models"),
    Refused("model_type: gbm", "model_type", "the model type is llm"),
    Refused("model_type: null", "model_type", "the model type is llm"),
    Refused("input_features: null", "input_features", "exactly one input"),
    Refused("input_features: []", "input_features", "exactly one input"),
    Refused("input_features: {name: prompt, type: text}", "input_features", "a list"),
    Refused("input_features: [{name: a, type: text}, {name: b, type: text}]", "input_features", "exactly one input"),
    Refused("output_features: []", "output_features", "a single output feature"),
    Refused("output_features: [{name: a, type: text}, {name: b, type: text}]", "output_features", "a single output"),
    Refused("adaptor: {type: lora}", "adaptor", "an unknown key is an error"),
    Refused("lora: {r: 8}", "lora", "an unknown key is an error"),
    Refused("rope_scaling: {type: dynamic, factor: 2.0}", "rope_scaling", "it stands in model_parameters"),
    Refused("hyperopt: {}", "hyperopt", "means nothing here"),
    Refused("defaults: {}", "defaults", "means nothing here"),
    Refused("adapters: {}", "adapters", "one adapter"),
    Refused("combiner: {type: concat}", "combiner", "means nothing for an LLM"),
    Refused("trust_remote_code: true", "trust_remote_code", "untrusted code is not run, for security reasons"),
    Refused("is_multimodal: false", "is_multimodal", "models of text only"),
    Refused("backend: ray", "backend.type", "quantization is only supported with backend: local"),
    Refused("backend: {type: ray}", "backend.type", "quantization is only supported with backend: local"),
    Refused("backend: {type: local, cache_dir: a}", "backend.cache_dir", "it would be lost"),
    Refused("adapter: {type: lora}", "adapter", "an adapter is trained, or loaded from weights"),
    Refused(f"{FINETUNE}\nadapter: qlora", "adapter.type", "types are lora, adalora, ia3"),
    Refused(f"{FINETUNE}\nadapter: [lora]", "adapter", "a section"),
    Refused(f"{FINETUNE}\nquantization: {{bits: 4}}", "adapter", "quantized fine-tuning requires adapter lora"),
    Refused(
        f"{FINETUNE}\nadapter: {{type: adalora}}\nquantization: {{}}", "adapter", "quantized fine-tuning requires lora"
    ),
    Refused(
        f"{FINETUNE}\nadapter: {{type: ia3}}\nquantization: {{bits: 8}}",
        "adapter",
        "quantized fine-tuning requires lora",
    ),
    Refused(
        f"{FINETUNE}\nadapter: {{type: lora, use_dora: true}}\nquantization: {{bits: 8}}",
        "adapter.use_dora",
        "DoRA only supports non-quantized linear layers",
    ),
    Refused("generation: 5", "generation", "a section"),
    Refused("prompt: Translate {text}", "prompt", "a section"),
    Refused("trainer: finetune", "trainer", "a section"),
]


@parametrize(ACCEPTED)
def test_sections_that_fit_are_accepted(case: Accepted) -> None:
    assert_accepted("SECTION", case)


@parametrize(REFUSED)
def test_sections_that_do_not_fit_are_refused(case: Refused) -> None:
    assert_refused("SECTION", case)


@pytest.mark.parametrize("key", ["base_model", "input_features", "output_features"])
def test_a_config_without_a_required_key_is_refused(key: str) -> None:
    assert paths_of(issues_of(build_config(without=(key,)))) == [key]


@pytest.mark.parametrize("document", [None, [], "a text", 5])
def test_what_is_no_mapping_is_no_config(document: object) -> None:
    assert [issue.path for issue in issues_of(document)] == [""]


@pytest.mark.proves("backend.type", "ludwig_version")
def test_ignored_keys_are_warned_of_and_neither_stored_nor_passed_on() -> None:
    config = load_config(build_config("backend: local\nludwig_version: 0.10.1"))
    assert [warning.partition(" ")[0] for warning in config.warnings()] == ["backend", "ludwig_version"]
    assert {"backend", "ludwig_version", "trust_remote_code"} & config.resolved().keys() == set()


def test_a_plain_config_gives_no_warnings() -> None:
    assert load_config(build_config()).warnings() == []


def test_the_resolved_config_has_the_defaults_of_every_section_and_is_a_config_itself() -> None:
    config = load_config(build_config(f"{FINETUNE}\nadapter: lora"))
    resolved = config.resolved()
    assert resolved["adapter"] | {"r": 8, "dropout": 0.05, "bias_type": "none"} == resolved["adapter"]
    assert resolved["preprocessing"]["split"] == {"type": "random", "probabilities": [0.7, 0.1, 0.2]}
    assert resolved["trainer"] | {"epochs": 3, "learning_rate": 0.0001, "batch_size": 1} == resolved["trainer"]
    assert resolved["output_features"][0]["preprocessing"]["missing_value_strategy"] == "drop_row"
    assert load_config(resolved).resolved() == resolved


def test_resolving_keeps_unset_what_is_derived_later_from_the_model_and_the_data() -> None:
    resolved = load_config(build_config(f"{FINETUNE}\nadapter: adalora")).resolved()
    derived = read("{alpha: null, target_modules: null, total_step: null}")
    assert resolved["adapter"] | derived == resolved["adapter"]


def test_a_config_that_was_loaded_cannot_be_changed() -> None:
    config = load_config(build_config())
    with pytest.raises(ValueError, match="frozen"):
        config.base_model = "another"


@pytest.mark.parametrize(
    ("section", "derived"),
    [
        ("generation", {"max_new_tokens", "max_length", "min_length", "do_sample"}),
        ("quantization", {"bnb_4bit_compute_dtype"}),
    ],
)
def test_a_default_that_gives_way_to_a_derived_value_does_not_become_a_written_one(
    section: str, derived: set[str]
) -> None:
    config = load_config(build_config("quantization: {}\ngeneration: {}"))
    resolved = config.resolved()
    assert derived & resolved[section].keys() == set()
    assert resolved[section].keys() | derived == type(getattr(config, section)).model_fields.keys()


def test_what_was_written_stays_as_written_even_where_it_is_the_default() -> None:
    config = load_config(build_config("generation: {max_new_tokens: 32, do_sample: true}"))
    assert (
        config.resolved()["generation"] | {"max_new_tokens": 32, "do_sample": True} == config.resolved()["generation"]
    )
