"""Forced words stand in every answer, or the config is refused."""

from typing import Any

import pytest
from llm_runner.errors import ConfigInvalid
from llm_runner.generate.decode import Request
from llm_runner.generate.words import ForcedWords, Progress, build_forced_words

from tests.support.generation import END, PROMPTS, answer, answer_alone, build_decoder

WORDS = [[50, 51, 52], [60], [51, 50]]


def holds(ids: list[int], word: list[int]) -> bool:
    return any(ids[start : start + len(word)] == word for start in range(len(ids)))


def progress_of(words: ForcedWords, ids: list[int]) -> Progress:
    progress = words.start
    for token in ids:
        progress = words.advance(progress, token)
    return progress


def test_a_word_is_met_wherever_it_stands_and_stays_met() -> None:
    words = ForcedWords(((5, 6), (7,)))
    assert progress_of(words, [9, 5, 6, 9, 9]) == (2, 0)
    assert words.missing_tokens(progress_of(words, [5, 6, 7])) == 0


def test_a_word_that_is_broken_off_goes_on_from_where_it_begins_again() -> None:
    words = ForcedWords(((5, 5, 6),))
    assert progress_of(words, [5, 5, 5]) == (2,)
    assert progress_of(words, [5, 5, 5, 6]) == (3,)
    assert progress_of(words, [5, 9]) == (0,)


def test_one_begun_word_counts_towards_what_is_missing_and_two_do_not() -> None:
    words = ForcedWords(((5, 6, 7), (5, 8)))
    assert [words.missing_tokens(progress_of(words, ids)) for ids in ([], [5], [5, 6], [5, 8])] == [5, 4, 3, 3]
    assert words.next_tokens(progress_of(words, [5])) == {6, 8}
    assert [words.met_tokens(progress_of(words, ids)) for ids in ([], [5, 6])] == [0, 2]


STRATEGIES: list[dict[str, Any]] = [
    {"num_beams": 2, "do_sample": False},
    {"num_beams": 5, "do_sample": False},
    {"num_beams": 2, "temperature": 1.5, "top_k": 5},
    {"num_beams": 5, "temperature": 1.5, "top_k": 5},
    {"num_beams": 6, "num_beam_groups": 2, "diversity_penalty": 1.0},
    {"num_beams": 3, "do_sample": False, "early_stopping": True},
    {"num_beams": 3, "do_sample": False, "length_penalty": -2.0},
    {"num_beams": 3, "do_sample": False, "eos_token_id": list(range(100, 200))},
    {"num_beams": 3, "do_sample": False, "sequence_bias": [[[END], 30.0]]},
    {"num_beams": 3, "do_sample": False, "forced_eos_token_id": END},
    {"num_beams": 3, "do_sample": False, "no_repeat_ngram_size": 1},
    {"num_beams": 3, "do_sample": False, "suppress_tokens": [50, 52, 60]},
]


@pytest.mark.proves("generation.force_words_ids")
@pytest.mark.parametrize("most", [7, 11], ids=["just enough", "more than enough"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_word_is_in_every_answer_alone_and_in_a_batch(strategy: dict[str, Any], most: int) -> None:
    written = {**strategy, "force_words_ids": WORDS, "max_new_tokens": most}
    answers = answer(**written)
    assert answers == answer_alone(**written)
    assert [[word for word in WORDS if not holds(ids, word)] for ids in answers] == [[]] * len(PROMPTS)
    without = answer(**{**strategy, "max_new_tokens": most})
    assert not any(holds(ids, word) for ids in without for word in WORDS[:1])


def test_all_returned_answers_hold_the_words() -> None:
    decoder = build_decoder(num_beams=4, do_sample=False, force_words_ids=WORDS, max_new_tokens=10)
    answers = decoder.answer([Request(prompt) for prompt in PROMPTS], answers=4)
    assert all(holds(ids, word) for of_prompt in answers for ids in of_prompt for word in WORDS)


def test_words_and_fixed_places_go_together_where_there_is_room_for_both() -> None:
    fixed = {"forced_bos_token_id": 70, "forced_decoder_ids": [[4, 71]], "forced_eos_token_id": END}
    answers = answer(num_beams=4, temperature=1.0, force_words_ids=WORDS[:2], max_new_tokens=7, **fixed)
    assert all((ids[0], ids[4], len(ids)) == (70, 71, 6) for ids in answers)
    assert all(holds(ids, word) for ids in answers for word in WORDS[:2])


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"force_words_ids": [[50, 51, 52]], "max_new_tokens": 2}, "take 3 tokens, and an answer has room for 2"),
        ({"force_words_ids": [[50, END]], "max_new_tokens": 9}, r"\[50, 1\] holds a token that ends an answer"),
        (
            {"force_words_ids": [[50, 51]], "max_new_tokens": 2, "forced_eos_token_id": END},
            "take 2 tokens, and an answer has room for 1",
        ),
        (
            {"force_words_ids": [[50, 51]], "max_new_tokens": 3, "forced_decoder_ids": [[1, 60]]},
            "forced_decoder_ids leaves room for each of force_words_ids",
        ),
    ],
    ids=["too long", "ends", "no room before a forced end", "no room between fixed places"],
)
def test_words_that_can_not_be_said_are_refused(written: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigInvalid, match=told):
        answer(num_beams=2, do_sample=False, **written)


def test_the_same_word_twice_is_one_word() -> None:
    assert build_forced_words([[5, 6], [5, 6]], [END], free_places=2).words == ((5, 6),)
