"""Attention within each sequence of a flattened batch, registered with transformers under one name.

A flattened batch is one row of several sequences end to end. No token may attend across a boundary, and no T x T mask
is built to say so: on a CPU each sequence is a call of its own (a mask over the whole row costs a quarter of the
speed), on CUDA the variable-length flash kernels take the boundaries as they are. Padding and caches are not known.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from llm_runner.train.causal import MAX_TOKENS, causal_attention

PACKED_ATTENTION = "llm_packed"
"""Value of ``config._attn_implementation`` that selects this module."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    sequence_lengths: Sequence[int],
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each of ``sequence_lengths``; transformers' attention interface.

    query is [1, heads, tokens, head_dim]; key and value have as many heads or fewer (grouped-query attention).
    Returns [1, tokens, heads, head_dim]. Raises NotImplementedError for what it would silently get wrong.
    """
    if attention_mask is not None or softcap is not None or s_aux is not None:
        raise NotImplementedError("packed attention knows no masks, no soft cap and no sinks")
    if dropout == 0.0 and _has_varlen_kernel(query):
        return _varlen(query, key, value, sequence_lengths, scaling, sliding_window), None
    if dropout == 0.0 and _is_short(query, sequence_lengths):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        attended = causal_attention(query[0], key[0], value[0], sequence_lengths, scale, sliding_window)
        return attended.transpose(0, 1)[None], None
    grouped = query.shape[1] != key.shape[1]
    outputs = [
        scaled_dot_product_attention(
            part_query,
            part_key,
            part_value,
            attn_mask=_window_mask(part_query, sliding_window),
            dropout_p=dropout,
            is_causal=not _exceeds(part_query, sliding_window),
            scale=scaling,
            enable_gqa=grouped,
        )
        for part_query, part_key, part_value in zip(
            *(tensor.split(list(sequence_lengths), dim=2) for tensor in (query, key, value)), strict=True
        )
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _exceeds(query: torch.Tensor, sliding_window: int | None) -> bool:
    return sliding_window is not None and query.shape[2] > sliding_window


def _window_mask(query: torch.Tensor, sliding_window: int | None) -> torch.Tensor | None:
    """Each token sees itself and the ``sliding_window - 1`` before it; None where the plain causal rule is the same."""
    if sliding_window is None or not _exceeds(query, sliding_window):
        return None
    length = query.shape[2]
    everything = torch.ones(length, length, dtype=torch.bool, device=query.device)
    return everything.tril().triu(1 - sliding_window)


def _is_short(query: torch.Tensor, sequence_lengths: Sequence[int]) -> bool:
    """Where plain products are faster than the flash kernel: not in float32, whose kernel has a fast backward."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and max(sequence_lengths) <= MAX_TOKENS


def _has_varlen_kernel(query: torch.Tensor) -> bool:
    return query.is_cuda and query.dtype in {torch.bfloat16, torch.float16} and query.shape[-1] <= 256


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sequence_lengths: Sequence[int],
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    """torch's variable-length flash attention; shapes as in packed_attention."""
    from torch.nn.attention.varlen import varlen_attn

    bounds = torch.tensor([0, *accumulate(sequence_lengths)], dtype=torch.int32, device=query.device)
    longest = max(sequence_lengths)
    packed_query, packed_key, packed_value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    output = varlen_attn(
        packed_query,
        packed_key,
        packed_value,
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, torch.Tensor), "without return_aux"
    return output.unsqueeze(0)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
