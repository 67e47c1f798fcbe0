"""What answers requests, without HTTP: names, prompts as tokens, and answers in pieces, several at a time.

One token after the other is the engine's; searches (beams, contrastive, guidance) run on its thread between two steps.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from llm_api.config.partial import PartialLLMConfig
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_runner.data.tokens import Encoder
from llm_runner.errors import ConfigInvalid
from llm_runner.generate.decode import Decoder, seed_of_copy
from llm_runner.generate.decode import Request as SearchRequest
from llm_runner.generate.engine import Engine
from llm_runner.generate.engine_adapters import Adapters
from llm_runner.generate.engine_request import Overloaded, PromptTooLong, Token
from llm_runner.generate.special import SpecialTokens
from llm_runner.generate.strategy import refuse_contradictions
from llm_runner.serve.answer import AnswerSource, Conversation, Search
from llm_runner.serve.errors import invalid, no_task, overloaded
from llm_runner.serve.metrics import ServerMetrics
from llm_runner.serve.models import Models, ServedModel
from llm_runner.serve.parameters import (
    ModelLimits,
    Parameters,
    build_request,
    plan_lengths,
    prompt_too_long,
    resolve_parameters,
)
from llm_runner.serve.predict import Predictor
from llm_runner.serve.protocol import Message, SamplingRequest

MOST_SEARCHES = 4
"""Searches that may be open at once; each holds up the tokens of everyone else."""


@dataclass
class Service:
    """A loaded model, ready to answer."""

    engine: Engine
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    special: SpecialTokens
    config: PartialLLMConfig
    models: Models
    adapters: Adapters
    metrics: ServerMetrics
    predictor: Predictor | None = None
    """None where the config sets no task for rows; ``no_predictor`` says why."""
    no_predictor: str = ""
    open_searches: int = 0

    @property
    def limits(self) -> ModelLimits:
        return ModelLimits(self.engine.context_tokens, self.model.config.get_text_config().vocab_size)

    @property
    def text_tokenizer(self) -> Tokenizer:
        fast: Any = self.tokenizer
        tokenizer: Tokenizer = fast.backend_tokenizer
        return tokenizer

    def find_predictor(self, model: ServedModel | None = None) -> Predictor:
        """Raises ApiError 404 saying what the config lacks, or that a model's own is another one."""
        if self.predictor is None:
            raise no_task(self.no_predictor)
        if model is not None and model.config is not None:
            raise no_task(
                f"{model.name} was tuned by a config of its own, and rows are answered by that of "
                f"{self.models.main().name}; serve it by itself, or write the prompt yourself at /v1/completions"
            )
        return self.predictor

    def config_of(self, model: ServedModel) -> PartialLLMConfig:
        return self.config if model.config is None else model.config

    def resolve(self, request: SamplingRequest, model: ServedModel, top_logprobs: int | None) -> Parameters:
        return resolve_parameters(self.config_of(model), request, self.limits, top_logprobs)

    async def encode_prompts(self, prompts: Sequence[str | list[int]]) -> list[list[int]]:
        """Token ids as they are, texts as in training: opened once, not ended."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        encoded = iter(await asyncio.to_thread(self.encoder.encode_prompts, texts))
        rows = [next(encoded) if isinstance(prompt, str) else prompt for prompt in prompts]
        size = self.limits.vocabulary_size
        if any(token >= size for row in rows for token in row):
            raise invalid(f"prompt: token ids are 0 to {size - 1}", "prompt")
        return rows

    async def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """By the tokenizer's chat template, up to where the assistant speaks."""
        if not self.tokenizer.chat_template:
            raise invalid("this model has no chat template; ask /v1/completions", "messages")
        turns = [_to_turn(message) for message in messages]
        try:
            text: Any = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise invalid(f"messages: the model's chat template refuses them: {error}", "messages") from error
        return (await self.encode_prompts([text]))[0]

    def ask(
        self,
        parameters: Parameters,
        prompt_ids: Sequence[int],
        adapter: str | None,
        *,
        answers: int,
        stops: Sequence[str],
    ) -> list[AnswerSource]:
        """Starts ``answers`` to one prompt, or none of them. Raises ApiError."""
        seed = random.getrandbits(63) if parameters.seed is None else parameters.seed
        if parameters.needs_search:
            return self._search(parameters, prompt_ids, adapter, answers=answers, stops=stops, seed=seed)
        started: list[AnswerSource] = []
        try:
            for copy in range(answers):
                request = build_request(
                    parameters,
                    prompt_ids,
                    special=self.special,
                    model=self.model,
                    adapter=adapter,
                    seed=seed_of_copy(seed, copy),
                )
                started.append(Conversation(self.engine, request, self.text_tokenizer, stops))
        except (Overloaded, PromptTooLong) as error:
            for conversation in started:
                conversation.cancel()
            if isinstance(error, PromptTooLong):
                raise prompt_too_long(str(error)) from error
            raise overloaded(self.metrics.retry_after_seconds()) from error
        return started

    def _search(
        self,
        parameters: Parameters,
        prompt_ids: Sequence[int],
        adapter: str | None,
        *,
        answers: int,
        stops: Sequence[str],
        seed: int,
    ) -> list[AnswerSource]:
        plan_lengths(parameters.limits, len(prompt_ids))
        try:
            refuse_contradictions(parameters.generation, answers)
        except ConfigInvalid as error:
            raise invalid(str(error), "n") from error
        if self.open_searches >= MOST_SEARCHES:
            raise overloaded(self.metrics.retry_after_seconds())
        decoder = Decoder(self.model, self.tokenizer, parameters.generation, parameters.limits)
        request = SearchRequest(prompt_ids, seed)

        def run() -> list[list[Token]]:
            with self.adapters.using(adapter):
                [found] = decoder.answer([request], answers=answers)
            return [[Token(token) for token in row] for row in found]

        self.open_searches += 1
        future = asyncio.wrap_future(self.engine.call(run))
        future.add_done_callback(self._close_search)
        most = parameters.limits.most_new_tokens(len(prompt_ids))
        return [Search(future, copy, most, self.text_tokenizer, stops) for copy in range(answers)]

    def _close_search(self, _future: Any) -> None:
        self.open_searches -= 1


def _to_turn(message: Message) -> dict[str, str]:
    role = "system" if message.role == "developer" else message.role
    turn = {"role": role, "content": message.text}
    return turn if message.name is None else {**turn, "name": message.name}
