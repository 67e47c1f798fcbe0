"""The figures of an evaluation, worked out by hand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from llm_runner.train.batch import Row
from llm_runner.train.evaluate import Evaluation, StopAsked, evaluate
from llm_runner.train.forward import choose_forward
from llm_runner.train.loss import TokenLoss

from tests.support.models import build_model, llama_config
from tests.support.rows import TokenRows, make_row, random_rows


@dataclass(frozen=True)
class GivenLosses:
    """A model that finds each answer's tokens as likely as its first token says, and gets even ones right."""

    pads: bool = False

    def __call__(self, rows: Sequence[Row]) -> TokenLoss:
        answers = [token for row in rows for token in row.token_ids[row.prompt_length :].tolist()]
        return TokenLoss(torch.tensor(float(sum(answers))), len(answers), sum(token % 2 == 0 for token in answers))


ROWS = TokenRows([make_row([0, 0, 2, 3], 2), make_row([0, 4], 1), make_row([0, 1, 1, 1, 1, 1], 1)])


def test_loss_is_per_target_token_and_perplexity_its_exponential() -> None:
    found = evaluate(GivenLosses(), ROWS, tokens_per_forward=1024)
    assert found == Evaluation(loss=14 / 8, next_token_accuracy=2 / 8, targets=8)
    assert found.perplexity == pytest.approx(math.exp(1.75))


@pytest.mark.parametrize("tokens", [1, 6, 7, 1024])
def test_how_rows_are_grouped_changes_nothing(tokens: int) -> None:
    assert evaluate(GivenLosses(), ROWS, tokens_per_forward=tokens).loss == 14 / 8


def test_it_may_be_bounded_to_the_first_rows() -> None:
    assert evaluate(GivenLosses(), ROWS, tokens_per_forward=1, most_rows=2) == Evaluation(9 / 3, 2 / 3, 3)
    assert evaluate(GivenLosses(), ROWS, tokens_per_forward=1, most_rows=99).targets == 8


def test_a_hopeless_model_has_an_infinite_perplexity_rather_than_an_error() -> None:
    assert Evaluation(1000.0, 0.0, 1).perplexity == math.inf


def test_it_ends_as_soon_as_the_run_is_to_stop() -> None:
    answers = iter([False, False, True])
    with pytest.raises(StopAsked):
        evaluate(GivenLosses(), ROWS, tokens_per_forward=1, should_stop=lambda: next(answers))


def test_a_real_models_figures_are_those_of_its_logits() -> None:
    model, rows = build_model(llama_config()), random_rows(5)
    loss, correct, targets = 0.0, 0, 0
    with torch.no_grad():
        for row in rows.rows:
            ids = torch.from_numpy(row.token_ids)
            chances = model(input_ids=ids[None]).logits[0].log_softmax(-1)
            for place in range(row.prompt_length, len(ids)):
                loss -= float(chances[place - 1, ids[place]])
                correct += int(chances[place - 1].argmax() == ids[place])
                targets += 1
    found = evaluate(choose_forward(model)[0], rows, tokens_per_forward=50)
    assert (found.targets, found.next_token_accuracy) == (targets, correct / targets)
    assert found.loss == pytest.approx(loss / targets, rel=1e-5)
