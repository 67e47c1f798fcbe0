"""Figures about answers, against values worked out by hand."""

import pytest
from llm_runner.generate.metrics import measure_labels, measure_texts, rouge_l

EXPECTED = ["a", "a", "a", "b", "b", "c"]
GIVEN = ["a", "a", "b", "b", "a", "b"]


def test_labels_are_measured_over_all_rows_and_for_each_label() -> None:
    measured = measure_labels(EXPECTED, GIVEN, ["a", "b", "c", "d"])
    assert measured.accuracy == pytest.approx(3 / 6)
    assert measured.precision == pytest.approx({"a": 2 / 3, "b": 1 / 3, "c": 0, "d": 0})
    assert measured.recall == pytest.approx({"a": 2 / 3, "b": 1 / 2, "c": 0, "d": 0})


def test_the_confusion_matrix_has_true_labels_down_and_given_labels_across() -> None:
    measured = measure_labels(EXPECTED, GIVEN, ["c", "b", "a"])
    assert measured.labels == ("c", "b", "a")
    assert measured.confusion == [[0, 1, 0], [0, 1, 1], [0, 1, 2]]


@pytest.mark.parametrize(
    ("expected", "given", "score"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("the cat sat", "The Cat, sat!", 1.0),
        ("the cat sat on the mat", "the cat lay on a mat", 2 * 4 / 12),
        ("police killed the gunman", "the gunman police killed", 2 * 2 / 8),
        ("кошка сидит", "кошка спит", 2 * 1 / 4),
        ("a b", "c", 0.0),
        ("", "", 1.0),
        ("...", "", 1.0),
        ("a", "", 0.0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence_of_words(expected: str, given: str, score: float) -> None:
    assert rouge_l(expected, given) == pytest.approx(score)


def test_texts_match_exactly_but_for_the_white_space_around_them() -> None:
    measured = measure_texts(["yes", "no", "maybe"], [" yes\n", "No", "may be"])
    assert measured.exact_match == pytest.approx(1 / 3)
    assert measured.rouge_l == pytest.approx((1 + 1 + 0) / 3)
