"""Causal attention over short sequences of a flattened row, by plain matrix products.

torch's flash kernel for CPUs spends several times as long in backward as its products take, at the lengths that
instruction data has (100 to 300 tokens). Here the scores of one sequence exist at a time, in the type of its queries,
and are computed again in backward rather than kept. No dropout, no padding, no caches.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch

MAX_TOKENS = 1024
"""Longer sequences are better off in a kernel that never holds all of their scores."""


def causal_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sequence_lengths: Sequence[int],
    scale: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """query is [heads, tokens, head_dim]; key and value may have fewer heads. Returns [heads, tokens, head_dim]."""
    attended: torch.Tensor = _Causal.apply(query, key, value, tuple(sequence_lengths), scale, sliding_window)
    return attended


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: tuple[int, ...],
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.options = (lengths, scale, window)
        attended = _empty_by_token(query)
        for part in _parts(lengths):
            weights = _weights(_by_group(query[:, part], key.shape[0]) * scale, key[:, part], window)
            attended[:, part] = torch.bmm(weights, value[:, part]).view(query.shape[0], -1, query.shape[2])
        return attended

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        lengths, scale, window = ctx.options
        grad_query, grad_key, grad_value = (_empty_by_token(tensor) for tensor in (query, key, value))
        for part in _parts(lengths):
            keys, scaled = key[:, part], _by_group(query[:, part], key.shape[0]) * scale
            grad = _by_group(grad_outputs[0][:, part], key.shape[0])
            weights = _weights(scaled, keys, window)
            grad_weights = torch.bmm(grad, value[:, part].transpose(1, 2))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_query[:, part] = torch.bmm(grad_scores, keys).view(query.shape[0], -1, query.shape[2]) * scale
            grad_key[:, part] = torch.bmm(grad_scores.transpose(1, 2), scaled)
            grad_value[:, part] = torch.bmm(weights.transpose(1, 2), grad)
        return grad_query, grad_key, grad_value, None, None, None


def _parts(lengths: Sequence[int]) -> Iterator[slice]:
    start = 0
    for length in lengths:
        yield slice(start, start + length)
        start += length


def _empty_by_token(heads: torch.Tensor) -> torch.Tensor:
    """[heads, tokens, dim] with the numbers of a token side by side, as the projections around it want them."""
    return heads.new_empty(heads.shape[1], heads.shape[0], heads.shape[2]).transpose(0, 1)


def _by_group(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """[heads, tokens, dim] as [groups, heads in a group x tokens, dim]: heads of a group share keys and values."""
    return heads.reshape(groups, -1, heads.shape[-1])


def _weights(scaled: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
    """[groups, heads in a group x tokens, tokens]; each row adds up to 1."""
    length = keys.shape[1]
    scores = torch.bmm(scaled, keys.transpose(1, 2))
    scores.view(keys.shape[0], -1, length, length).add_(_mask(length, window, scores))
    return scores.softmax(-1)


def _mask(length: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """0 where a token looks at itself or at one of the ``window - 1`` before it: the corner of a larger one."""
    return _square_mask(1 << (length - 1).bit_length(), window, like.dtype, like.device)[:length, :length]


@lru_cache(maxsize=8)
def _square_mask(length: int, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if window is not None:
        seen = seen.triu(1 - window)
    return torch.zeros(length, length, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)
