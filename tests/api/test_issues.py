"""Errors: all of a document in one go, each with its path, what was found, what to write, and the nearest key."""

import pytest
from llm_api.config import LLMConfig, load_config
from llm_api.issues import LONGEST_FOUND, InvalidConfig, Issue, load, to_text

from tests.support.documents import build_config, build_manifest, issues_of, issues_of_manifest, paths_of

MANY_MISTAKES = """
base_modle: acme/small
input_features: [{name: prompt, type: text, preprocessing: {max_sequence_length: '128'}}]
adapter: {type: lora, r: 0, lora_alpha: 64}
trainer: {type: finetune, epochs: 2.5, optimizer: {type: adamw, betas: [0.9, 2]}}
generation: {num_beams: 3, num_beam_groups: 2, top_p: 1.5, min_new_tokens: 9, max_new_tokens: 3}
prompt: {task: Sort, template: 'Say {word}'}
quantization: {bits: 3}
"""


def one_issue(sections: str) -> Issue:
    (issue,) = issues_of(build_config(sections))
    return issue


def test_all_mistakes_are_told_at_once_each_at_its_place() -> None:
    issues = issues_of(build_config(MANY_MISTAKES, without=("base_model",)))
    assert sorted(paths_of(issues)) == [
        "adapter.lora_alpha",
        "adapter.r",
        "base_model",
        "base_modle",
        "generation.min_new_tokens",
        "generation.num_beam_groups",
        "generation.top_p",
        "input_features[0].preprocessing.max_sequence_length",
        "prompt.template",
        "quantization.bits",
        "trainer.epochs",
        "trainer.optimizer.betas[1]",
    ]


def test_a_rule_about_a_field_with_an_error_is_not_judged() -> None:
    assert paths_of(issues_of(build_config("generation: {min_new_tokens: 9, max_new_tokens: x}"))) == [
        "generation.max_new_tokens"
    ]


def test_a_mistake_in_one_place_does_not_make_up_others() -> None:
    sections = "trainer: {type: finetune}\nadapter: {type: lora, r: 0}\nquantization: {bits: 4}"
    assert paths_of(issues_of(build_config(sections))) == ["adapter.r"]


def test_shorthand_counts_where_there_are_other_mistakes_too() -> None:
    sections = "trainer: {type: finetune, epochs: 0}\nadapter: lora\nquantization: {}\nbackend: local"
    assert paths_of(issues_of(build_config(sections))) == ["trainer.epochs"]


def test_rules_of_objects_in_mappings_are_judged_beside_other_mistakes() -> None:
    sections = (
        "output_features: [{name: l, type: category, preprocessing: {fallback_label: a}, decoder: "
        "{match: {a: {type: regex, value: '('}, b: {type: contains, value: 1}}}}]"
    )
    assert paths_of(issues_of(build_config(sections))) == [
        "output_features[0].decoder.match.b.value",
        "output_features[0].decoder.match.a.value",
    ]


@pytest.mark.parametrize(
    ("sections", "text"),
    [
        ("generation: {top_k: 0}", "generation.top_k: must be at least 1 (found 0)"),
        ("generation: {top_p: 1.5}", "generation.top_p: must be at most 1 (found 1.5)"),
        ("generation: {max_time: 0}", "generation.max_time: must be more than 0 (found 0)"),
        ("generation: {do_sample: 1}", "generation.do_sample: write true or false (found 1)"),
        ("generation: {num_beams: 2.5}", "generation.num_beams: write an integer (found 2.5)"),
        ("generation: {temperature: hot}", 'generation.temperature: write a number (found "hot")'),
        ("generation: {temperature: .inf}", "generation.temperature: write a finite number (found Infinity)"),
        ("generation: {suppress_tokens: 5}", "generation.suppress_tokens: write a list (found 5)"),
        ("generation: 5", "generation: write a mapping of keys to values (found 5)"),
        ("prompt: {task: 5}", "prompt.task: write text (found 5)"),
        ("prompt: {task: ''}", 'prompt.task: must not be empty (found "")'),
        ("base_model: null", "base_model: write text (found null)"),
        ("output_features: []", "output_features: needs at least 1 item (found [])"),
        ("quantization: {bits: 3}", "quantization.bits: write one of 4 or 8 (found 3)"),
        (
            "trainer: {type: finetune, batch_size: lots}",
            "trainer.batch_size: write an integer or 'auto' (found \"lots\")",
        ),
        ("adapter: {type: lora, pretrained_adapter_weights: a, alpha: x}", 'adapter.alpha: write a number (found "x")'),
        (
            "adapter: {type: qlora}",
            "adapter.type: write one of 'lora', 'adalora', 'ia3', 'vera', 'loha', 'lokr', 'oft', 'boft' "
            '(found "qlora")',
        ),
        (
            "trainer: {epochs: 8}",
            "trainer.type: this key is required; write one of 'finetune', 'dpo', 'kto', 'orpo', 'none'",
        ),
        (
            "output_features: [{name: a, type: number}]",
            "output_features[0].type: write one of 'text', 'category' (found \"number\")",
        ),
        ("generation: {max_tokens: 8}", "generation.max_tokens: unknown key (found 8); did you mean max_new_tokens?"),
        ("generation: {eos_token_id: [a]}", 'generation.eos_token_id[0]: write an integer (found "a")'),
        (
            "hyperopt: {}",
            "hyperopt: not supported: one resource is one run; apply several resources with different names instead "
            "(found {})",
        ),
        (
            "generation: {num_beam_groups: 2}",
            "generation.num_beam_groups: num_beams must be a multiple of num_beam_groups",
        ),
    ],
)
def test_an_error_reads_as_path_then_what_to_write_then_what_was_found(sections: str, text: str) -> None:
    assert str(one_issue(sections)) == text


@pytest.mark.parametrize(
    ("sections", "hint"),
    [
        ("adaptr: null", "did you mean adapter?"),
        ("input_feature: []", "did you mean input_features?"),
        ("model: a", "did you mean base_model?"),
        ("rope_scaling: {}", "did you mean model_parameters.rope_scaling?"),
        ("generation: {temprature: 1}", "did you mean temperature?"),
        ("generation: {beam_size: 1}", "did you mean num_beams?"),
        ("prompt: {tempalte: '{a}'}", "did you mean template?"),
        ("prompt: {retrieval: {num_samples: 1}}", "did you mean k?"),
        ("preprocessing: {max_sequence_length: 1}", "did you mean global_max_sequence_length?"),
        ("quantization: {load_in_4bit: true}", "did you mean bits: 4?"),
        ("model_parameters: {neftune: 5}", "did you mean neftune_noise_alpha?"),
        ("trainer: {type: finetune, lr: 0.1}", "did you mean learning_rate?"),
        ("trainer: {type: finetune, num_train_epochs: 1}", "did you mean epochs?"),
        ("trainer: {type: finetune, per_device_train_batch_size: 1}", "did you mean batch_size?"),
        ("trainer: {type: finetune, max_grad_norm: 1}", "did you mean gradient_clipping.clipglobalnorm?"),
        (
            "trainer: {type: finetune, learning_rate_scheduler: {warmup_steps: 9}}",
            "did you mean warmup_fraction?",
        ),
        ("trainer: {type: finetune, optimizer: {type: adamw, beta: 9}}", "did you mean betas?"),
        ("adapter: {type: lora, pretrained_adapter_weights: a, lora_alpha: 9}", "did you mean alpha?"),
        ("adapter: {type: lora, pretrained_adapter_weights: a, lora_dropout: 0}", "did you mean dropout?"),
        ("adapter: {type: lora, pretrained_adapter_weights: a, bias: all}", "did you mean bias_type?"),
        ("adapter: {type: adalora, pretrained_adapter_weights: a, deltaT: 1}", "did you mean delta_t?"),
        (
            "input_features: [{name: a, type: text, preprocessing: {max_length: 9}}]",
            "did you mean max_sequence_length?",
        ),
        ("backend: {kind: local}", "known keys: type"),
    ],
)
def test_an_unknown_key_is_told_the_one_that_was_meant_also_where_it_is_another_tools_name(
    sections: str, hint: str
) -> None:
    assert one_issue(sections).hint == hint


def test_a_name_in_the_place_of_a_section_of_a_manifest_is_told_the_section() -> None:
    manifest = build_manifest("LLMFineTune", config=build_config("adapter: lora\ntrainer: {type: finetune}"))
    (issue,) = issues_of_manifest(manifest)
    assert (issue.path, issue.hint) == ("spec.config.adapter", "did you mean {type: lora}?")


def test_a_long_value_is_cut_to_a_readable_length() -> None:
    issue = one_issue(f"prompt: {{task: [{'a' * 500}]}}")
    assert issue.found is not None
    assert len(issue.found) == LONGEST_FOUND
    assert issue.found.endswith("…")


def test_values_that_json_does_not_know_are_shown_all_the_same() -> None:
    assert one_issue("prompt: {task: 2024-01-02}").found == '"2024-01-02"'


def test_paths_can_be_told_from_the_root_of_another_document() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_config(build_config("generation: {top_k: 0}"), prefix="spec.config")
    assert [issue.path for issue in caught.value.issues] == ["spec.config.generation.top_k"]
    with pytest.raises(InvalidConfig) as caught:
        load(LLMConfig, "text", prefix="spec.config")
    assert [issue.path for issue in caught.value.issues] == ["spec.config"]


def test_the_error_itself_lists_every_issue_on_a_line() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_config(build_config("generation: {top_k: 0, top_p: 2}"))
    assert str(caught.value).splitlines() == [str(issue) for issue in caught.value.issues]


def test_a_path_shows_keys_with_dots_and_positions_in_brackets() -> None:
    assert to_text(("trainer", "optimizer", "betas", 1)) == "trainer.optimizer.betas[1]"
    assert to_text(()) == ""


def test_keys_of_a_mapping_that_are_the_users_own_are_part_of_the_path() -> None:
    sections = (
        "output_features: [{name: l, type: category, preprocessing: {fallback_label: a}, decoder: "
        "{match: {a: {type: contains, value: x, tpye: y}}}}]"
    )
    issue = one_issue(sections)
    assert (issue.path, issue.hint) == ("output_features[0].decoder.match.a.tpye", "did you mean type?")


@pytest.mark.parametrize(
    ("label", "found", "told"),
    [
        ("1", "1", "a key here is text; put it in quotes"),
        ("no", "false", "a key here is text; put it in quotes, as off, no and false are no text"),
        ("on", "true", "a key here is text; put it in quotes, as on, yes and true are no text"),
    ],
)
def test_a_label_that_yaml_does_not_read_as_text_is_told_to_be_quoted(label: str, found: str, told: str) -> None:
    sections = (
        "output_features: [{name: l, type: category, preprocessing: {fallback_label: a}, decoder: "
        f"{{match: {{a: {{type: contains, value: x}}, {label}: {{type: contains, value: 1}}}}}}}}]"
    )
    issues = issues_of(build_config(sections))
    assert [(issue.path, issue.message, issue.found) for issue in issues if issue.path.endswith("match")] == [
        ("output_features[0].decoder.match", told, found)
    ]
    assert len(issues) == 2
