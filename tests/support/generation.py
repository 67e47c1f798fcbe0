"""Small random models that answer, and the plainest way to find out what they should: no cache, no batch, one loop."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from llm_api.config import Generation
from llm_runner.generate.decode import Decoder, Request
from llm_runner.generate.limits import AnswerLimits
from torch import Tensor
from transformers import PreTrainedModel

from tests.support.models import CONTEXT_LENGTH, build_model, llama_config, tiny_tokenizer

END = 1
"""The byte tokenizer's end-of-sequence."""
PROMPTS = [[0, 5, 6, 7], [0, 9], [0, 4, 8, 15, 16, 23, 42, 99, 5, 6, 7], [0, *range(100, 130)]]

Change = Callable[[list[int], Tensor], Tensor]
"""What a parameter does, in its plainest form: the answer so far and the next logits to other logits."""


@cache
def lively_model() -> PreTrainedModel:
    """Its favourites have some ten percent, so that greedy, drawn and searched answers differ."""
    return build_model(llama_config(initializer_range=0.3), seed=1)


def build_decoder(model: PreTrainedModel | None = None, **generation: Any) -> Decoder:
    written = Generation(**generation)
    answering = lively_model() if model is None else model
    return Decoder(answering, tiny_tokenizer(), written, AnswerLimits(written, CONTEXT_LENGTH))


def answer(prompts: Sequence[list[int]] = PROMPTS, **generation: Any) -> list[list[int]]:
    """Of one batch; the seeds are the prompts' places."""
    return answer_with(build_decoder(**generation), prompts)


def answer_with(decoder: Decoder, prompts: Sequence[list[int]] = PROMPTS) -> list[list[int]]:
    requests = [Request(prompt, seed=place) for place, prompt in enumerate(prompts)]
    return [answers[0] for answers in decoder.answer(requests)]


def answer_alone(prompts: Sequence[list[int]] = PROMPTS, **generation: Any) -> list[list[int]]:
    """Each prompt in a batch of its own, with the seed that it has in ``answer``."""
    decoder = build_decoder(**generation)
    return [decoder.answer([Request(prompt, seed=place)])[0][0] for place, prompt in enumerate(prompts)]


def draw_firsts(prompt: list[int], times: int, **generation: Any) -> list[int]:
    """The first token of so many drawn answers to one prompt."""
    decoder = build_decoder(**{"max_new_tokens": 1, **generation})
    drawn = [answers[0] for answers in decoder.answer([Request(prompt, seed=seed) for seed in range(times)])]
    return [tokens[0] if tokens else END for tokens in drawn]


def next_logits(ids: Sequence[int], model: PreTrainedModel | None = None) -> Tensor:
    """Of the token after ``ids``, [vocabulary]."""
    reading: Any = lively_model() if model is None else model
    with torch.no_grad():
        logits: Tensor = reading(torch.tensor([list(ids)])).logits[0, -1].float()
    return logits


def unchanged(answer_ids: list[int], logits: Tensor) -> Tensor:
    return logits


def follow(prompt: Sequence[int], most: int, change: Change = unchanged, ends: Sequence[int] = (END,)) -> list[int]:
    """The greedy answer."""
    ids: list[int] = []
    while len(ids) < most:
        token = int(change(ids, next_logits([*prompt, *ids])).argmax())
        if token in ends:
            break
        ids.append(token)
    return ids
