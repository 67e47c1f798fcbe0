"""Answers rows of a hold-out with a model that has just been tuned, as it would answer them once it is stored.

Decodes in one batch with the library's own cache: no copy of the weights is made, and nothing stays behind.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from llm_runner.data.tokens import build_encoder
from llm_runner.generate.decode import Decoder, Request
from llm_runner.generate.limits import plan_answer_limits
from llm_runner.generate.metrics import TextTally
from llm_runner.predict.answerer import seed_of_row
from llm_runner.predict.task import plan_prompt_limits
from llm_runner.report.card import CardExample
from llm_runner.report.sample import Sample
from llm_runner.train.sample import Asked

MOST_NEW_TOKENS = 128
"""Of one answer, whatever the config allows: a look, not a benchmark."""

Result: TypeAlias = list[int] | Exception | None
"""An answer's tokens, why there is none, or None where the run was asked to stop before."""


def answer_sample(asked: Asked) -> Sample:
    """Raises what makes every answer impossible, such as tokens in the config that the model doesn't have."""
    config, tokenizer = asked.config, asked.tokenizer
    limits = plan_answer_limits(config, asked.context_tokens)
    prompt_limits = plan_prompt_limits(config, limits)
    encoded = build_encoder(tokenizer).encode_prompts([example.prompt for example in asked.examples])
    prompts = [prompt_limits.fit(ids, [])[0] for ids in encoded]
    requests = [Request(ids, seed_of_row(asked.seed, place)) for place, ids in enumerate(prompts)]
    bounded = replace(limits, most_of_all=MOST_NEW_TOKENS)
    decoder = Decoder(asked.model, tokenizer, config.generation, bounded, should_stop=asked.should_stop)
    if asked.one_by_one:
        return _build_sample(asked, _answer_each(decoder, requests, asked.should_stop))
    return _build_sample(asked, _answer(decoder, requests, asked.should_stop))


def _answer(decoder: Decoder, requests: Sequence[Request], should_stop: Callable[[], bool]) -> list[Result]:
    """What fails a batch may be one row's fault, or that of so many at once: then each is asked by itself."""
    results = _try_batch(decoder, requests, should_stop)
    if len(requests) == 1 or not isinstance(results[0], Exception):
        return results
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return _answer_each(decoder, requests, should_stop)


def _answer_each(decoder: Decoder, requests: Sequence[Request], should_stop: Callable[[], bool]) -> list[Result]:
    return [result for request in requests for result in _try_batch(decoder, [request], should_stop)]


def _try_batch(decoder: Decoder, requests: Sequence[Request], should_stop: Callable[[], bool]) -> list[Result]:
    """An error is every row's."""
    if should_stop():
        return [None] * len(requests)
    try:
        found = [answers[0] for answers in decoder.answer(requests)]
    except Exception as error:
        # Its frames hold the batch's tensors.
        return [error.with_traceback(None)] * len(requests)
    return [None] * len(requests) if should_stop() else list(found)


def _build_sample(asked: Asked, results: Sequence[Result]) -> Sample:
    tally, examples = TextTally(), []
    for example, result in zip(asked.examples, results, strict=True):
        if isinstance(result, list):
            text = str(asked.tokenizer.decode(result, skip_special_tokens=True, clean_up_tokenization_spaces=False))
            tally.add(example.target, text)
            examples.append(CardExample(example.prompt, example.target, answer=text))
        else:
            error = None if result is None else f"{type(result).__name__}: {result}"
            examples.append(CardExample(example.prompt, example.target, error=error))
    if tally.rows == 0:
        return Sample(examples)
    figures = tally.to_metrics()
    return Sample(examples, tally.rows, figures.exact_match, figures.rouge_l)
