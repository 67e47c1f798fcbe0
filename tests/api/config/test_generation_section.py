"""Generation: the range of every key, strategies that exclude each other, and what is derived."""

import pytest
from llm_api.config import Generation, load_config

from tests.support.documents import build_config
from tests.support.verdicts import Accepted, Refused, assert_accepted, assert_refused, parametrize

FRAME = "generation: {SECTION}"
SWITCHES = ("do_sample", "use_cache", "renormalize_logits", "remove_invalid_values")
POSITIVE_INTEGERS = ("max_new_tokens", "max_length", "num_beams", "top_k")
COUNTS = ("min_new_tokens", "min_length", "prompt_lookup_num_tokens", "no_repeat_ngram_size")
SHARES = ("top_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
TOKENS = ("forced_bos_token_id", "pad_token_id", "bos_token_id", "forced_eos_token_id", "eos_token_id")
TOKEN_LISTS = ("suppress_tokens", "begin_suppress_tokens")
ALL = tuple(Generation.model_fields)

VALUES_ACCEPTED = [
    (SWITCHES, ("true", "false"), "options true, false"),
    (POSITIVE_INTEGERS, ("1", "32", "128"), "a positive integer"),
    (COUNTS, ("0", "3"), "a number of tokens"),
    (SHARES, ("0", "0.5", "1.0", "1"), "a share"),
    (TOKENS, ("0", "5", "128000"), "a token id"),
    (("forced_eos_token_id", "eos_token_id"), ("[1, 2]",), "several tokens"),
    (TOKEN_LISTS, ("[5]", "[5, 6]", "[]"), "token ids"),
    (("temperature",), ("0", "0.1", "1", "2.5"), "a number of at least 0"),
    (("early_stopping",), ("true", "false", "never"), "an option"),
    (("max_time",), ("2.5", "10"), "seconds"),
    (("penalty_alpha",), ("0", "0.6"), "a weight"),
    (("diversity_penalty",), ("0", "0.5"), "a penalty"),
    (("repetition_penalty", "encoder_repetition_penalty"), ("0.8", "1.2"), "a factor"),
    (("length_penalty",), ("2.0", "0", "-1.0"), "an exponent, negative for shorter ones"),
    (("guidance_scale",), ("0", "1", "1.5"), "a scale"),
    (("num_beam_groups",), ("1",), "no groups"),
    (("bad_words_ids",), ("[[5], [6, 7]]", "[]"), "sequences of token ids"),
    (("forced_decoder_ids",), ("[[0, 5], [1, 6]]",), "positions with token ids"),
    (("exponential_decay_length_penalty",), ("[5, 1.2]", "[0, 2]", "[5, 1e1]"), "a start and a factor"),
    (("sequence_bias",), ("[[[5, 6], -2.0]]", "[[[5], 1]]", "{'5,6': -2.0}", "{5: 1.0}", "{5: -1e2}", "{}"), "biases"),
]

ACCEPTED = [
    *(Accepted(f"{key}: {value}", why) for keys, values, why in VALUES_ACCEPTED for key in keys for value in values),
    *(Accepted(f"{key}: null", "null is the same as leaving it out") for key in ALL),
    Accepted("num_beams: 4, num_beam_groups: 2, diversity_penalty: 0.5, do_sample: false", "groups of beams"),
    Accepted("num_beams: 4, early_stopping: never, length_penalty: 0.8", "beams"),
    Accepted("num_beams: 2, force_words_ids: [[5]]", "forced words with beams"),
    Accepted("temperature: 0, do_sample: true", "temperature 0 is greedy"),
    Accepted("min_new_tokens: 5, max_new_tokens: 5", "at most as many"),
    Accepted("min_length: 50", "a default gives way"),
    Accepted("min_new_tokens: 50", "a default gives way"),
]

NO_NUMBERS = ("'1'", "true", "[1]", "many")
VALUES_REFUSED = [
    (SWITCHES, ("1", "'true'", "maybe", "[true]"), "options true, false"),
    (POSITIVE_INTEGERS, ("0", "-1", "2.5", *NO_NUMBERS), "a positive integer"),
    (COUNTS, ("-1", "2.5", *NO_NUMBERS), "a number of tokens"),
    (SHARES, ("-0.1", "1.5", ".nan", *NO_NUMBERS), "a share"),
    (("forced_bos_token_id", "pad_token_id", "bos_token_id"), ("-1", "2.5", "eos", "true", "[1]"), "a token id"),
    (("forced_eos_token_id", "eos_token_id"), ("-1", "2.5", "eos", "true"), "token ids"),
    (TOKEN_LISTS, ("5", "a", "{5: true}"), "a list of token ids"),
    (("temperature",), ("-0.1", ".inf", *NO_NUMBERS), "a number of at least 0"),
    (("early_stopping",), ("soon", "1", "Never", "0.5"), "not an option"),
    (("max_time",), ("0", "-1", "'2s'", "true"), "seconds"),
    (("num_beam_groups",), ("0", "-1", "1.5", "true"), "a positive integer"),
    (("penalty_alpha", "diversity_penalty", "guidance_scale"), ("-0.1", *NO_NUMBERS), "at least 0"),
    (("repetition_penalty", "encoder_repetition_penalty"), ("0", "-1.2", *NO_NUMBERS), "more than 0"),
    (("length_penalty",), ("'1'", "true", ".inf"), "a number"),
    (("bad_words_ids", "force_words_ids"), ("5", "a", "{a: 1}"), "sequences of token ids"),
    (("forced_decoder_ids",), ("5", "a"), "positions with token ids"),
    (("exponential_decay_length_penalty",), ("[5]", "5", "[5, 1.2, 3]", "[a, 1.2]", "[5, a]", "[-1, 1.2]", "[5, 0]",
                                             "[true, 1.2]", "{5: 1.2}"), "a start and a factor"),
    (("sequence_bias",), ("3", "a", "[[5, 6, 7]]", "[[[5], a]]", "[[[a], 1]]", "{a: 1.0}", "[[[], 1]]"), "biases"),
]  # fmt: skip

REFUSED = [
    *(Refused(f"{key}: {value}", key, why) for keys, values, why in VALUES_REFUSED for key in keys for value in values),
    *(
        Refused(f"{key}: [a]", f"{key}[0]", "token ids")
        for key in (*TOKEN_LISTS, "forced_eos_token_id", "eos_token_id")
    ),
    *(Refused(f"{key}: [-1]", f"{key}[0]", "token ids") for key in TOKEN_LISTS),
    Refused("bad_words_ids: [5]", "bad_words_ids[0]", "sequences of token ids"),
    Refused("bad_words_ids: [[a]]", "bad_words_ids[0][0]", "sequences of token ids"),
    Refused("bad_words_ids: [[]]", "bad_words_ids[0]", "an empty sequence is in every answer"),
    Refused("forced_decoder_ids: [[0, 5, 6]]", "forced_decoder_ids[0]", "positions with token ids"),
    Refused("min_new_tokens: 50, max_new_tokens: 10", "min_new_tokens", "min_new_tokens above max_new_tokens"),
    Refused("min_length: 50, max_length: 10", "min_length", "min_length above max_length"),
    Refused("num_beams: 3, num_beam_groups: 2", "num_beam_groups", "groups of equal size"),
    Refused("num_beams: 2, num_beam_groups: 4", "num_beam_groups", "groups of equal size"),
    Refused("num_beam_groups: 2", "num_beam_groups", "groups of one beam"),
    Refused("num_beams: 4, num_beam_groups: 2, do_sample: true", "do_sample", "groups of beams don't sample"),
    Refused("num_beams: 4, num_beam_groups: 2, diversity_penalty: -1", "diversity_penalty", "at least 0"),
    Refused("penalty_alpha: 0.6, top_k: 4, num_beams: 2", "num_beams", "contrastive search has one beam"),
    Refused("penalty_alpha: 0.6, top_k: 4, do_sample: true", "do_sample", "contrastive search does not sample"),
    Refused("force_words_ids: [[5]]", "force_words_ids", "forced words need beams"),
    *(
        Refused(f"{key}: 1", key, "not a key")
        for key in ("stop_strings", "stop", "max_tokens", "temprature", "seed", "n", "min_p", "beams")
    ),
]


@parametrize(ACCEPTED)
def test_generation_in_range_is_accepted(case: Accepted) -> None:
    assert_accepted(FRAME, case)


@parametrize(REFUSED)
def test_generation_out_of_range_is_refused(case: Refused) -> None:
    assert_refused(FRAME, case._replace(path=f"generation.{case.path}"))


def load_generation(keys: str) -> Generation:
    return load_config(build_config(FRAME.replace("SECTION", keys))).generation


def test_there_are_as_many_keys_as_on_the_page() -> None:
    assert len(ALL) == 38


@pytest.mark.parametrize(
    ("keys", "samples"),
    [
        ("", True),
        ("do_sample: true", True),
        ("do_sample: false", False),
        ("do_sample: null", True),
        ("temperature: 0", False),
        ("temperature: 0, do_sample: true", False),
        ("penalty_alpha: 0.6, top_k: 4", False),
        ("penalty_alpha: 0.6", False),
        ("penalty_alpha: 0.6, top_k: 1", True),
        ("penalty_alpha: 0", True),
        ("num_beams: 2, num_beam_groups: 2", False),
        ("num_beams: 2", True),
        ("num_beams: 2, do_sample: false", False),
    ],
)
def test_sampling_is_as_written_and_else_as_the_strategy_means(keys: str, samples: bool) -> None:
    assert load_generation(keys).samples is samples


@pytest.mark.parametrize(
    ("keys", "output_limit", "global_limit", "tokens"),
    [
        ("max_new_tokens: 32", 64, None, 32),
        ("max_new_tokens: 500", 64, None, 500),
        ("max_new_tokens: 5000", None, None, 900),
        ("", 64, None, 64),
        ("", 64, 120, 64),
        ("", None, 120, 20),
        ("", None, 50, 0),
        ("", None, None, 900),
        ("", 5000, None, 900),
        ("max_new_tokens: null", 64, None, 64),
        ("max_new_tokens: null", None, None, 900),
    ],
)
def test_the_length_of_an_answer_is_as_written_and_else_derived_and_never_past_the_context(
    keys: str, output_limit: int | None, global_limit: int | None, tokens: int
) -> None:
    found = load_generation(keys).resolve_max_new_tokens(
        output_limit=output_limit, global_limit=global_limit, prompt_tokens=100, context_tokens=1000
    )
    assert found == tokens


@pytest.mark.parametrize("written", ["[[[5, 6], -2.0]]", "{'5,6': -2.0}", "{'(5, 6)': -2}", "{'[5,6]': -2}"])
def test_biases_are_the_same_however_they_are_written(written: str) -> None:
    assert load_generation(f"sequence_bias: {written}").sequence_bias == [[[5, 6], -2.0]]


def test_a_length_penalty_keeps_the_kinds_of_its_numbers() -> None:
    assert load_generation("exponential_decay_length_penalty: [5, 2]").exponential_decay_length_penalty == [5, 2.0]
