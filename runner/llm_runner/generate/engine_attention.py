"""Attention over the block-wise cache, for our own decoder and, by transformers' interface, for the library's models.

Grouped queries share their keys without a copy for each: the queries of one key-value head stand side by side.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from llm_runner.generate.cache_tensors import LayerCache, LayerShape, PagedCache
from llm_runner.generate.compiled import can_compile
from llm_runner.generate.engine_batch import Group, Span, StepBatch
from llm_runner.generate.engine_compiled import attend_blocks, attend_span

PAGED_ATTENTION = "llm_paged"
"""Value of ``config._attn_implementation`` that selects ``library_attention``."""


@dataclass(frozen=True)
class AttentionRule:
    """What differs between architectures and layers."""

    scaling: float
    window: int | None = None
    """Tokens that are seen, the own included; None: all."""
    softcap: float | None = None
    """Scores are squeezed into +-softcap by tanh, as Gemma 2 does."""
    sinks: torch.Tensor | None = None
    """[heads]: a score for attending to nothing, as GPT-OSS has."""

    @property
    def is_plain(self) -> bool:
        return self.softcap is None and self.sinks is None


def paged_attention(
    layer: LayerCache,
    batch: StepBatch,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rule: AttentionRule,
) -> torch.Tensor:
    """Writes the step's keys and values, and attends. All are [heads, tokens, size]; so is the result."""
    layer.write(batch.slots, key, value)
    # In the order that the next product reads.
    output = query.new_empty(query.shape[1], query.shape[0], value.shape[2]).transpose(0, 1)
    for group in batch.groups:
        _fill_group(layer, group, query, output, rule)
    for span in batch.spans:
        fresh = (key[:, span.rows], value[:, span.rows])
        _fill_span(layer, span, query[:, span.rows], fresh, output[:, span.rows], rule)
    return output


def _fill_group(
    layer: LayerCache, group: Group, query: torch.Tensor, output: torch.Tensor, rule: AttentionRule
) -> None:
    if not can_compile(layer.keys.dtype, layer.keys.device):
        # By index_select and index_copy_: indexing by a tensor takes several times as long.
        own = query.index_select(1, group.rows)
        output.index_copy_(1, group.rows, _attend_group(layer, group, own, rule))
        return
    attend_blocks(
        query.transpose(0, 1),
        layer.keys,
        layer.values,
        group.rows,
        group.table,
        group.bounds(rule.window),
        output.transpose(0, 1),
        scaling=rule.scaling,
        softcap=rule.softcap,
        sinks=rule.sinks,
    )


def _attend_group(layer: LayerCache, group: Group, query: torch.Tensor, rule: AttentionRule) -> torch.Tensor:
    """[heads, sequences, size]: each sequence's one token sees its own cache, gathered and padded."""
    keys, values = layer.read(group.table)
    heads, rows, _ = query.shape
    grouped = query.transpose(0, 1).unflatten(1, (keys.shape[1], -1))
    mask = group.bias(rule.window, query.dtype) if rule.is_plain else group.mask(rule.window)
    attended = _attend(grouped, keys, values, mask, rule)
    return attended.reshape(rows, heads, values.shape[-1]).transpose(0, 1)


def _fill_span(
    layer: LayerCache,
    span: Span,
    query: torch.Tensor,
    fresh: tuple[torch.Tensor, torch.Tensor],
    output: torch.Tensor,
    rule: AttentionRule,
) -> None:
    """Several tokens of one sequence see what came before them."""
    is_whole = span.start == 0
    key, value = fresh if is_whole else (one[0, :, : span.end] for one in layer.read(span.table))
    # In float32 the library's takes no longer.
    if rule.is_plain and query.dtype == torch.bfloat16 and can_compile(query.dtype, query.device):
        attend_span(query, key, value, output, start=span.start, scaling=rule.scaling, window=rule.window)
    else:
        output.copy_(_attend_span(span, query, key, value, rule))


def _attend_span(
    span: Span, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: AttentionRule
) -> torch.Tensor:
    """[heads, tokens, size]"""
    exceeds = rule.window is not None and span.end > rule.window
    if span.start == 0 and rule.is_plain and not exceeds:
        is_grouped = query.shape[0] != key.shape[0]
        return scaled_dot_product_attention(
            query[None], key[None], value[None], is_causal=True, scale=rule.scaling, enable_gqa=is_grouped
        )[0]
    tokens, shared = query.shape[1], query.shape[0] // key.shape[0]
    grouped = query.reshape(1, key.shape[0], shared * tokens, -1)
    mask = _causal_mask(span, rule.window, query.device).repeat(shared, 1)
    return _attend(grouped, key[None], value[None], mask, rule).reshape(query.shape[0], tokens, -1)


def _causal_mask(span: Span, window: int | None, device: torch.device) -> torch.Tensor:
    """[tokens, tokens so far]"""
    own = torch.arange(span.start, span.end, device=device)[:, None]
    other = torch.arange(span.end, device=device)[None]
    seen = other <= own
    return seen if window is None else seen & (other > own - window)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, rule: AttentionRule
) -> torch.Tensor:
    """[sequences, key-value heads, queries of each, size]"""
    if rule.is_plain:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=rule.scaling)
    scores = (query @ key.transpose(-1, -2)) * rule.scaling
    return _weigh(scores, mask, rule).to(value.dtype) @ value


def _weigh(scores: torch.Tensor, mask: torch.Tensor, rule: AttentionRule) -> torch.Tensor:
    """Scores [sequences, heads, queries, tokens] as weights, in float32."""
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    scores = scores.masked_fill(~mask, -math.inf).float()
    if rule.sinks is None:
        return torch.softmax(scores, dim=-1)
    return torch.softmax(torch.cat([scores, _spread(rule.sinks, scores)], dim=-1), dim=-1)[..., :-1]


def _spread(sinks: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """One score a query: those of a head stand side by side, as many as it has tokens here."""
    each = scores.shape[1] * scores.shape[2] // sinks.numel()
    return sinks.float().repeat_interleave(each).view(1, *scores.shape[1:3], 1).expand(scores.shape[0], -1, -1, -1)


@dataclass(frozen=True)
class LibraryStep:
    """What a model of the library hands through to ``library_attention``."""

    cache: PagedCache
    batch: StepBatch


def library_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    paged: LibraryStep | None = None,
    shapes: dict[int, LayerShape] | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention interface: query is [1, heads, tokens, size], the result [1, tokens, heads, size].

    With ``shapes`` in place of ``paged`` it only notes what each layer needs to keep. Raises NotImplementedError for
    what it would silently get wrong.
    """
    number: Any = getattr(module, "layer_idx", None)
    if attention_mask is not None or number is None:
        raise NotImplementedError("paged attention knows no masks, and layers only by their number")
    if shapes is not None:
        if number in shapes:
            raise NotImplementedError("two attentions of one layer")
        shapes[number] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2), None
    assert paged is not None, "the forward pass hands it through"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rule = AttentionRule(scale, sliding_window, softcap, s_aux)
    attended = paged_attention(paged.cache.layers[number], paged.batch, query[0], key[0], value[0], rule)
    return attended.transpose(0, 1).unsqueeze(0), None


AttentionInterface.register(PAGED_ATTENTION, library_attention)
