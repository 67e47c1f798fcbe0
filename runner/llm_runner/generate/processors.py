"""Logits processors of our own: what the library dropped, ignores, or does wrongly where prompts are padded.

Each changes the scores of the next token, [rows, vocabulary], and knows nothing of the others; ``steering`` puts them
in order.
"""

import torch
from torch import Tensor
from transformers import LogitsProcessor

from llm_runner.errors import ConfigInvalid
from llm_runner.generate.rows import Rows

BANNED = float("-inf")


def keep_only(scores: Tensor, tokens: list[int]) -> Tensor:
    """Scores in which only ``tokens`` are possible, even where something else has banned them: a single one is
    certain, several keep their odds.
    """
    odds = scores[:, tokens].clamp(min=torch.finfo(scores.dtype).min)
    kept = torch.full_like(scores, BANNED)
    kept[:, tokens] = odds.log_softmax(dim=-1)
    return kept


class RefuseNothing(LogitsProcessor):
    """Ends the run with a word on it where no token is left to choose, rather than with an answer made of noise."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        highest = scores.amax(dim=-1)
        if bool(highest.isfinite().all()):
            return scores
        if bool((highest == BANNED).any()):
            raise ConfigInvalid(
                "generation: nothing is left to say, as every token is forbidden at one place; look at "
                "suppress_tokens, bad_words_ids, no_repeat_ngram_size, min_new_tokens and the labels"
            )
        raise ConfigInvalid(
            "generation.remove_invalid_values: the model computes values that are no numbers; write true to mend "
            "them, or look whether its weights are damaged or its dtype is too small for it"
        )


class FavourPrompt(LogitsProcessor):
    """``encoder_repetition_penalty``: tokens that stand in the row's own prompt become likelier."""

    def __init__(self, rows: Rows, penalty: float) -> None:
        self._rows = rows
        self._penalty = penalty

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        in_prompt = self._rows.spread(self._tokens_of_prompts(scores.shape[-1]), to=scores)
        favoured = torch.where(scores < 0, scores / self._penalty, scores * self._penalty)
        return torch.where(in_prompt, favoured, scores)

    def _tokens_of_prompts(self, vocabulary_size: int) -> Tensor:
        """[prompts, vocabulary]; padding counts as a token past the vocabulary, which is dropped."""
        rows = self._rows
        ids = rows.input_ids.masked_fill(rows.attention_mask == 0, vocabulary_size)
        found = torch.zeros(len(rows.plans), vocabulary_size + 1, dtype=torch.bool, device=ids.device)
        return found.scatter(1, ids, True)[:, :vocabulary_size]


class NoEndBefore(LogitsProcessor):
    """``min_new_tokens`` and ``min_length``: each row is kept from ending before it has its fewest tokens."""

    def __init__(self, rows: Rows, end_ids: tuple[int, ...]) -> None:
        self._rows = rows
        self._end_ids = list(end_ids)
        self._fewest = rows.fewest_new_tokens()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        is_early = self._rows.spread(self._fewest, to=scores) > self._rows.step(input_ids)
        banned = scores.clone()
        banned[:, self._end_ids] = BANNED
        return torch.where(is_early[:, None], banned, scores)


class ForceTokens(LogitsProcessor):
    """``forced_decoder_ids`` and ``forced_bos_token_id``: the token that stands at a place of the answer, from 0."""

    def __init__(self, rows: Rows, token_of_step: dict[int, int]) -> None:
        self._rows = rows
        self._token_of_step = token_of_step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token = self._token_of_step.get(self._rows.step(input_ids))
        return scores if token is None else keep_only(scores, [token])


class ForceEnd(LogitsProcessor):
    """``forced_eos_token_id``: a row that reaches its greatest length ends with one of these."""

    def __init__(self, rows: Rows, end_ids: list[int]) -> None:
        self._rows = rows
        self._end_ids = end_ids
        self._most = rows.most_new_tokens()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        is_last = self._rows.spread(self._most, to=scores) == self._rows.step(input_ids) + 1
        return torch.where(is_last[:, None], keep_only(scores, self._end_ids), scores)
