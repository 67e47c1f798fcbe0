"""Model parameters: RoPE scaling and noise on the embeddings."""

import pytest
from llm_api.config import RopeScaling

from tests.support.verdicts import Accepted, Refused, assert_accepted, assert_refused, parametrize

FRAME = "model_parameters: SECTION"

ACCEPTED = [
    Accepted("{rope_scaling: {}, neftune_noise_alpha: 0}", "the page's printed block"),
    Accepted("null", "a null section is one that was left out"),
    Accepted("{rope_scaling: {type: dynamic, factor: 2.0}}", "the page's example"),
    Accepted("{rope_scaling: {type: linear, factor: 4}}", "an option and a factor"),
    Accepted("{rope_scaling: {rope_type: linear, factor: 4.0}}", "the library's name of the type"),
    Accepted("{rope_scaling: {type: null, factor: null}}", "the printed defaults"),
    Accepted("{rope_scaling: null}", "none"),
    Accepted("{neftune_noise_alpha: 5}", "the page's example"),
    Accepted("{neftune_noise_alpha: 7.5}", "an amount of noise"),
    Accepted("{neftune_noise_alpha: null}", "none"),
]

REFUSED = [
    Refused("5", "", "a section"),
    Refused("{neftune: 5}", ".neftune", "a typo"),
    Refused("{neftune_noise_alpha: -1}", ".neftune_noise_alpha", "an amount of noise"),
    Refused("{neftune_noise_alpha: '5'}", ".neftune_noise_alpha", "an amount of noise"),
    Refused("{neftune_noise_alpha: true}", ".neftune_noise_alpha", "an amount of noise"),
    Refused("{neftune_noise_alpha: .inf}", ".neftune_noise_alpha", "an amount of noise"),
    Refused("{rope_scaling: dynamic}", ".rope_scaling", "a section"),
    *(
        Refused(f"{{rope_scaling: {{{keys}}}}}", f".rope_scaling.{key}", reason)
        for keys, key, reason in [
            ("type: dynamic", "type", "a type without a factor"),
            ("factor: 2.0", "type", "a factor without a type"),
            ("type: null, factor: 2.0", "type", "a factor without a type"),
            ("type: linear, factor: null", "type", "a type without a factor"),
            ("type: yarn, factor: 2.0", "type", "options linear, dynamic"),
            ("type: Linear, factor: 2.0", "type", "options linear, dynamic"),
            ("type: linear, factor: 0", "factor", "a factor"),
            ("type: linear, factor: -2.0", "factor", "a factor"),
            ("rope_type: linear, factor: -2.0", "factor", "a factor"),
            ("type: linear, factor: 0.5", "factor", "it would shrink the context"),
            ("type: linear, factor: 1.0", "factor", "it would change nothing"),
            ("type: linear, factor: '2'", "factor", "a factor"),
            ("type: linear, factor: 2.0, rope_type: dynamic", "rope_type", "one type"),
            ("type: linear, factor: 2.0, original_max_position_embeddings: 4096",
             "original_max_position_embeddings", "an unknown key"),
            ("type: linear, factors: 2.0, factor: 2.0", "factors", "an unknown key"),
        ]
    ),
]  # fmt: skip


@parametrize(ACCEPTED)
def test_model_parameters_that_the_page_allows_are_accepted(case: Accepted) -> None:
    assert_accepted(FRAME, case)


@parametrize(REFUSED)
def test_model_parameters_that_the_page_does_not_allow_are_refused(case: Refused) -> None:
    assert_refused(FRAME, case._replace(path=f"model_parameters{case.path}"))


@pytest.mark.parametrize("written", [{"type": "dynamic", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}])
def test_the_kind_of_scaling_is_the_same_under_both_names(written: dict[str, object]) -> None:
    assert RopeScaling.model_validate(written).kind == "dynamic"
