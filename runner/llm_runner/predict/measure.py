"""How good a batch's predictions are, where the dataset has the answers. Takes rows one by one."""

import math
from dataclasses import asdict
from typing import Any

from llm_runner.generate.likelihood import Loss
from llm_runner.generate.metrics import LabelMetrics, TextTally, measure_labels
from llm_runner.predict.record import Record

MOST_TOLD_LABELS = 20
"""Labels whose figures an outcome has room for; the report tells all."""


class Tally:
    """Of one dataset."""

    def __init__(self, labels: list[str] | None) -> None:
        """``labels``: all that the output may be, None where it is text."""
        self._labels = labels
        self.rows = self.failed = self.cut = 0
        self.first_error: str | None = None
        self._expected: list[str] = []
        self._given: list[str] = []
        self._texts = TextTally()
        self._log_likelihood = 0.0
        self._tokens = 0

    def add(self, record: Record, expected: str | None) -> None:
        self.rows += 1
        self.cut += record.is_cut
        if record.value is None:
            self.failed += 1
            self.first_error = record.error if self.first_error is None else self.first_error
        elif expected is not None:
            self._compare(expected, record.value)
        if record.log_likelihood is not None:
            self._log_likelihood += record.log_likelihood
            self._tokens += record.answer_tokens

    def _compare(self, expected: str, given: str) -> None:
        if self._labels is None:
            self._texts.add(expected, given)
        else:
            self._expected.append(expected)
            self._given.append(given)

    def to_report(self) -> dict[str, Any]:
        """All figures, as they are stored beside the predictions."""
        return {"rows": self.rows, "failed_rows": self.failed, "cut_rows": self.cut, **self._measure()}

    def to_flat_metrics(self) -> dict[str, float]:
        """As an Outcome holds them: of each label too, where there are not too many."""
        flat: dict[str, float] = {}
        for name, value in self.to_report().items():
            if isinstance(value, dict) and len(value) <= MOST_TOLD_LABELS:
                flat |= {f"{name}.{label}": figure for label, figure in value.items()}
            elif isinstance(value, int | float) and math.isfinite(value):
                flat[name] = float(value)
        return flat

    def _measure(self) -> dict[str, Any]:
        if self._labels is not None:
            return asdict(self._measure_labels(self._labels)) if self._expected else {}
        texts = asdict(self._texts.to_metrics()) if self._texts.rows > 0 else {}
        measured = {"measured_rows": self._texts.rows} if texts else {}
        return {**measured, **texts, **self._measure_loss()}

    def _measure_labels(self, labels: list[str]) -> LabelMetrics:
        """Labels that only the data knows count as wrong, and have a row in the table."""
        return measure_labels(self._expected, self._given, list(dict.fromkeys([*labels, *self._expected])))

    def _measure_loss(self) -> dict[str, float]:
        if self._tokens == 0:
            return {}
        found = Loss(-self._log_likelihood / self._tokens, self._tokens)
        finite = {"loss": found.loss, "perplexity": found.perplexity}
        return {name: value for name, value in finite.items() if math.isfinite(value)}
