"""Labels as tokens: how likely each is, and answers that can be nothing else."""

import math
from typing import Any

import pytest
import torch
from llm_api.config import Generation
from llm_api.config.features import CategoryOutputFeature
from llm_runner.errors import ConfigInvalid
from llm_runner.generate.decode import Decoder
from llm_runner.generate.labels import LabelTexts, build_label_texts
from llm_runner.generate.likelihood import label_probabilities, measure_loss, score_continuations
from llm_runner.generate.limits import AnswerLimits
from transformers import PreTrainedModel

from tests.support.generation import END, PROMPTS, answer_with, lively_model, next_logits
from tests.support.models import build_model, gpt2_config, neox_config, tiny_tokenizer

LABELS = {
    "negative": {"type": "contains", "value": "bad"},
    "neutral": {"type": "regex", "value": "so.?so"},
    "positive": {"type": "contains", "value": "(?-i)good"},
    "very positive": {"type": "contains", "value": "good!"},
}
TEXTS = {"negative": "bad", "neutral": "neutral", "positive": "good", "very positive": "good!"}


def label_texts() -> LabelTexts:
    feature = CategoryOutputFeature.model_validate(
        {
            "name": "mood",
            "type": "category",
            "preprocessing": {"fallback_label": "neutral"},
            "decoder": {"match": LABELS},
        }
    )
    return build_label_texts(feature, tiny_tokenizer())


def token_ids(text: str) -> list[int]:
    return list(tiny_tokenizer()(text)["input_ids"])


def by_hand(prompt: list[int], tokens: list[int], model: PreTrainedModel | None = None) -> list[float]:
    """The log-probability of each token, from a plain pass for each."""
    return [
        float(next_logits([*prompt, *tokens[:place]], model).log_softmax(0)[token])
        for place, token in enumerate(tokens)
    ]


CONTINUATIONS = [[[7], [8, 9, 10]], [[11, 12], [13]], [[14], [15]], [[16, 17, 18], [19, 20]]]


@pytest.mark.parametrize(
    "model", [lively_model(), build_model(gpt2_config()), build_model(neox_config())], ids=["llama", "gpt2", "neox"]
)
def test_each_token_of_a_continuation_has_the_log_probability_of_a_plain_pass(model: PreTrainedModel) -> None:
    scored = score_continuations(model, PROMPTS, CONTINUATIONS)
    for prompt, continuations, of_prompt in zip(PROMPTS, CONTINUATIONS, scored, strict=True):
        for tokens, scores in zip(continuations, of_prompt, strict=True):
            assert scores == pytest.approx(by_hand(prompt, tokens, model), abs=1e-4)


def test_the_loss_is_the_mean_over_all_tokens_and_perplexity_its_exponent() -> None:
    answers = [[7], [8, 9, 10, END], [11, END], [12]]
    scores = [by_hand(prompt, ids) for prompt, ids in zip(PROMPTS, answers, strict=True)]
    expected = -sum(map(sum, scores)) / 8
    for batch_size in (1, 3):
        measured = measure_loss(lively_model(), PROMPTS, answers, batch_size=batch_size)
        assert (measured.loss, measured.tokens) == (pytest.approx(expected, abs=1e-5), 8)
        assert measured.perplexity == pytest.approx(math.exp(expected), rel=1e-4)


def test_a_label_is_written_as_what_is_looked_for_or_by_its_name_with_a_space_before_and_without() -> None:
    expected = {label: (tuple(token_ids(text)), tuple(token_ids(f" {text}"))) for label, text in TEXTS.items()}
    assert label_texts().ways == expected


def mass(prompt: list[int], text: str) -> float:
    return sum(math.exp(sum(by_hand(prompt, token_ids(way)))) for way in (text, f" {text}"))


def test_probabilities_are_those_of_the_labels_own_tokens_among_all_labels() -> None:
    found = label_probabilities(lively_model(), PROMPTS, label_texts().ways)
    for prompt, probabilities in zip(PROMPTS, found, strict=True):
        masses = {label: mass(prompt, text) for label, text in TEXTS.items()}
        # What goes on with "!" is the longer label's.
        masses["positive"] -= masses["very positive"]
        whole = sum(masses.values())
        assert probabilities == pytest.approx({label: share / whole for label, share in masses.items()}, rel=1e-3)
        assert sum(probabilities.values()) == pytest.approx(1)


def test_a_label_that_begins_a_longer_one_has_what_the_longer_one_leaves() -> None:
    prompt = PROMPTS[0]
    first = int(next_logits(prompt).argmax())
    second = int(next_logits([*prompt, first]).argmax())
    longer = math.exp(sum(by_hand(prompt, [first, second])))
    shorter = math.exp(sum(by_hand(prompt, [first]))) - longer
    found = label_probabilities(lively_model(), [prompt], {"short": [(first,)], "long": [(first, second)]})
    assert found[0] == pytest.approx(
        {"short": shorter / (shorter + longer), "long": longer / (shorter + longer)}, rel=1e-3
    )
    assert found[0]["long"] > 0.05


def test_probabilities_do_not_depend_on_the_batch() -> None:
    together = label_probabilities(lively_model(), PROMPTS, label_texts().ways)
    alone = [label_probabilities(lively_model(), [prompt], label_texts().ways)[0] for prompt in PROMPTS]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_labels_that_are_all_out_of_the_question_are_equally_likely() -> None:
    class Mute(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.device = inner, inner.device

        def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
            outputs = self.inner(input_ids=input_ids, **inputs)
            outputs.logits[..., 2:] = -1e9
            return outputs

    found = label_probabilities(Mute(lively_model()), PROMPTS[:1], label_texts().ways)
    assert set(found[0].values()) == {0.25}


def constrained(**generation: Any) -> Decoder:
    written = Generation(**{"max_new_tokens": 12, **generation})
    return Decoder(
        lively_model(),
        tiny_tokenizer(),
        written,
        AnswerLimits(written, 256),
        build_constraint=label_texts().build_constraint,
    )


STRATEGIES: list[dict[str, Any]] = [
    {"do_sample": False},
    {"temperature": 3.0},
    {"num_beams": 3, "do_sample": False},
    {"num_beams": 3, "temperature": 2.0},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 2.0},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"do_sample": False, "repetition_penalty": 3.0},
]


@pytest.mark.proves("output_features.decoder.constrain_to_vocabulary")
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_constrained_to_the_vocabulary_every_answer_is_a_labels_text(strategy: dict[str, Any]) -> None:
    allowed = {way for text in TEXTS.values() for way in (text, f" {text}")}
    answers = answer_with(constrained(**strategy), PROMPTS)
    assert {tiny_tokenizer().decode(ids) for ids in answers} <= allowed


def test_the_greedy_choice_among_labels_is_the_likeliest_token_that_goes_on_with_one() -> None:
    first = {token_ids(way)[0] for text in TEXTS.values() for way in (text, f" {text}")}
    answers = answer_with(constrained(do_sample=False), PROMPTS)
    expected = [max(first, key=lambda token: float(next_logits(prompt)[token])) for prompt in PROMPTS]
    assert [ids[0] for ids in answers] == expected


def test_a_label_that_does_not_fit_into_an_answer_is_told() -> None:
    with pytest.raises(ConfigInvalid, match="an answer may have 3 tokens, and the longest label takes 8"):
        answer_with(constrained(max_new_tokens=3))
