"""Attention on a CPU.

A decoding step brings one query a sequence. The library's attention wants keys and values of all sequences in one
tensor, as long as the longest: bringing them there takes longer than attending. These loops go to each block where it
lies.

A prompt's queries are attended by two products, with the softmax in one pass between them. Queries that share a head
of keys are multiplied with it together, and what comes after all of them isn't multiplied at all.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch

from llm_runner.generate.cache import BLOCK_TOKENS
from llm_runner.generate.compiled import exp_of_negative, narrow, run, widen

SPAN_QUERIES = 128
"""Of a prompt at once: more waste work on what they don't see, fewer make products that are too small."""


def attend_blocks(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: torch.Tensor,
    table: torch.Tensor,
    bounds: torch.Tensor,
    output: torch.Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> None:
    """Fills the ``rows`` [sequences] of ``output`` [tokens, heads, value size], for those of ``query`` [tokens, heads,
    key size]: each sees the tokens of its own sequence.

    ``keys`` and ``values`` are [slots, key-value heads, size], ``table`` [sequences, blocks], and ``bounds``
    [sequences, 2] the first token that each sees and the one after its last. ``softcap`` squeezes scores by tanh, and
    ``sinks`` [heads] are scores for attending to nothing.
    """
    sequences, heads = len(rows), query.shape[1]
    attend = _build_attend(keys.shape[2], values.shape[2], heads // keys.shape[1])
    # All heads of a sequence at once, as they lie, unless threads would idle.
    parts = 1 if sequences >= torch.get_num_threads() else keys.shape[1]
    run(
        attend,
        *(query.contiguous(), keys, values, rows, table, bounds, parts, np.float32(scaling)),
        np.float32(0 if softcap is None else softcap),
        torch.full((heads,), -math.inf) if sinks is None else sinks.float(),
        torch.empty(sequences, heads, keys.shape[2]),
        torch.empty(sequences * parts, max(keys.shape[2], values.shape[2])),
        torch.empty(sequences, heads, table.shape[1] * BLOCK_TOKENS),
        torch.empty(sequences, heads, values.shape[2]),
        output,
    )


def attend_span(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    *,
    start: int,
    scaling: float,
    window: int | None = None,
) -> None:
    """Fills ``output`` [heads, tokens, value size] for ``query`` [heads, tokens, key size], of which the first stands
    at ``start``; each sees the ``window`` keys up to its own, or all, of ``key`` and ``value`` [key-value heads, start
    + tokens, size].
    """
    shared = query.shape[0] // key.shape[0]
    grouped, filled = (one.unflatten(0, (-1, shared)) for one in (query, output))
    for low in range(0, query.shape[1], SPAN_QUERIES):
        high = min(low + SPAN_QUERIES, query.shape[1])
        seen, own = slice(0, start + high), slice(low, high)
        scores = torch.bmm(grouped[:, :, own].flatten(1, 2), key[:, seen].transpose(1, 2))
        run(_weigh_causally, scores, start + low, high - low, window or 0, np.float32(scaling))
        filled[:, :, own] = torch.bmm(scores, value[:, seen]).unflatten(1, (shared, -1))


def _weigh_causally(scores: Any, start: Any, tokens: Any, window: Any, scaling: Any) -> None:
    """Makes of scores [heads, queries, keys] weights, where they are; of all that share a head, ``tokens`` follow each
    other from ``start`` on.
    """
    # Indices without sign: see below.
    rows, width, one = np.uintp(scores.shape[1]), np.uintp(scores.shape[2]), np.uintp(1)
    for number in numba.prange(scores.shape[0] * scores.shape[1]):
        head, row = np.uintp(number) // rows, np.uintp(number) % rows
        last = np.uintp(start) + row % np.uintp(tokens) + one
        first = last - min(last, np.uintp(window)) if window > 0 else np.uintp(0)
        most = np.float32(-np.inf)
        for place in range(first, last):
            most = max(most, widen(scores[head, row, place]) * scaling)
        total = np.float32(0)
        for place in range(first, last):
            weight = exp_of_negative(widen(scores[head, row, place]) * scaling - most)
            scores[head, row, place] = narrow(weight, scores[head, row, place])
        for place in range(first, last):
            total += widen(scores[head, row, place])
        for place in range(first, last):
            scores[head, row, place] = narrow(widen(scores[head, row, place]) / total, scores[head, row, place])
        for place in range(first):
            scores[head, row, place] = narrow(np.float32(0), scores[head, row, place])
        for place in range(last, width):
            scores[head, row, place] = narrow(np.float32(0), scores[head, row, place])


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _weigh(scores: Any, row: Any, own: Any, first: Any, last: Any, softcap: Any, sink: Any) -> None:
    """Softmax of one query's scores, where they are."""
    if softcap > 0:
        for place in range(first, last):
            scores[row, own, place] = np.tanh(scores[row, own, place] / softcap) * softcap
    most = sink
    for place in range(first, last):
        most = max(most, scores[row, own, place])
    for place in range(first, last):
        scores[row, own, place] = exp_of_negative(scores[row, own, place] - most)
    total = exp_of_negative(sink - most) if sink > -np.inf else np.float32(0)
    for place in range(first, last):
        total += scores[row, own, place]
    for place in range(first, last):
        scores[row, own, place] /= total


@cache
def _build_attend(key_size: int, value_size: int, queries_per_key: int) -> Callable[..., None]:
    """Sizes that are known while it is compiled double its speed."""
    # Of a type without sign: an index that may be negative costs the compiler's code as much as what it is for.
    shared, block_tokens, one = (np.uintp(number) for number in (queries_per_key, BLOCK_TOKENS, 1))

    def attend(
        query: Any, keys: Any, values: Any, rows: Any, table: Any, bounds: Any, parts: Any, scaling: Any,
        softcap: Any, sinks: Any, wide: Any, seen: Any, scores: Any, sums: Any, output: Any,
    ) -> None:  # fmt: skip
        heads = np.uintp(keys.shape[1] // parts)
        for number in numba.prange(table.shape[0] * parts):
            row, first_head = np.uintp(number // parts), np.uintp(number % parts) * heads
            first_own, last_own = first_head * shared, (first_head + heads) * shared
            token, first, last = np.uintp(rows[row]), np.uintp(bounds[row, 0]), np.uintp(bounds[row, 1])
            for own in range(first_own, last_own):
                for index in range(key_size):
                    wide[row, own, index] = widen(query[token, own, index])
            for block in range(first // block_tokens, (last - one) // block_tokens + one):
                start, slot = block * block_tokens, np.uintp(table[row, block]) * block_tokens
                for head in range(first_head, first_head + heads):
                    for place in range(max(first, start), min(last, start + block_tokens)):
                        for index in range(key_size):
                            seen[number, index] = widen(keys[slot + (place - start), head, index])
                        for own in range(head * shared, head * shared + shared):
                            total = np.float32(0)
                            for index in range(key_size):
                                total += wide[row, own, index] * seen[number, index]
                            scores[row, own, place] = total * scaling
            for own in range(first_own, last_own):
                _weigh(scores, row, own, first, last, softcap, sinks[own])
                for index in range(value_size):
                    sums[row, own, index] = 0
            for block in range(first // block_tokens, (last - one) // block_tokens + one):
                start, slot = block * block_tokens, np.uintp(table[row, block]) * block_tokens
                for head in range(first_head, first_head + heads):
                    for place in range(max(first, start), min(last, start + block_tokens)):
                        for index in range(value_size):
                            seen[number, index] = widen(values[slot + (place - start), head, index])
                        for own in range(head * shared, head * shared + shared):
                            weight = scores[row, own, place]
                            for index in range(value_size):
                                sums[row, own, index] += weight * seen[number, index]
            for own in range(first_own, last_own):
                for index in range(value_size):
                    output[token, own, index] = narrow(sums[row, own, index], output[token, own, index])

    return attend
