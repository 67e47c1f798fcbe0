"""From a request to what the engine is asked: the request first, then the config, then the document's defaults.

Precedence is by what is written, never by truth: a client's 0 is a value. Starts nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_api.config import Generation
from llm_api.config.generation import CATEGORY_MAX_NEW_TOKENS
from llm_api.config.partial import PartialLLMConfig
from llm_api.issues import InvalidConfig, load
from transformers import PreTrainedModel

from llm_runner.errors import ConfigInvalid
from llm_runner.generate.engine_penalties import CountPenalty, TokenBias
from llm_runner.generate.engine_request import Processor, Request
from llm_runner.generate.limits import AnswerLimits, PromptTooLong
from llm_runner.generate.rows import RowPlan
from llm_runner.generate.special import SpecialTokens, refuse_unknown_tokens
from llm_runner.generate.strategy import Strategy, choose_strategy
from llm_runner.predict.request import build_processors, build_sampling, needs_search
from llm_runner.serve.errors import ApiError, invalid, to_api_error
from llm_runner.serve.protocol import SamplingRequest


@dataclass(frozen=True)
class ModelLimits:
    """What the model sets to every request."""

    context_tokens: int
    vocabulary_size: int


@dataclass(frozen=True)
class Parameters:
    """One request's own way to generate."""

    generation: Generation
    limits: AnswerLimits
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: dict[int, float]
    seed: int | None
    top_logprobs: int | None

    @property
    def needs_search(self) -> bool:
        """Whether it is more than one token after the other, of one sequence."""
        return needs_search(self.generation)


def resolve_parameters(
    config: PartialLLMConfig, request: SamplingRequest, model: ModelLimits, top_logprobs: int | None
) -> Parameters:
    """Raises ApiError with all that contradicts itself or names what the model doesn't have."""
    own = Generation() if config.generation is None else config.generation
    generation = merge_generation(own, request)
    try:
        refuse_unknown_tokens(generation, model.vocabulary_size)
    except ConfigInvalid as error:
        raise invalid(str(error)) from error
    resolved = Parameters(
        generation=generation,
        limits=_answer_limits(config, generation, model.context_tokens),
        min_p=0.0 if request.min_p is None else float(request.min_p),
        presence_penalty=0.0 if request.presence_penalty is None else float(request.presence_penalty),
        frequency_penalty=0.0 if request.frequency_penalty is None else float(request.frequency_penalty),
        logit_bias=_read_bias(request.logit_bias, model.vocabulary_size),
        seed=request.seed,
        top_logprobs=top_logprobs,
    )
    if resolved.needs_search:
        _refuse_with_search(request, top_logprobs)
    return resolved


def merge_generation(config: Generation, request: SamplingRequest) -> Generation:
    """The config's section with what the request writes in its place.

    A client that writes a temperature wants to sample, also where the config is greedy.
    """
    written = request.written_generation
    if request.most_tokens is not None:
        written["max_new_tokens"] = request.most_tokens
    if written.get("temperature") and "do_sample" not in written and choose_strategy(config) is Strategy.TOKENS:
        written["do_sample"] = True
    base = config.model_dump(include=config.model_fields_set)
    try:
        return load(Generation, {**base, **written})
    except InvalidConfig as error:
        raise to_api_error(error) from error


def _answer_limits(config: PartialLLMConfig, generation: Generation, context_tokens: int) -> AnswerLimits:
    output = None if config.output_features is None else config.output_features[0]
    limit = None if output is None else output.preprocessing.max_sequence_length
    if output is not None and output.type == "category" and limit is None:
        limit = CATEGORY_MAX_NEW_TOKENS
    whole = None if config.preprocessing is None else config.preprocessing.global_max_sequence_length
    return AnswerLimits(generation, context_tokens, output_limit=limit, global_limit=whole)


def _read_bias(bias: dict[str, Any] | None, vocabulary_size: int) -> dict[int, float]:
    if bias is None:
        return {}
    wrong = [key for key in bias if not key.isdecimal() or int(key) >= vocabulary_size]
    if wrong:
        raise invalid(f"logit_bias: {wrong[0]!r} is no token id; they are 0 to {vocabulary_size - 1}", "logit_bias")
    return {int(key): float(value) for key, value in bias.items()}


def _refuse_with_search(request: SamplingRequest, top_logprobs: int | None) -> None:
    given = {
        "logprobs": top_logprobs is not None,
        "presence_penalty": bool(request.presence_penalty),
        "frequency_penalty": bool(request.frequency_penalty),
        "logit_bias": bool(request.logit_bias),
        "min_p": bool(request.min_p),
    }
    found = next((key for key, is_given in given.items() if is_given), None)
    if found is not None:
        raise invalid(f"{found} doesn't go with beams, contrastive search or guidance; leave either out", found)


def build_request(
    parameters: Parameters,
    prompt_ids: Sequence[int],
    *,
    special: SpecialTokens,
    model: PreTrainedModel,
    adapter: str | None,
    seed: int | None,
) -> Request:
    """One answer to one prompt. Raises ApiError where the prompt leaves no room."""
    generation = parameters.generation
    most, fewest = plan_lengths(parameters.limits, len(prompt_ids))
    row = RowPlan(list(prompt_ids), most, fewest)
    return Request(
        prompt_ids=prompt_ids,
        max_new_tokens=most,
        sampling=build_sampling(
            generation, _build_processors(parameters, row, special, model), min_p=parameters.min_p, seed=seed
        ),
        stop_ids=frozenset(special.end_ids),
        adapter=adapter,
        top_logprobs=parameters.top_logprobs,
        max_seconds=None if generation.max_time is None else float(generation.max_time),
    )


def plan_lengths(limits: AnswerLimits, prompt_tokens: int) -> tuple[int, int]:
    """Most and fewest tokens of an answer."""
    try:
        return limits.most_new_tokens(prompt_tokens), limits.fewest_new_tokens(prompt_tokens)
    except PromptTooLong as error:
        raise prompt_too_long(str(error)) from error


def prompt_too_long(message: str) -> ApiError:
    return invalid(message, "prompt", "context_length_exceeded")


def _build_processors(
    parameters: Parameters, row: RowPlan, special: SpecialTokens, model: PreTrainedModel
) -> list[Processor]:
    processors: list[Processor] = []
    if parameters.presence_penalty or parameters.frequency_penalty:
        penalties = (parameters.presence_penalty, parameters.frequency_penalty)
        processors.append(CountPenalty(len(row.prompt_ids), *penalties))
    if parameters.logit_bias:
        processors.append(TokenBias(parameters.logit_bias))
    return [*processors, *build_processors(parameters.generation, row, special, model)]
