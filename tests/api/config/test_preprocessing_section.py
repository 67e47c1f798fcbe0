"""Lengths, sampling and splits of the data."""

import pytest
from llm_api.config import load_config

from tests.support.documents import build_config
from tests.support.verdicts import Accepted, Refused, assert_accepted, assert_refused, parametrize

PREPROCESSING = "preprocessing: {SECTION}"
SPLITS = [
    ("type: random", "rows at random"),
    ("type: random, probabilities: [0.8, 0.1, 0.1]", "shares that add up to 1"),
    ("type: random, probabilities: [1, 0, 0]", "whole numbers are numbers"),
    ("type: random, probabilities: [0.9, 0.1, 0]", "no test rows"),
    ("type: fixed", "the column split"),
    ("type: fixed, column: part", "a column of one's own"),
    ("type: stratify", "by the answers"),
    ("type: stratify, column: label, probabilities: [0.6, 0.2, 0.2]", "by a column"),
    ("type: datetime, column: day", "by time"),
    ("type: hash, column: id, probabilities: [0.5, 0.25, 0.25]", "by what must stay together"),
]

ACCEPTED = [
    Accepted("global_max_sequence_length: null", "null is no limit"),
    Accepted("global_max_sequence_length: 1", "a positive integer"),
    Accepted("global_max_sequence_length: 4096", "a positive integer"),
    Accepted("sample_ratio: 0.5", "a share"),
    Accepted("sample_ratio: 1", "all"),
    Accepted("sample_size: 100", "a number of rows"),
    Accepted("sample_size: null", "all"),
    Accepted("split: null", "a null section is one that was left out"),
    *(Accepted(f"split: {{{split}}}", reason) for split, reason in SPLITS),
]

REFUSED = [
    *(
        Refused(
            f"global_max_sequence_length: {length}", "preprocessing.global_max_sequence_length", "a positive integer"
        )
        for length in ("0", "-5", "'512'", "512.5", "true", "[512]", "auto")
    ),
    Refused("global_max_seq_length: 64", "preprocessing.global_max_seq_length", "a typo leaves the length unlimited"),
    Refused("max_sequence_length: 64", "preprocessing.max_sequence_length", "it stands at features"),
    Refused("text: {}", "preprocessing.text", "an unknown key"),
    Refused("sample_ratio: 1.5", "preprocessing.sample_ratio", "a share"),
    Refused("sample_ratio: -0.1", "preprocessing.sample_ratio", "a share"),
    Refused("sample_ratio: half", "preprocessing.sample_ratio", "a share"),
    Refused("sample_size: -1", "preprocessing.sample_size", "a number of rows"),
    Refused("sample_ratio: 0.5, sample_size: 9", "preprocessing.sample_size", "one of both would be lost"),
    Refused("oversample_minority: 0.5", "preprocessing.oversample_minority", "means nothing for text"),
    Refused("force_split: true", "preprocessing.force_split", "an unknown key"),
    *(
        Refused(f"split: {split}", f"preprocessing.split{path}", reason)
        for split, path, reason in [
            ("random", "", "a section"),
            ("{}", ".type", "a split has a type"),
            ("{type: kfold}", ".type", "not one of the types"),
            ("{type: random, probabilities: [0.5, 0.5]}", ".probabilities", "three shares"),
            ("{type: random, probabilities: [0.5, 0.3, 0.1, 0.1]}", ".probabilities", "three shares"),
            ("{type: random, probabilities: []}", ".probabilities", "three shares"),
            ("{type: random, probabilities: 0.7}", ".probabilities", "three shares"),
            ("{type: random, probabilities: [0.7, 0.1, 0.1]}", ".probabilities", "shares that add up to 1"),
            ("{type: random, probabilities: [1.2, 0, 0]}", ".probabilities[0]", "shares of 0 to 1"),
            ("{type: random, probabilities: [0.7, 0.1, '0.2']}", ".probabilities[2]", "shares are numbers"),
            ("{type: random, column: a}", ".column", "it would be lost"),
            ("{type: fixed, probabilities: [0.7, 0.1, 0.2]}", ".probabilities", "it would be lost"),
            ("{type: fixed, column: 5}", ".column", "a column's name"),
            ("{type: datetime}", ".column", "a column is needed"),
            ("{type: hash}", ".column", "a column is needed"),
            ("{type: hash, column: null}", ".column", "a column is needed"),
        ]
    ),
]


@parametrize(ACCEPTED)
def test_preprocessing_in_range_is_accepted(case: Accepted) -> None:
    assert_accepted(PREPROCESSING, case)


@parametrize(REFUSED)
def test_preprocessing_out_of_range_is_refused(case: Refused) -> None:
    assert_refused(PREPROCESSING, case)


@pytest.mark.parametrize("text", ["{}", "preprocessing: {sample_size: 5}", "preprocessing: {split: null}"])
def test_a_split_that_is_not_written_is_the_printed_one_and_known_to_be_unwritten(text: str) -> None:
    preprocessing = load_config(build_config(text)).preprocessing
    assert preprocessing.split.model_dump() == {"type": "random", "probabilities": [0.7, 0.1, 0.2]}
    assert "split" not in preprocessing.model_fields_set


def test_all_three_length_knobs_go_together() -> None:
    config = load_config(
        build_config(
            "input_features: [{name: a, type: text, preprocessing: {max_sequence_length: 64}}]\n"
            "output_features: [{name: b, type: text, preprocessing: {max_sequence_length: 32}}]\n"
            "preprocessing: {global_max_sequence_length: 96}"
        )
    )
    assert config.preprocessing.global_max_sequence_length == 96
