"""Prompts in, answers out, as token ids: a config's ``generation`` carried out in batches.

A row's answer is the same alone and in any batch, as far as arithmetic is (exactly in practice in float32, within
rounding in bfloat16). Renders no prompts and knows no files; requests that come one by one are the engine's.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from llm_api.config import Generation
from peft import PeftModel
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from llm_runner.generate.beam_search import BeamSearch
from llm_runner.generate.contrastive import ContrastiveSearch
from llm_runner.generate.defaults import or_default
from llm_runner.generate.limits import AnswerLimits
from llm_runner.generate.rows import RowPlan, Rows, build_rows, plan_batches
from llm_runner.generate.special import SpecialTokens, find_special_tokens, refuse_unknown_tokens
from llm_runner.generate.steering import build_steering
from llm_runner.generate.strategy import (
    Strategy,
    build_beam_settings,
    build_library_config,
    choose_strategy,
    plan_lookup,
    refuse_contradictions,
)

Warn = Callable[[str], None]
BuildConstraint = Callable[[Rows, SpecialTokens], LogitsProcessor]


@dataclass(frozen=True)
class Request:
    """One prompt."""

    prompt_ids: Sequence[int]
    seed: int = 0
    """What is drawn for it; the same seed and prompt give the same answers."""


class RowLimits(StoppingCriteria):
    """Ends each row at its own length."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._most = rows.most_new_tokens()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return self._rows.spread(self._most, to=input_ids) <= self._rows.step(input_ids)


class AskedToStop(StoppingCriteria):
    """Ends all rows at once, wherever they are."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self._should_stop(), dtype=torch.bool, device=input_ids.device)


class Decoder:
    """A model, and how it is to answer."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        generation: Generation,
        limits: AnswerLimits,
        *,
        build_constraint: BuildConstraint | None = None,
        warn: Warn = lambda message: None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        """``build_constraint`` limits what may be said, such as to labels; ``warn`` gets, once, what isn't done as
        written. Answers end as they are once ``should_stop()`` is true.

        Raises ConfigInvalid where the config names tokens that the model doesn't have.
        """
        self._model = _unwrap(model)
        self._generation = generation
        self._limits = limits
        self._build_constraint = build_constraint
        self._warn = warn
        self._stop = [] if should_stop is None else [AskedToStop(should_stop)]
        self._warned: set[str] = set()
        self.special = find_special_tokens(generation, tokenizer, self._model.generation_config)
        refuse_unknown_tokens(generation, self._model.config.get_text_config().vocab_size)

    def answer_all(self, requests: Sequence[Request], *, batch_size: int) -> Iterator[tuple[int, list[int]]]:
        """Each request's place and answer as they are done: in batches of similar length, the longest first."""
        for places in plan_batches([len(request.prompt_ids) for request in requests], batch_size):
            answers = self.answer([requests[place] for place in places])
            yield from zip(places, (of_prompt[0] for of_prompt in answers), strict=True)

    def answer(self, requests: Sequence[Request], *, answers: int = 1) -> list[list[list[int]]]:
        """``answers`` to each request, without what ended them, in one batch.

        Raises PromptTooLong where a prompt leaves no room, and ConfigInvalid where the config can't be met.
        """
        refuse_contradictions(self._generation, answers)
        strategy = choose_strategy(self._generation)
        # Beams return several answers themselves; else each is a row of its own.
        copies = answers if strategy is Strategy.TOKENS else 1
        rows = build_rows(
            [self._plan_row(request, copy) for request in requests for copy in range(copies)], self.special.pad_id
        )
        with torch.no_grad(), _without_defaults(self._model):
            sequences = self._generate(strategy, rows, answers // copies)
        found = [self.special.cut_at_end(row) for row in sequences[:, rows.width :].tolist()]
        cut = [
            ids[: plan.most_new_tokens] for ids, plan in zip(found, _each(rows.plans, answers // copies), strict=True)
        ]
        return [cut[start : start + answers] for start in range(0, len(cut), answers)]

    def _plan_row(self, request: Request, copy: int) -> RowPlan:
        prompt_ids = self.special.open_prompt(list(request.prompt_ids))
        return RowPlan(
            prompt_ids,
            self._limits.most_new_tokens(len(prompt_ids)),
            self._limits.fewest_new_tokens(len(prompt_ids)),
            seed_of_copy(request.seed, copy),
        )

    def _generate(self, strategy: Strategy, rows: Rows, answers: int) -> Tensor:
        constraint = None if self._build_constraint is None else self._build_constraint(rows, self.special)
        draws = strategy is Strategy.TOKENS and self._generation.samples
        steering = build_steering(self._generation, rows, self.special, self._model, constraint=constraint, draws=draws)
        lookup = plan_lookup(self._generation, len(rows.plans))
        self._warn_once(lookup.why_not)
        config = build_library_config(
            self._generation,
            self.special,
            most_new_tokens=max(plan.most_new_tokens for plan in rows.plans),
            lookup=lookup.tokens,
            answers=answers,
        )
        sequences: Any = self._model.generate(
            rows.input_ids.to(self._model.device),
            attention_mask=rows.attention_mask.to(self._model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([steering]),
            stopping_criteria=StoppingCriteriaList([RowLimits(rows), *self._stop]),
            custom_generate=self._build_search(strategy, rows),
        )
        return sequences  # type: ignore[no-any-return]

    def _build_search(self, strategy: Strategy, rows: Rows) -> ContrastiveSearch | BeamSearch | None:
        """The search, where it isn't one of the library's."""
        if strategy is Strategy.CONTRASTIVE:
            return ContrastiveSearch(
                rows,
                self.special.pad_id,
                or_default(self._generation, "penalty_alpha"),
                or_default(self._generation, "top_k"),
            )
        if strategy is not Strategy.OWN_BEAMS:
            return None
        least_room = min(plan.most_new_tokens for plan in rows.plans)
        settings = build_beam_settings(self._generation, self.special, least_room)
        return BeamSearch(rows, settings, mends_logits=or_default(self._generation, "remove_invalid_values"))

    def _warn_once(self, message: str | None) -> None:
        if message is not None and message not in self._warned:
            self._warned.add(message)
            self._warn(message)


def _unwrap(model: Any) -> Any:
    """The adapter's layers sit in the base model; its wrapper would only hand the call on."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def seed_of_copy(seed: int, copy: int) -> int:
    """Another seed for each further answer to one request; the first has the request's own."""
    return seed if copy == 0 else random.Random(f"{seed}/{copy}").getrandbits(63)


@contextmanager
def _without_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Keeps out what the model's own generation_config.json would fill in wherever ours says nothing."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _each(plans: Sequence[RowPlan], times: int) -> Iterator[RowPlan]:
    return (plan for plan in plans for _ in range(times))
