"""What a run has achieved, as its report and its outcome have it. Measures nothing but the memory that it took."""

from dataclasses import dataclass

import torch
from llm_api.report import Outcome

from llm_runner.report.memory import peak_memory_bytes
from llm_runner.report.metrics_file import EvalMetrics, RunMetrics, TrainMetrics, to_flat_metrics
from llm_runner.report.sample import Sample
from llm_runner.store.publish import Published
from llm_runner.train.artifact import SavedWeights
from llm_runner.train.evaluate import Evaluation
from llm_runner.train.inputs import Inputs
from llm_runner.train.state import LoopState


@dataclass(frozen=True)
class Judged:
    """How well the tuned model does on the hold-out, and what it says."""

    hold_out: Evaluation | None
    """None where nothing is held out."""
    sample: Sample | None
    """None where it was not asked."""


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers in the model, and those of them that were trained."""

    trained: int
    all: int


def to_metrics(
    inputs: Inputs,
    state: LoopState,
    judged: Judged,
    saved: SavedWeights,
    counts: ParameterCounts,
    device: torch.device,
) -> RunMetrics:
    last = state.curve[-1]
    return RunMetrics(
        train=TrainMetrics(
            steps=state.step,
            epochs=last.epoch,
            loss=last.train_loss,
            tokens=state.tokens,
            seconds=state.train_seconds,
            tokens_per_second=state.tokens_per_second,
            stopped_early=state.stopped_early,
            best_step=state.best_step,
            tokens_per_forward=state.tokens_per_forward,
        ),
        eval=None if judged.hold_out is None else _to_eval_metrics(inputs, judged.hold_out, judged, state, saved),
        rows=inputs.data.counts,
        peak_memory_bytes=peak_memory_bytes(device),
        trained_parameters=counts.trained,
        parameters=counts.all,
    )


def _to_eval_metrics(
    inputs: Inputs, hold_out: Evaluation, judged: Judged, state: LoopState, saved: SavedWeights
) -> EvalMetrics:
    sample = judged.sample
    return EvalMetrics(
        loss=hold_out.loss,
        perplexity=hold_out.perplexity,
        next_token_accuracy=hold_out.next_token_accuracy,
        reward_accuracy=hold_out.reward_accuracy,
        reward_margin=hold_out.reward_margin,
        split="validation" if len(inputs.data.validation) > 0 else "test",
        base_loss=state.base_loss,
        merged_loss=saved.merged_loss,
        sample_rows=None if sample is None else sample.rows,
        sample_exact_match=None if sample is None else sample.exact_match,
        sample_rouge_l=None if sample is None else sample.rouge_l,
    )


def to_outcome(state: LoopState, metrics: RunMetrics, published: Published) -> Outcome:
    return Outcome(
        reason="Succeeded",
        last_step=state.step,
        resumed_from_step=state.resumed_from_step,
        metrics=to_flat_metrics(metrics),
        artifact_uri=published.uri,
        artifact_digest=published.digest,
        artifact_size_bytes=published.size_bytes,
    )
