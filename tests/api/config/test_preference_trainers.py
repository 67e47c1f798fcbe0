"""Trainers on pairs of answers: their keys, and what is said of those that belong elsewhere."""

from typing import Any

import pytest
from llm_api.config import PreferenceTrainer, load_config

from tests.support.documents import build_config, issues_of
from tests.support.verdicts import Accepted, Refused, assert_accepted, assert_refused, parametrize

FRAME = "trainer: SECTION"

ACCEPTED = [
    *(Accepted(f"{{type: {kind}}}", "all defaults") for kind in ("dpo", "kto", "orpo")),
    *(
        Accepted(f"{{type: {kind}, {key}: {beta}}}", "a positive number")
        for kind, key in (("dpo", "dpo_beta"), ("kto", "kto_beta"), ("orpo", "orpo_beta"))
        for beta in ("0.01", "1", "1e-2", "5")
    ),
    *(Accepted(f"{{type: dpo, dpo_loss_type: {loss}}}", "a loss") for loss in ("sigmoid", "ipo")),
    *(Accepted(f"{{type: dpo, dpo_label_smoothing: {share}}}", "at most a half") for share in ("0", "0.1", "0.5")),
    *(Accepted(f"{{type: {kind}, rejected_column: worse}}", "a column") for kind in ("dpo", "kto", "orpo")),
    *(
        Accepted(f"{{type: {kind}, {keys}}}", "keys of finetune")
        for kind in ("dpo", "kto", "orpo")
        for keys in (
            "learning_rate: 5e-6, epochs: 1, batch_size: 4, gradient_accumulation_steps: 4, eval_batch_size: 8",
            "optimizer: {type: adamw_8bit}, learning_rate_scheduler: {decay: cosine, warmup_fraction: 0.1}",
            "gradient_clipping: null, early_stop: -1, use_mixed_precision: true, validation_metric: perplexity",
        )
    ),
]  # fmt: skip

REFUSED = [
    *(
        Refused(f"{{type: {kind}, {key}: {value}}}", f"trainer.{key}", reason)
        for kind, key, values, reason in (
            ("dpo", "dpo_beta", ("0", "-0.1", "null", "big", ".inf"), "a positive number"),
            ("kto", "kto_beta", ("0", "-0.1", "null", "big"), "a positive number"),
            ("orpo", "orpo_beta", ("0", "-0.1", "null", "big"), "a positive number"),
            ("dpo", "dpo_loss_type", ("hinge", "IPO", "null", "5"), "not an option"),
            ("dpo", "dpo_label_smoothing", ("-0.1", "0.6", "null"), "a share"),
            ("dpo", "rejected_column", ("''", "null", "5"), "a column"),
            ("dpo", "kto_beta", ("0.1",), "another method's key"),
            ("kto", "dpo_beta", ("0.1",), "another method's key"),
            ("kto", "dpo_loss_type", ("sigmoid",), "another method's key"),
            ("orpo", "dpo_label_smoothing", ("0.1",), "another method's key"),
            ("finetune", "dpo_beta", ("0.1",), "another method's key"),
            ("finetune", "rejected_column", ("worse",), "another method's key"),
            ("none", "rejected_column", ("worse",), "nothing is trained"),
            ("dpo", "beta", ("0.1",), "another tool's name"),
            ("orpo", "lr", ("0.1",), "another tool's name"),
            ("kto", "packing", ("true",), "always so"),
            ("kto", "optimizer", ("adamw",), "a section"),
            ("dpo", "learning_rate", ("2",), "a rate"),
        )
        for value in values
    )
]  # fmt: skip


@parametrize(ACCEPTED)
def test_a_trainer_on_pairs_is_accepted(case: Accepted) -> None:
    assert_accepted(FRAME, case)


@parametrize(REFUSED)
def test_what_a_trainer_on_pairs_can_not_be_is_refused(case: Refused) -> None:
    assert_refused(FRAME, case)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{type: grpo}", "grpo learns from answers that the model samples as it trains"),
        ("{type: grpo, grpo_beta: 0.1}", "write one of finetune, dpo, kto, orpo"),
        ("{type: dpo, beta: 0.1}", "did you mean dpo_beta?"),
        ("{type: dpo, label_smoothing: 0.1}", "did you mean dpo_label_smoothing?"),
        ("{type: kto, rejected: worse}", "did you mean rejected_column?"),
        ("{type: kto, orpo_beta: 0.1}", "it belongs to `type: orpo`"),
        ("{type: finetune, rejected_column: worse}", "it belongs to trainers on pairs of answers: `type: dpo`, `kto`"),
    ],
)
def test_a_refusal_says_what_to_write_instead(section: str, said: str) -> None:
    (issue,) = issues_of(build_config(f"trainer: {section}"))
    assert said in str(issue)


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        ("dpo", {"dpo_beta": 0.1, "dpo_loss_type": "sigmoid", "dpo_label_smoothing": 0.0}),
        ("kto", {"kto_beta": 0.1}),
        ("orpo", {"orpo_beta": 0.1}),
    ],
)
def test_the_defaults_are_those_of_the_reference(kind: str, defaults: dict[str, Any]) -> None:
    config = load_config(build_config(f"trainer: {{type: {kind}}}"))
    assert isinstance(config.trainer, PreferenceTrainer)
    assert {key: getattr(config.trainer, key) for key in defaults} == defaults
    assert (config.finetunes, config.rejected_column) == (True, "rejected")


def test_a_category_is_no_answer_to_prefer() -> None:
    output = "output_features: [{name: label, type: category, preprocessing: {fallback_label: a}, "
    output += "decoder: {match: {a: {type: contains, value: a}}}}]"
    (issue,) = issues_of(build_config(f"trainer: {{type: dpo}}\n{output}"))
    assert issue.path == "output_features"
