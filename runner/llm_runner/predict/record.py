"""What is kept of one answered row, until all of them are: a line of JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from llm_runner.predict.task import Prediction


@dataclass(frozen=True)
class Record:
    """One row of the dataset by its number, counted from 0: its prediction, or why there is none."""

    row: int
    value: str | None = None
    text: str | None = None
    probabilities: Mapping[str, float] | None = None
    error: str | None = None
    is_cut: bool = False
    """Whether its prompt was cut to length."""
    log_likelihood: float | None = None
    """Of the known answer, summed over its tokens; None where there is none, or it is a label."""
    answer_tokens: int = 0

    def to_line(self) -> str:
        kept = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(kept, ensure_ascii=False) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        return cls(**json.loads(line))


def to_record(row: int, result: Prediction | Exception, *, is_cut: bool = False) -> Record:
    if isinstance(result, Prediction):
        return Record(row, result.value, result.text, result.probabilities, is_cut=is_cut)
    return Record(row, error=str(result), is_cut=is_cut)
