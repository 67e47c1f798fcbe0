"""Beams find what a search by hand finds: plain ones as the library's, diverse ones by Hamming diversity, drawn ones by
their odds.
"""

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from llm_runner.errors import ConfigInvalid
from llm_runner.generate.beams import BeamSettings, PromptSearch
from llm_runner.generate.decode import Request

from tests.support.generation import PROMPTS, answer, answer_alone, build_decoder, lively_model, next_logits

ENDS = list(range(40, 90))
"""A fifth of the vocabulary ends an answer, so that beams end at all lengths."""
PLAIN: dict[str, Any] = {"do_sample": False, "num_beams": 4, "max_new_tokens": 12, "eos_token_id": ENDS}


@pytest.mark.proves("generation.num_beams")
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 2.0])
def test_our_beams_find_what_the_librarys_find(early_stopping: bool | str, length_penalty: float) -> None:
    written = {**PLAIN, "early_stopping": early_stopping, "length_penalty": length_penalty}
    # Mended logits are what sends plain beams our way.
    assert answer(remove_invalid_values=True, **written) == answer(**written)


def test_further_answers_are_the_beams_next_to_the_best() -> None:
    ours, library = (
        build_decoder(**PLAIN, remove_invalid_values=mends).answer([Request(ids) for ids in PROMPTS], answers=3)
        for mends in (True, False)
    )
    assert ours == library
    assert all(len({tuple(ids) for ids in of_prompt}) == 3 for of_prompt in ours)


def best_of_all(prompt: list[int], length_penalty: float) -> list[int]:
    """Of all answers of one or two tokens."""
    first = next_logits(prompt).log_softmax(0)
    going_on = [token for token in range(258) if token not in ENDS]
    with torch.no_grad():
        after: Any = lively_model()(torch.tensor([[*prompt, token] for token in going_on]))
    second = first[going_on, None] + after.logits[:, -1].log_softmax(-1)
    ended = {(token,): float(first[token]) for token in ENDS}
    longer = {(going_on[i], j): float(second[i, j]) for i, j in itertools.product(range(len(going_on)), range(258))}
    scores = ended | {ids: score / 2**length_penalty for ids, score in longer.items()}
    return [token for token in max(scores, key=lambda ids: scores[ids]) if token not in ENDS]


@pytest.mark.proves("generation.num_beams", "generation.length_penalty")
@pytest.mark.parametrize("mends", [True, False], ids=["ours", "library"])
@pytest.mark.parametrize("length_penalty", [-2.0, 3.0])
def test_with_a_beam_for_everything_the_best_of_all_answers_is_found(length_penalty: float, mends: bool) -> None:
    written = {"num_beams": 258, "max_new_tokens": 2, "early_stopping": "never", "length_penalty": length_penalty}
    found = answer(PROMPTS[:2], **{**PLAIN, **written}, remove_invalid_values=mends)
    assert found == [best_of_all(prompt, length_penalty) for prompt in PROMPTS[:2]]


@pytest.mark.proves("generation.length_penalty")
def test_a_higher_length_penalty_favours_longer_answers() -> None:
    lengths = [
        sum(map(len, answer(**PLAIN, length_penalty=penalty, early_stopping="never"))) for penalty in (-3.0, 1.0, 5.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]


COSTS = [(1.0, 6.0), (0.5, 0.4), (9.0, 5.0), *[(9.0, 0.1)] * 17]
"""At each step, of ending (token 0) and of going on (token 1)."""


def steps_until_done(early_stopping: Any, length_penalty: float = 1.0) -> int:
    """Two answers have ended after two steps; what goes on is dear for one more step, and cheap for long after it."""
    settings = BeamSettings(2, frozenset({0}), 0, early_stopping=early_stopping, length_penalty=length_penalty)
    search = PromptSearch(settings, most_new_tokens=len(COSTS))
    for step, (end, go_on) in enumerate(COSTS, start=1):
        log_probs = torch.tensor([[-end, -go_on, -99.0]] * 2)
        search.advance(log_probs, log_probs)
        if search.is_done:
            return step
    raise AssertionError("a search ends with its greatest length")


@pytest.mark.proves("generation.early_stopping")
def test_early_stopping_says_when_beams_stop_looking() -> None:
    assert [steps_until_done(rule) for rule in (True, False, "never")] == [2, 3, 20]


def test_never_stops_early_where_longer_answers_can_only_be_worse() -> None:
    assert [steps_until_done("never", length_penalty=penalty) for penalty in (0.0, -1.0)] == [3, 3]


@dataclass
class ByHand:
    """Diverse beam search in its plainest form: lists, one prompt, no cache."""

    prompt: list[int]
    groups: int
    size: int
    penalty: float
    most: int
    guidance: float = 1.0

    def search(self) -> list[int]:
        running = [[([], 0.0)] for _ in range(self.groups)]
        ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(self.groups)]
        for step in range(1, self.most + 1):
            taken: Counter[int] = Counter()
            for group in range(self.groups):
                candidates = self._candidates(running[group], taken)
                best = candidates[: self.size]
                ended[group] += [(score / step, ids) for ids, score in best if ids[-1] in ENDS]
                running[group] = [(ids, score) for ids, score in candidates if ids[-1] not in ENDS][: self.size]
                taken += Counter(ids[-1] for ids, _ in running[group])
        for group in range(self.groups):
            ended[group] += [(score / self.most, ids) for ids, score in running[group]]
            ended[group] = sorted(ended[group], reverse=True)[: self.size]
        best_ids = max(itertools.chain(*ended))[1]
        return [token for token in best_ids if token not in ENDS]

    def _candidates(self, beams: Any, taken: Counter[int]) -> list[tuple[list[int], float]]:
        found = []
        for ids, score in beams:
            log_probs = self._log_probs(ids)
            found += [([*ids, token], score + log_probs[token] - self.penalty * taken[token]) for token in range(258)]
        return sorted(found, key=lambda candidate: -candidate[1])

    def _log_probs(self, ids: list[int]) -> list[float]:
        guided = next_logits([*self.prompt, *ids]).log_softmax(0)
        unguided = next_logits([self.prompt[-1], *ids]).log_softmax(0)
        scores = unguided + self.guidance * (guided - unguided)
        # Guided scores may be above zero, so only answers of one length can be compared by hand.
        return (scores if self.guidance == 1 else scores.index_fill(0, torch.tensor(ENDS), -math.inf)).tolist()


@pytest.mark.proves("generation.num_beam_groups", "generation.diversity_penalty")
@pytest.mark.parametrize("penalty", [0.0, 0.7])
@pytest.mark.parametrize(("groups", "beams"), [(2, 4), (3, 3)])
def test_diverse_beams_are_those_of_hamming_diversity(groups: int, beams: int, penalty: float) -> None:
    written = {"num_beam_groups": groups, "num_beams": beams, "diversity_penalty": penalty, "early_stopping": "never"}
    expected = [ByHand(prompt, groups, beams // groups, penalty, 6).search() for prompt in PROMPTS]
    given = {**PLAIN, **written, "max_new_tokens": 6}
    assert answer(**given) == expected
    assert answer_alone(**given) == expected


@pytest.mark.parametrize("mends", [True, False], ids=["ours", "library"])
def test_guided_beams_each_know_what_they_would_say_without_the_prompt(mends: bool) -> None:
    expected = [ByHand(prompt, 1, 4, 0.0, 6, guidance=1.8).search() for prompt in PROMPTS]
    given = {
        **PLAIN,
        "max_new_tokens": 6,
        "guidance_scale": 1.8,
        "suppress_tokens": ENDS,
        "remove_invalid_values": mends,
    }
    assert answer(**given) == expected
    assert expected != answer(**{**given, "guidance_scale": None})


def shared_tokens(penalty: float) -> int:
    """How often two of four groups say the same at the same place."""
    decoder = build_decoder(num_beams=4, num_beam_groups=4, diversity_penalty=penalty, max_new_tokens=8)
    answers = decoder.answer([Request(prompt) for prompt in PROMPTS], answers=4)
    pairs = (pair for of_prompt in answers for pair in itertools.combinations(of_prompt, 2))
    return sum(one == other for pair in pairs for one, other in zip(*pair, strict=False))


@pytest.mark.proves("generation.diversity_penalty")
def test_groups_without_a_penalty_agree_and_differ_the_more_the_higher_it_is() -> None:
    same, closer, apart = (shared_tokens(penalty) for penalty in (0.0, 0.5, 1000.0))
    assert same == len(PROMPTS) * 6 * 8
    assert same > closer > apart == 0


def test_groups_do_not_sample_by_themselves() -> None:
    assert answer(num_beams=4, num_beam_groups=2, max_new_tokens=6) == answer(
        num_beams=4, num_beam_groups=2, do_sample=False, max_new_tokens=6
    )


def test_drawn_beams_are_drawn_without_replacement_by_their_odds() -> None:
    """Of five tokens four are drawn for two beams, and the likeliest of them is the answer."""
    odds, tokens = next_logits(PROMPTS[0]).softmax(0).topk(5)
    shares = (odds / odds.sum()).tolist()
    expected = [0.0] * 5
    for order in itertools.permutations(range(5), 4):
        left, chance = 1.0, 1.0
        for place in order:
            chance *= shares[place] / left
            left -= shares[place]
        expected[min(order)] += chance
    decoder = build_decoder(num_beams=2, temperature=1.0, top_k=5, max_new_tokens=1, eos_token_id=257)
    drawn = decoder.answer([Request(PROMPTS[0], seed=seed) for seed in range(3000)])
    counts = Counter(tuple(of_prompt[0]) for of_prompt in drawn)
    for token, chance in zip(tokens.tolist(), expected, strict=True):
        assert abs(counts[token,] - 3000 * chance) < 5 * math.sqrt(3000 * chance * (1 - chance)) + 1


def test_drawn_beams_change_with_the_seed_and_hold_more_likely_answers_than_single_draws() -> None:
    beams = build_decoder(num_beams=4, temperature=1.0, max_new_tokens=8)
    answers = {tuple(beams.answer([Request(PROMPTS[0], seed=seed)])[0][0]) for seed in range(6)}
    assert len(answers) > 1
    single = build_decoder(temperature=1.0, max_new_tokens=8)
    drawn = [single.answer([Request(PROMPTS[0], seed=seed)])[0][0] for seed in range(6)]
    assert min(map(log_likelihood, map(list, answers))) > sum(map(log_likelihood, drawn)) / 6


def log_likelihood(ids: list[int]) -> float:
    prompt = PROMPTS[0]
    return sum(float(next_logits([*prompt, *ids[:at]]).log_softmax(0)[token]) for at, token in enumerate(ids))


def test_more_answers_than_beams_are_refused() -> None:
    with pytest.raises(ConfigInvalid, match="5 answers to a prompt are asked for, and this search has 4"):
        build_decoder(**PLAIN).answer([Request(PROMPTS[0])], answers=5)
