"""All that ``generation`` says about single tokens, in one order: mend, guide, bias, ban, force, narrow down, draw.

The library would build such a list too, but counts a prompt's padding as tokens, and leaves keys out silently. Searches
(beams, contrastive) are none of this.
"""

from collections.abc import Sequence

from llm_api.config import Generation
from torch import Tensor
from transformers import (
    ExponentialDecayLengthPenalty,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    LogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from llm_runner.generate.draw import Draw, build_warpers
from llm_runner.generate.guidance import Guidance
from llm_runner.generate.processors import FavourPrompt, ForceEnd, ForceTokens, NoEndBefore, RefuseNothing
from llm_runner.generate.rows import Rows
from llm_runner.generate.special import SpecialTokens


class Steering(LogitsProcessor):
    """The whole list as one, for which padding stands for no token."""

    def __init__(self, rows: Rows, processors: Sequence[LogitsProcessor]) -> None:
        self._rows = rows
        self._processors = processors

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ids = self._without_padding(input_ids, scores)
        for processor in self._processors:
            scores = processor(ids, scores)
        return scores

    def _without_padding(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The library's processors take an id past the vocabulary for no token at all."""
        ids = input_ids.clone()
        is_padding = self._rows.spread(self._rows.attention_mask == 0, to=ids)
        ids[:, : self._rows.width] = ids[:, : self._rows.width].masked_fill(is_padding, scores.shape[-1])
        return ids


def build_steering(
    generation: Generation,
    rows: Rows,
    special: SpecialTokens,
    model: PreTrainedModel,
    *,
    constraint: LogitsProcessor | None = None,
    draws: bool = False,
) -> Steering:
    """The processors of one batch.

    Args:
        constraint: what else limits the choice, such as to labels; forced tokens count more.
        draws: whether the list ends in a draw for each row. Beams that sample draw for themselves.
    """
    keep = 1 if draws else len(special.end_ids) + 1
    narrowing = build_warpers(generation, keep=keep) if generation.samples else []
    processors = [
        *([InfNanRemoveLogitsProcessor()] if generation.remove_invalid_values else []),
        *_build_guides(generation, rows, model),
        *_build_biases(generation, rows, special),
        *_build_bans(generation, rows, special),
        *([] if constraint is None else [constraint]),
        *_build_forces(generation, rows),
        *narrowing,
        *([LogitNormalization()] if generation.renormalize_logits else []),
        RefuseNothing(),
        *([Draw(rows)] if draws else []),
    ]
    return Steering(rows, processors)


def _build_guides(generation: Generation, rows: Rows, model: PreTrainedModel) -> list[LogitsProcessor]:
    scale = generation.guidance_scale
    return [] if scale is None or scale <= 1 else [Guidance(model, rows, scale)]


def _build_biases(generation: Generation, rows: Rows, special: SpecialTokens) -> list[LogitsProcessor]:
    biases: list[LogitsProcessor] = []
    if generation.sequence_bias:
        biases.append(SequenceBiasLogitsProcessor(generation.sequence_bias))
    if (penalty := generation.encoder_repetition_penalty) is not None and penalty != 1:
        biases.append(FavourPrompt(rows, penalty))
    if (penalty := generation.repetition_penalty) is not None and penalty != 1:
        biases.append(RepetitionPenaltyLogitsProcessor(float(penalty)))
    if generation.exponential_decay_length_penalty is not None:
        start, factor = generation.exponential_decay_length_penalty
        biases.append(ExponentialDecayLengthPenalty((start, factor), list(special.end_ids), rows.width))
    return biases


def _build_bans(generation: Generation, rows: Rows, special: SpecialTokens) -> list[LogitsProcessor]:
    bans: list[LogitsProcessor] = []
    if generation.no_repeat_ngram_size:
        bans.append(NoRepeatNGramLogitsProcessor(generation.no_repeat_ngram_size))
    if generation.bad_words_ids:
        bans.append(NoBadWordsLogitsProcessor(generation.bad_words_ids))
    if any(plan.fewest_new_tokens for plan in rows.plans):
        bans.append(NoEndBefore(rows, special.end_ids))
    if generation.suppress_tokens:
        bans.append(SuppressTokensLogitsProcessor(generation.suppress_tokens))
    if generation.begin_suppress_tokens:
        bans.append(SuppressTokensAtBeginLogitsProcessor(generation.begin_suppress_tokens, rows.width))
    return bans


def token_of_place(generation: Generation) -> dict[int, int]:
    """The tokens that are forced at places of the answer, from 0."""
    pairs = [] if generation.forced_bos_token_id is None else [(0, generation.forced_bos_token_id)]
    return dict(pairs + [(place, token) for place, token in generation.forced_decoder_ids or ()])


def _build_forces(generation: Generation, rows: Rows) -> list[LogitsProcessor]:
    forces: list[LogitsProcessor] = []
    if tokens := token_of_place(generation):
        forces.append(ForceTokens(rows, tokens))
    last = generation.forced_eos_token_id
    if last is not None and last != []:
        forces.append(ForceEnd(rows, [last] if isinstance(last, int) else last))
    return forces
