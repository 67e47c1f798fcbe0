"""What OpenAI's API asks of tokens besides the config's ``generation``: penalties by count, and a bias by id."""

from collections.abc import Mapping

import torch


class CountPenalty:
    """Tokens of the answer lose ``presence`` once and ``frequency`` each time that they are in it."""

    def __init__(self, prompt_tokens: int, presence: float, frequency: float) -> None:
        self._prompt_tokens = prompt_tokens
        self._presence = presence
        self._frequency = frequency

    def __call__(self, token_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        answer = token_ids[0, self._prompt_tokens :]
        counts = torch.bincount(answer, minlength=scores.shape[-1]).to(scores.dtype)
        return scores - self._frequency * counts - self._presence * (counts > 0)


class TokenBias:
    """Adds to the scores of single tokens."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._ids = list(bias)
        self._bias = list(bias.values())

    def __call__(self, _token_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        changed = scores.clone()
        changed[:, self._ids] += torch.tensor(self._bias, dtype=scores.dtype, device=scores.device)
        return changed
