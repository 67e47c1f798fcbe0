"""metrics.json: what a run achieved, for machines and for the model card. Measures nothing."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from llm_runner.report.json_value import to_json_value

METRICS_NAME = "metrics.json"


@dataclass(frozen=True)
class TrainMetrics:
    """The training itself; over all attempts where a run was stopped and went on."""

    steps: int
    """Optimizer steps."""
    epochs: float
    loss: float
    """Of the last step: mean negative log-likelihood of a target token, in nats; of pairs, their method's own."""
    tokens: int
    """Non-padding tokens, prompt and target."""
    seconds: float
    tokens_per_second: float
    stopped_early: bool = False
    best_step: int | None = None
    """The step whose weights were kept; None where nothing is held out."""
    tokens_per_forward: int | None = None
    """What ``batch_size: auto`` found to fit into memory at a time; None where the config says it."""


@dataclass(frozen=True)
class EvalMetrics:
    """The tuned model on rows that it was not trained on. Of pairs, those of tokens are of the chosen answers."""

    loss: float
    perplexity: float
    next_token_accuracy: float
    """Between 0 and 1."""
    split: Literal["validation", "test"] = "validation"
    reward_accuracy: float | None = None
    """Of pairs: the fraction whose chosen answer has the larger reward; None where there is no reference."""
    reward_margin: float | None = None
    """Of pairs: how much larger it is, in the mean."""
    base_loss: float | None = None
    """Of the model before tuning, on the same rows."""
    merged_loss: float | None = None
    """Of the merged model that is stored, on the same rows."""
    sample_rows: int | None = None
    """Rows of the hold-out that the tuned model was asked and has answered, which the two figures below are of."""
    sample_exact_match: float | None = None
    """Share of answers that are the row's own, but for white space around it."""
    sample_rouge_l: float | None = None
    """Mean F1 of the longest common subsequence of words."""


class RowCounts(Protocol):
    """What became of the rows that were read."""

    @property
    def rows_read(self) -> int: ...
    @property
    def rows_train(self) -> int: ...
    @property
    def rows_validation(self) -> int: ...
    @property
    def rows_test(self) -> int: ...
    @property
    def rows_dropped(self) -> int: ...
    @property
    def rows_truncated(self) -> int: ...


ROW_COUNTS = ("rows_read", "rows_train", "rows_validation", "rows_test", "rows_dropped", "rows_truncated")


@dataclass(frozen=True)
class RunMetrics:
    """Everything that metrics.json holds."""

    train: TrainMetrics
    eval: EvalMetrics | None
    """None where nothing is held out."""
    rows: RowCounts
    peak_memory_bytes: int
    trained_parameters: int
    parameters: int

    def to_json_object(self) -> dict[str, Any]:
        """``train`` and ``eval`` are objects; counts stand beside them. What is not known is left out."""
        groups = {"train": asdict(self.train), "eval": {} if self.eval is None else asdict(self.eval)}
        known = {
            name: {key: value for key, value in group.items() if value is not None}
            for name, group in groups.items()
            if group
        }
        return {
            **known,
            "peak_memory_bytes": self.peak_memory_bytes,
            "trained_parameters": self.trained_parameters,
            "parameters": self.parameters,
            **_to_counts(self.rows),
        }


@dataclass(frozen=True)
class UntrainedMetrics:
    """Everything that metrics.json holds of a run that trains nothing."""

    eval: Mapping[str, Any]
    """How the model as it is answers the hold-out; empty where nothing is held out."""
    rows: RowCounts
    peak_memory_bytes: int

    def to_json_object(self) -> dict[str, Any]:
        return {
            **({"eval": dict(self.eval)} if self.eval else {}),
            "peak_memory_bytes": self.peak_memory_bytes,
            **_to_counts(self.rows),
        }


AnyMetrics: TypeAlias = RunMetrics | UntrainedMetrics


def to_flat_metrics(metrics: AnyMetrics) -> dict[str, float]:
    """Every finite number by its dotted name (``train.loss``), as an Outcome holds them."""
    return dict(_flatten(metrics.to_json_object()))


def save_metrics(path: Path, metrics: AnyMetrics) -> None:
    """A perplexity that is infinite is stored as null."""
    text = json.dumps(to_json_value(metrics.to_json_object()), indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _to_counts(rows: RowCounts) -> dict[str, int]:
    return {name: getattr(rows, name) for name in ROW_COUNTS}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            flat.append((prefix + name, float(value)))
    return flat
