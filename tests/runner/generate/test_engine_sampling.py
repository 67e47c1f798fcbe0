"""Tokens are chosen as transformers would, row by row, whatever the other rows want."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import pytest
import torch
from llm_runner.generate.engine_request import Request, Sampling, Token
from llm_runner.generate.engine_sampling import choose_tokens, filter_candidates
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from tests.support.engines import ScriptedForward, ask, running_engine

VOCABULARY = 700

FILTERS: dict[str, tuple[Sampling, list[LogitsProcessor]]] = {
    "temperature alone": (Sampling(0.7), []),
    "top k": (Sampling(0.7, top_k=9), [TopKLogitsWarper(9)]),
    "top p": (Sampling(0.7, top_p=0.8), [TopPLogitsWarper(0.8)]),
    "top p of nearly all": (Sampling(3.0, top_p=0.999), [TopPLogitsWarper(0.999)]),
    "min p": (Sampling(0.7, min_p=0.1), [MinPLogitsWarper(0.1)]),
    "typical": (Sampling(0.7, typical_p=0.6), [TypicalLogitsWarper(0.6)]),
    "epsilon": (Sampling(0.7, epsilon_cutoff=0.01), [EpsilonLogitsWarper(0.01)]),
    "eta": (Sampling(0.7, eta_cutoff=0.01), [EtaLogitsWarper(0.01)]),
    "all in turn": (
        Sampling(0.7, top_k=50, top_p=0.9, min_p=0.02, typical_p=0.8, epsilon_cutoff=0.01, eta_cutoff=0.02),
        [
            TopKLogitsWarper(50),
            TopPLogitsWarper(0.9),
            MinPLogitsWarper(0.02),
            TypicalLogitsWarper(0.8),
            EpsilonLogitsWarper(0.01),
            EtaLogitsWarper(0.02),
        ],
    ),
}


@dataclass
class Row:
    sampling: Sampling
    token_ids: Sequence[int] = (1,)
    top_logprobs: int | None = None
    random: Random = field(default_factory=lambda: Random(0))


def some_logits(rows: int = 4) -> torch.Tensor:
    return 2 * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FILTERS)
def test_filters_leave_the_probabilities_that_transformers_leaves(name: str) -> None:
    sampling, warpers = FILTERS[name]
    logits = some_logits()
    library = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature), *warpers])
    expected = library(torch.ones(4, 1, dtype=torch.long), logits.clone()).softmax(dim=-1)  # type: ignore[arg-type]
    values, token_ids = filter_candidates(logits, sampling)
    found = torch.zeros_like(logits).scatter_(1, token_ids, values.softmax(dim=-1))
    torch.testing.assert_close(found, expected)


def test_drawn_tokens_have_the_frequencies_of_their_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).log_softmax(dim=-1)
    row = Row(Sampling(1.0))
    drawn = Counter(tokens_of(choose_tokens(logits, [row]))[0] for _ in range(4000))
    for token, probability in enumerate(logits.exp()[0].tolist()):
        assert drawn[token] / 4000 == pytest.approx(probability, abs=0.03)


def tokens_of(chosen: Sequence[Token | Exception]) -> list[int]:
    return [token.id for token in chosen if isinstance(token, Token)]


def test_a_row_is_drawn_the_same_alone_and_among_others() -> None:
    logits = some_logits(3)
    rows = [Sampling(1.0, top_k=20), Sampling(), Sampling(0.5, top_p=0.9)]
    together = tokens_of(choose_tokens(logits, [Row(sampling) for sampling in rows]))
    alone = [tokens_of(choose_tokens(logits[[place]], [Row(sampling)]))[0] for place, sampling in enumerate(rows)]
    assert together == alone


def test_without_temperature_the_likeliest_token_is_chosen_whatever_the_filters_say() -> None:
    logits = some_logits(1)
    assert tokens_of(choose_tokens(logits, [Row(Sampling(0.0, top_k=5))])) == [int(logits.argmax())]


def test_processors_see_prompt_and_answer_and_change_their_own_row_only() -> None:
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 7], logits[:, 8] = 2.0, 1.5
    punished = Sampling(processors=[RepetitionPenaltyLogitsProcessor(2.0)])
    chosen = choose_tokens(logits, [Row(punished, token_ids=[3, 7]), Row(Sampling(), token_ids=[3, 7])])
    assert tokens_of(chosen) == [8, 7]


def test_a_processor_that_fails_fails_its_own_row_only() -> None:
    def fail(_token_ids: torch.Tensor, _scores: torch.Tensor) -> torch.Tensor:
        raise IndexError("no such token")

    first, second = choose_tokens(some_logits(2), [Row(Sampling(processors=[fail])), Row(Sampling())])
    assert isinstance(first, IndexError)
    assert isinstance(second, Token)


def test_log_probabilities_are_the_models_own_and_come_only_where_asked_for() -> None:
    logits = some_logits(3)
    expected = logits.log_softmax(dim=-1)
    rows = [Row(Sampling(5.0, top_k=3), top_logprobs=2), Row(Sampling()), Row(Sampling(), top_logprobs=0)]
    first, second, third = choose_tokens(logits, rows)
    assert isinstance(first, Token)
    assert isinstance(third, Token)
    assert first.logprob == pytest.approx(float(expected[0, first.id]))
    best = expected[0].topk(2)
    assert [token for token, _ in first.top] == best.indices.tolist()
    assert [logprob for _, logprob in first.top] == pytest.approx(best.values.tolist())
    assert second == Token(int(logits[1].argmax()))
    assert (third.logprob, third.top) == (pytest.approx(float(expected[2].max())), ())


def test_seeded_requests_repeat_exactly_and_others_differ() -> None:
    def request(seed: int | None) -> Request:
        return Request([5], max_new_tokens=30, sampling=Sampling(1.0, seed=seed))

    with running_engine(ScriptedForward()) as engine:
        answers = [tokens for tokens, _ in ask(engine, request(3), request(3), request(4), request(None))]
        again = ask(engine, request(3))[0][0]
    assert answers[0] == answers[1] == again
    assert len({tuple(tokens) for tokens in answers}) == 3
