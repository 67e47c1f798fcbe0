"""Chooses the next token of each sequence by that sequence's own rules, all rows of a step together where they agree.

The filters give transformers' probabilities: each sees what those before it have left, in the library's order. They
work on the likeliest tokens, sorted once, rather than on the vocabulary once each. A row's random number comes from
its request's own seed, so that what else is in the batch changes nothing.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Protocol

import torch

from llm_runner.generate.engine_request import NothingToChoose, Sampling, Token

NUCLEUS_CANDIDATES = 512
"""So many of the likeliest tokens are sorted first; mostly they hold ``top_p`` of the probability."""


class Row(Protocol):
    """What choosing needs of a sequence."""

    @property
    def token_ids(self) -> Sequence[int]:
        """Prompt and answer so far."""
        ...

    @property
    def sampling(self) -> Sampling: ...

    @property
    def top_logprobs(self) -> int | None: ...

    @property
    def random(self) -> Random: ...


def choose_tokens(logits: torch.Tensor, rows: Sequence[Row]) -> list[Token | Exception]:
    """One token for each row of ``logits`` [rows, vocabulary], or what went wrong with it."""
    scores = logits.float() if logits.dtype != torch.float32 else logits.clone()
    failures = _process(scores, rows) if any(row.sampling.processors for row in rows) else {}
    for index in _find_unusable(scores):
        failures.setdefault(index, _blame(logits[index], rows[index]))
        scores[index] = 0.0
    chosen = _choose(scores, rows)
    told = _logprobs(logits, rows, chosen)
    return [failures.get(index, token) for index, token in enumerate(told)]


def _find_unusable(scores: torch.Tensor) -> list[int]:
    """Rows that hold what is no number, or nothing finite; mostly the largest scores tell that there are none."""
    if bool(scores.amax(dim=-1).isfinite().all()):
        return []
    rows: list[int] = (~scores.isfinite().any(dim=-1) | scores.isnan().any(dim=-1)).nonzero().flatten().tolist()
    return rows


def _blame(logits: torch.Tensor, row: Row) -> Exception:
    """Whose fault it is that there is nothing to choose from."""
    if row.sampling.processors and bool(logits.isfinite().all()):
        return NothingToChoose()
    return ArithmeticError("the model's logits are no numbers")


def _process(scores: torch.Tensor, rows: Sequence[Row]) -> dict[int, Exception]:
    """Applies processors in place. One that raises fails its own row only."""
    failures: dict[int, Exception] = {}
    for index, row in enumerate(rows):
        if not row.sampling.processors:
            continue
        token_ids = torch.tensor([row.token_ids], device=scores.device)
        own = scores[index : index + 1].clone()
        try:
            for processor in row.sampling.processors:
                own = processor(token_ids, own)
            scores[index] = own[0]
        except Exception as error:
            failures[index] = error
    return failures


def _choose(scores: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    chosen = scores.argmax(dim=-1).tolist()
    alike: dict[Sampling, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.sampling.temperature > 0:
            alike[replace(row.sampling, seed=None, processors=())].append(index)
    for sampling, members in alike.items():
        values, token_ids = filter_candidates(scores[members], sampling)
        points = [rows[index].random.random() for index in members]
        for index, token in zip(members, _draw(values, token_ids, points), strict=True):
            chosen[index] = token
    return chosen


def filter_candidates(scores: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of the tokens that may be drawn, -inf for those that may not, and their ids.

    ``scores`` is [rows, vocabulary]; both results are [rows, candidates].
    """
    values, token_ids = _sort_candidates(scores / sampling.temperature, sampling)
    if sampling.top_p < 1:
        probabilities = values.exp()
        before = probabilities.cumsum(dim=-1) - probabilities
        values = _keep(values, before < sampling.top_p)
    if sampling.min_p > 0:
        probabilities = values.softmax(dim=-1)
        values = _keep(values, probabilities >= sampling.min_p * probabilities.amax(dim=-1, keepdim=True))
    if sampling.typical_p < 1:
        values = _keep_typical(values, sampling.typical_p)
    if sampling.epsilon_cutoff > 0:
        values = _keep(values, values.softmax(dim=-1) >= sampling.epsilon_cutoff)
    if sampling.eta_cutoff > 0:
        values = _keep_eta(values, sampling.eta_cutoff)
    return values, token_ids


def _sort_candidates(scores: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities, the likeliest first; unsorted where no filter comes after."""
    size = scores.shape[-1]
    if sampling.top_k is not None and sampling.top_k < size:
        values, token_ids = scores.topk(sampling.top_k)
        return values - values.logsumexp(dim=-1, keepdim=True), token_ids
    everything = scores - scores.logsumexp(dim=-1, keepdim=True)
    if not _filters(sampling):
        return everything, torch.arange(size, device=scores.device).expand_as(scores)
    if sampling.top_p < 1 and size > NUCLEUS_CANDIDATES:
        values, token_ids = everything.topk(NUCLEUS_CANDIDATES)
        if bool((values.exp().sum(dim=-1) >= sampling.top_p).all()):
            return values, token_ids
    return everything.sort(dim=-1, descending=True)


def _filters(sampling: Sampling) -> bool:
    shares = (sampling.top_p, sampling.typical_p)
    return any(share < 1 for share in shares) or any((sampling.min_p, sampling.epsilon_cutoff, sampling.eta_cutoff))


def _keep(values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The likeliest always stays."""
    return values.masked_fill(~(kept | (values == values.amax(dim=-1, keepdim=True))), -math.inf)


def _keep_typical(values: torch.Tensor, mass: float) -> torch.Tensor:
    """Meister et al. 2022 (arXiv:2202.00666): those whose surprise is nearest to the expected one."""
    logprobs = values.log_softmax(dim=-1)
    distance = (-logprobs - _entropy(logprobs)).abs()
    nearest, order = distance.sort(dim=-1)
    total = logprobs.exp().gather(-1, order).cumsum(dim=-1)
    last = (total < mass).sum(dim=-1, keepdim=True).clamp(max=values.shape[-1] - 1)
    return values.masked_fill(distance > nearest.gather(-1, last), -math.inf)


def _keep_eta(values: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Hewitt et al. 2022 (arXiv:2210.15191): a bound that falls with the entropy."""
    logprobs = values.log_softmax(dim=-1)
    bound = (math.sqrt(epsilon) * torch.exp(-_entropy(logprobs))).clamp(max=epsilon)
    return _keep(values, logprobs.exp() >= bound)


def _entropy(logprobs: torch.Tensor) -> torch.Tensor:
    """[rows, 1], in nats."""
    return -(logprobs * logprobs.exp()).nansum(dim=-1, keepdim=True)


def _draw(values: torch.Tensor, token_ids: torch.Tensor, points: Sequence[float]) -> list[int]:
    """The token at each row's point of its cumulative distribution; points lie in [0, 1)."""
    cumulative = values.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    aims = torch.tensor(points, dtype=torch.float64, device=values.device)[:, None] * cumulative[:, -1:]
    places = torch.searchsorted(cumulative, aims, right=True).clamp(max=values.shape[-1] - 1)
    chosen: list[int] = token_ids.gather(-1, places).flatten().tolist()
    return chosen


def _logprobs(logits: torch.Tensor, rows: Sequence[Row], chosen: Sequence[int]) -> list[Token]:
    tokens = [Token(token) for token in chosen]
    asked = [index for index, row in enumerate(rows) if row.top_logprobs is not None]
    if not asked:
        return tokens
    logprobs = logits[asked].float().log_softmax(dim=-1)
    for place, index in enumerate(asked):
        wanted = rows[index].top_logprobs
        top = logprobs[place].topk(wanted) if wanted else None
        told = () if top is None else tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        tokens[index] = Token(chosen[index], float(logprobs[place, chosen[index]]), told)
    return tokens
