"""Attention of single queries on a CPU, read straight from the cache's blocks by loops that Numba compiles.

A decoding step brings one query a sequence. The library's attention wants keys and values of all sequences in one
tensor, as long as the longest: bringing them there takes longer than attending. These loops go to each block where it
lies. Scores come back to torch in between, which does with them what a rule wants.
"""

import threading
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llm_runner.generate.cache import BLOCK_TOKENS

BFLOAT16_SHIFT = 16
"""A bfloat16 is the upper half of a float32."""
COMPILING = {"fastmath": {"reassoc", "contract", "nsz"}, "nogil": True, "error_model": "numpy"}
"""Sums may be taken in any order. Infinite values and what is no number stay so, since they tell of a broken model."""

_one_at_a_time = threading.Lock()


def reads_blocks(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a cache of this kind can be attended to here."""
    return device.type == "cpu" and dtype in (torch.bfloat16, torch.float32)


def paged_scores(
    query: torch.Tensor, keys: torch.Tensor, table: torch.Tensor, bounds: torch.Tensor, scaling: float
) -> torch.Tensor:
    """What each query [sequences, heads, size] makes of its sequence's keys: float32 [sequences, heads, tokens].

    ``keys`` is [slots, key-value heads, size], ``table`` [sequences, blocks], and ``bounds`` [sequences, 2] the first
    token that each sees and the one after its last; all others get -inf.
    """
    last = int(bounds[:, 1].max())
    scores = torch.full((*query.shape[:2], last), -torch.inf)
    own = query.float().contiguous().numpy()
    places = (table.numpy(), bounds.numpy(), BLOCK_TOKENS, _parts(keys, table))
    _run(_score, own, _to_numpy(keys), *places, np.float32(scaling), scores.numpy())
    return scores


def paged_sum(weights: torch.Tensor, values: torch.Tensor, table: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """The values' sums, weighted by [sequences, heads, tokens] in float32: [sequences, heads, size] in float32."""
    sums = torch.zeros((*weights.shape[:2], values.shape[-1]))
    places = (table.numpy(), bounds.numpy(), BLOCK_TOKENS, _parts(values, table))
    _run(_sum, weights.contiguous().numpy(), _to_numpy(values), *places, sums.numpy())
    return sums


def _parts(cache: torch.Tensor, table: torch.Tensor) -> int:
    """In how many parts a sequence's heads are worked on: all in one, as they lie, unless threads would idle."""
    return 1 if len(table) >= torch.get_num_threads() else cache.shape[1]


def _to_numpy(tensor: torch.Tensor) -> "np.ndarray[Any, Any]":
    """The same memory. NumPy knows no bfloat16."""
    if tensor.dtype == torch.float32:
        return tensor.numpy()
    return tensor.view(torch.int16).numpy().view(np.uint16)


def _run(function: Callable[..., None], *arguments: Any) -> None:
    with _one_at_a_time:
        if _has_threads():
            numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        _compile(function)(*arguments)


@cache
def _has_threads() -> bool:
    """Whether Numba can share OpenMP's threads with torch. Threads of its own would wait for each other's cores."""
    try:
        import_module("numba.np.ufunc.omppool")
    except ImportError:
        return False
    numba.config.THREADING_LAYER = "omp"
    return True


@cache
def _compile(function: Callable[..., None]) -> Callable[..., None]:
    """Takes some seconds at the first call with arrays of a type; the code is kept on disk where it can be."""
    options = {**COMPILING, "parallel": _has_threads()}
    try:
        # What is kept isn't told apart by whether it has threads.
        compiled: Callable[..., None] = numba.njit(cache=_has_threads(), **options)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache folder can be written
        compiled = numba.njit(**options)(function)
    return compiled


@intrinsic  # type: ignore[untyped-decorator]
def _widen(_context: Any, number: Any) -> Any:
    """A bfloat16's bits, or a float32, as a float32."""

    def widen(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        if number == types.float32:
            return arguments[0]
        word = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(word, ir.Constant(ir.IntType(32), BFLOAT16_SHIFT)), ir.FloatType())

    return types.float32(number), widen


def _score(
    query: Any, keys: Any, table: Any, bounds: Any, block_tokens: Any, parts: Any, scaling: Any, scores: Any
) -> None:
    heads, shared = keys.shape[1] // parts, query.shape[1] // keys.shape[1]
    for number in numba.prange(table.shape[0] * parts):
        row, first = number // parts, number % parts * heads
        for place in range(bounds[row, 0], bounds[row, 1]):
            slot = table[row, place // block_tokens] * block_tokens + place % block_tokens
            for head in range(first, first + heads):
                key = keys[slot, head]
                for query_head in range(head * shared, head * shared + shared):
                    own = query[row, query_head]
                    total = np.float32(0)
                    for index in range(own.shape[0]):
                        total += own[index] * _widen(key[index])
                    scores[row, query_head, place] = total * scaling


def _sum(weights: Any, values: Any, table: Any, bounds: Any, block_tokens: Any, parts: Any, sums: Any) -> None:
    heads, shared = values.shape[1] // parts, weights.shape[1] // values.shape[1]
    for number in numba.prange(table.shape[0] * parts):
        row, first = number // parts, number % parts * heads
        for place in range(bounds[row, 0], bounds[row, 1]):
            slot = table[row, place // block_tokens] * block_tokens + place % block_tokens
            for head in range(first, first + heads):
                value = values[slot, head]
                for query_head in range(head * shared, head * shared + shared):
                    weight, own = weights[row, query_head, place], sums[row, query_head]
                    for index in range(own.shape[0]):
                        own[index] += weight * _widen(value[index])
