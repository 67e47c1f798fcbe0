"""Has the tuned model answer a few rows of the hold-out while it is in memory, so that people see what it says.

Puts the model into the state that generating needs, and back. How answers are generated is the caller's to say:
training and generating stand side by side.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from llm_api.config import LLMConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_runner.data.prepared import RenderedExample
from llm_runner.report.card import CardExample
from llm_runner.report.reporter import Reporter
from llm_runner.report.sample import Sample
from llm_runner.train.attention import PACKED_ATTENTION


@dataclass(frozen=True)
class Asked:
    """A tuned model, and what it is asked."""

    model: PreTrainedModel
    """The language model itself, an adapter in its layers; it is not to be changed."""
    tokenizer: PreTrainedTokenizerBase
    config: LLMConfig
    context_tokens: int
    examples: Sequence[RenderedExample]
    seed: int
    one_by_one: bool
    """Whether the model can't do with padding, or isn't known to."""
    should_stop: Callable[[], bool]


Ask: TypeAlias = Callable[[Asked], Sample]
"""Answers what it can; a row that can't be answered has its error, and one that was not reached neither."""


def ask_sample(ask: Ask, asked: Asked, reporter: Reporter) -> Sample:
    """Never raises for want of an answer: what was trained is worth storing without one too."""
    try:
        with _ready_to_generate(asked.model):
            sample = ask(asked)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        sample = Sample([CardExample(one.prompt, one.target, error=said) for one in asked.examples])
    _tell(sample, reporter)
    return sample


@contextmanager
def _ready_to_generate(model: PreTrainedModel) -> Iterator[None]:
    """Attention that knows masks and caches, and no compiling for each new length."""
    config: Any = model.config
    own, was_training = config._attn_implementation, model.training
    model.eval()
    if own == PACKED_ATTENTION:
        model.set_attn_implementation("sdpa")
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.set_attn_implementation(own)
        model.train(was_training)
        if model.device.type == "cuda":
            torch.cuda.empty_cache()


def _tell(sample: Sample, reporter: Reporter) -> None:
    if sample.exact_match is not None:
        reporter.info(
            f"{sample.rows} rows of the hold-out were answered: exact match {sample.exact_match:.3f}, "
            f"ROUGE-L {sample.rouge_l:.3f}"
        )
    failed = [example.error for example in sample.examples if example.error is not None]
    if failed:
        count = f"{len(failed)} of {len(sample.examples)} rows"
        reporter.warning(f"{count} of the hold-out could not be answered; the first: {failed[0]}")
    elif sample.rows < len(sample.examples):
        reporter.info("asked to stop: the other rows of the hold-out are left unanswered, and the model is stored")
