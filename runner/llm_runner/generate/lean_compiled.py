"""What a decoder does between its products, each in one pass over the tokens: for a CPU, in bfloat16 or float32."""

from typing import Any

import numba
import numpy as np
import torch

from llm_runner.generate.compiled import ONE, exp_of_negative, narrow, run, widen


def add_and_normalize(
    x: torch.Tensor, change: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``x + change`` [tokens, size], and its RMS norm (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    sums, normed = torch.empty_like(x), torch.empty_like(x)
    run(_add_and_normalize, x, change, weight, np.float32(eps), sums, normed)
    return sums, normed


def rotate(heads: torch.Tensor, count: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotates the first ``count`` of ``heads`` [tokens, heads, size] where they are, by angles [tokens, 1, size]."""
    run(_rotate, heads, count, cos, sin)


def gate_by_silu(gate_up: torch.Tensor) -> torch.Tensor:
    """SiLU of the first half of [tokens, 2 * size], times the second half (SwiGLU; Shazeer 2020, arXiv:2002.05202)."""
    gated = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
    run(_gate_by_silu, gate_up, gated)
    return gated


def _add_and_normalize(x: Any, change: Any, weight: Any, eps: Any, sums: Any, normed: Any) -> None:
    for row in numba.prange(x.shape[0]):
        for index in range(x.shape[1]):
            sums[row, index] = narrow(widen(x[row, index]) + widen(change[row, index]), sums[row, index])
        squares = np.float32(0)
        for index in range(x.shape[1]):
            squares += widen(sums[row, index]) * widen(sums[row, index])
        scale = ONE / np.sqrt(squares / np.float32(x.shape[1]) + eps)
        for index in range(x.shape[1]):
            normed[row, index] = narrow(widen(sums[row, index]) * scale * widen(weight[index]), normed[row, index])


def _rotate(heads: Any, count: Any, cos: Any, sin: Any) -> None:
    half = heads.shape[2] // 2
    for row in numba.prange(heads.shape[0]):
        for head in range(count):
            for index in range(half):
                low, high = heads[row, head, index], heads[row, head, half + index]
                low_cos, high_cos = widen(cos[row, 0, index]), widen(cos[row, 0, half + index])
                low_sin, high_sin = widen(sin[row, 0, index]), widen(sin[row, 0, half + index])
                heads[row, head, index] = narrow(widen(low) * low_cos - widen(high) * low_sin, low)
                heads[row, head, half + index] = narrow(widen(high) * high_cos + widen(low) * high_sin, high)


def _gate_by_silu(gate_up: Any, gated: Any) -> None:
    width = gated.shape[1]
    for row in numba.prange(gated.shape[0]):
        for index in range(width):
            gate = widen(gate_up[row, index])
            # Of a positive number the sigmoid is 1 / (1 + e^-x), of a negative one e^x / (1 + e^x).
            power = exp_of_negative(-abs(gate))
            share = (ONE if gate >= 0 else power) / (ONE + power)
            gated[row, index] = narrow(gate * share * widen(gate_up[row, width + index]), gated[row, index])
