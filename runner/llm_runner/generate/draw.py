"""Sampling: which tokens may be drawn, and the draw, seeded for each row.

A row's draw at a step depends on its own seed and scores only, never on its neighbours or on the order of calls. So the
library's greedy loop, prompt lookup included, samples without knowing it.
"""

import torch
from llm_api.config import Generation
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from llm_runner.generate.defaults import or_default
from llm_runner.generate.rows import Rows

SMALLEST_MASS = 1e-9
"""Of typical_p 0: one token, which the library has no word for."""


def build_warpers(generation: Generation, *, keep: int = 1) -> list[LogitsProcessor]:
    """What narrows the choice down, in the library's order; ``keep`` tokens always stay."""
    warpers: list[LogitsProcessor] = []
    if (temperature := or_default(generation, "temperature")) not in (0, 1):
        warpers.append(TemperatureLogitsWarper(float(temperature)))
    warpers.append(TopKLogitsWarper(or_default(generation, "top_k"), min_tokens_to_keep=keep))
    if (top_p := or_default(generation, "top_p")) < 1:
        warpers.append(TopPLogitsWarper(float(top_p), min_tokens_to_keep=keep))
    if (mass := or_default(generation, "typical_p")) < 1:
        warpers.append(TypicalLogitsWarper(max(float(mass), SMALLEST_MASS), min_tokens_to_keep=keep))
    if 0 < (cutoff := or_default(generation, "epsilon_cutoff")) < 1:
        warpers.append(EpsilonLogitsWarper(float(cutoff), min_tokens_to_keep=keep))
    if 0 < (cutoff := or_default(generation, "eta_cutoff")) < 1:
        warpers.append(EtaLogitsWarper(float(cutoff), min_tokens_to_keep=keep))
    return warpers


class Draw(LogitsProcessor):
    """Lifts the token that each row draws above all others, for whoever takes the highest next."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = self._rows.step(input_ids)
        uniform = torch.tensor([uniforms.at(step) for uniforms in self._rows.uniforms], device=scores.device)
        drawn = pick(scores, self._rows.spread(uniform, to=scores))
        return scores.scatter(1, drawn[:, None], scores.amax(dim=-1, keepdim=True) + 1)


def pick(scores: Tensor, uniform: Tensor) -> Tensor:
    """The token of each row whose share of the probability holds ``uniform``, [rows], from 0 to just under 1."""
    cumulative = scores.float().softmax(dim=-1).cumsum(dim=-1)
    target = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
    # Right: a token without probability has no share, so it is never the first to be past the target.
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)
