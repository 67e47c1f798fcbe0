"""How likely each label is, read off the engine: what a prompt's blocks hold already is not computed once more.

The first token of every label's text comes with the answer itself; only texts of several tokens ask for more.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llm_runner.generate.engine_request import Request, Sampling, Token
from llm_runner.generate.labels import LabelTexts
from llm_runner.generate.likelihood import to_label_probabilities
from llm_runner.generate.processors import BANNED


class FirstTokens:
    """A processor that changes nothing and notes how likely certain tokens are at the answer's first place."""

    def __init__(self, token_ids: Iterable[int]) -> None:
        self._token_ids = sorted(set(token_ids))
        self.log_probs: dict[int, float] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.log_probs:
            found = scores[0].float().log_softmax(dim=-1)[self._token_ids]
            self.log_probs = dict(zip(self._token_ids, found.tolist(), strict=True))
        return scores


class ForceTokens:
    """A processor that leaves one token at each place after a prompt."""

    def __init__(self, prompt_tokens: int, token_ids: Sequence[int]) -> None:
        self._prompt_tokens = prompt_tokens
        self._token_ids = token_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        kept = torch.full_like(scores, BANNED)
        kept[:, self._token_ids[input_ids.shape[1] - self._prompt_tokens]] = 0.0
        return kept


@dataclass
class LabelScores:
    """What is known so far of one prompt's labels."""

    texts: LabelTexts
    first: FirstTokens = field(init=False)
    _later: dict[tuple[int, ...], list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.first = FirstTokens(tokens[0] for tokens in self._written())

    def build_requests(self, prompt_ids: Sequence[int], adapter: str | None) -> list[tuple[tuple[int, ...], Request]]:
        """One for each text of several tokens, but for those that begin a longer one."""
        written = self._written()
        longest = [
            tokens
            for tokens in written
            if len(tokens) > 1 and not any(other != tokens and other[: len(tokens)] == tokens for other in written)
        ]
        return [(tokens, _build_request([*prompt_ids, tokens[0]], tokens[1:], adapter)) for tokens in longest]

    def add(self, tokens: tuple[int, ...], found: Sequence[Token]) -> None:
        """The answer to one of the requests."""
        self._later[tokens] = [token.logprob for token in found if token.logprob is not None]

    def to_probabilities(self) -> Mapping[str, float]:
        """By label; once everything was added."""
        return to_label_probabilities({tokens: self._score(tokens) for tokens in self._written()}, self.texts.ways)

    def _score(self, tokens: tuple[int, ...]) -> list[float]:
        first = self.first.log_probs[tokens[0]]
        if len(tokens) == 1:
            return [first]
        later = next(scores for other, scores in self._later.items() if other[: len(tokens)] == tokens)
        return [first, *later[: len(tokens) - 1]]

    def _written(self) -> list[tuple[int, ...]]:
        return list(dict.fromkeys(tokens for ways in self.texts.ways.values() for tokens in ways))


def _build_request(prompt_ids: Sequence[int], token_ids: Sequence[int], adapter: str | None) -> Request:
    return Request(
        prompt_ids,
        max_new_tokens=len(token_ids),
        sampling=Sampling(processors=[ForceTokens(len(prompt_ids), token_ids)]),
        adapter=adapter,
        top_logprobs=0,
    )
