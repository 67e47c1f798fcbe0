"""How good answers are: labels by scikit-learn, texts by exact match and ROUGE-L.

Loss and perplexity come from the model itself, in ``likelihood``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import regex
from rapidfuzz.distance import LCSseq
from sklearn.metrics import (  # type: ignore[import-untyped]
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
)

WORD = regex.compile(r"\w+")


@dataclass(frozen=True)
class LabelMetrics:
    """Of the labels that answers were given."""

    accuracy: float
    labels: tuple[str, ...]
    precision: dict[str, float]
    """By label: the share of answers with it that have it rightly; 0 where there are none."""
    recall: dict[str, float]
    """By label: the share of rows with it that were found; 0 where there are none."""
    confusion: list[list[int]]
    """Rows by true label and columns by given label, both in the order of ``labels``."""


@dataclass(frozen=True)
class TextMetrics:
    """Of answers in free text."""

    exact_match: float
    """Share of answers that are the expected text, but for white space around it."""
    rouge_l: float
    """Mean F1 of the longest common subsequence of words (Lin 2004), in any script, whatever their case."""


def measure_labels(expected: Sequence[str], given: Sequence[str], labels: Sequence[str]) -> LabelMetrics:
    """``labels`` are all there are, in the order that tables show them in; there is at least one row."""
    order = list(labels)
    precision, recall, _, _ = precision_recall_fscore_support(expected, given, labels=order, zero_division=0.0)
    return LabelMetrics(
        accuracy=float(accuracy_score(expected, given)),
        labels=tuple(order),
        precision=dict(zip(order, map(float, precision), strict=True)),
        recall=dict(zip(order, map(float, recall), strict=True)),
        confusion=confusion_matrix(expected, given, labels=order).tolist(),
    )


class TextTally:
    """Takes pairs of texts one by one, however many there are."""

    def __init__(self) -> None:
        self.rows = 0
        self._exact = 0
        self._rouge_l = 0.0

    def add(self, expected: str, given: str) -> None:
        self.rows += 1
        self._exact += expected.strip() == given.strip()
        self._rouge_l += rouge_l(expected, given)

    def to_metrics(self) -> TextMetrics:
        """Of at least one row."""
        return TextMetrics(exact_match=self._exact / self.rows, rouge_l=self._rouge_l / self.rows)


def measure_texts(expected: Sequence[str], given: Sequence[str]) -> TextMetrics:
    """There is at least one row."""
    tally = TextTally()
    for right, answer in zip(expected, given, strict=True):
        tally.add(right, answer)
    return tally.to_metrics()


def rouge_l(expected: str, given: str) -> float:
    """From 0 to 1; two texts without words are alike."""
    right, answer = (WORD.findall(text.lower()) for text in (expected, given))
    if not right and not answer:
        return 1.0
    return 2 * LCSseq.similarity(right, answer) / (len(right) + len(answer))
