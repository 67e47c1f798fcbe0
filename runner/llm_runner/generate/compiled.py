"""Loops over tensors of a CPU that Numba compiles: for what takes the library many small calls a layer.

A 16-bit number is read as the float32 that it is, and rounded once, when it is written. Sums are taken in float32.
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

BFLOAT16_SHIFT = 16
"""A bfloat16 is the upper half of a float32."""
QUIET_NAN = 0x7FC0
"""What is no number, as a bfloat16."""
COMPILING = {"fastmath": {"reassoc", "contract", "nsz"}, "nogil": True, "error_model": "numpy"}
"""Sums may be taken in any order. Infinite values and what is no number stay so, since they tell of a broken model."""

LOG2_E = np.float32(1.44269504)
LN_2_HIGH, LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LEAST_EXPONENT = np.float32(-87.0)
"""Below, the exponential is less than the smallest normal number."""
HALF, ONE = np.float32(0.5), np.float32(1)
C5, C4, C3, C2, C1 = (
    np.float32(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1)
)

_one_at_a_time = threading.Lock()


def can_compile(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether there are such loops for tensors of a kind."""
    return device.type == "cpu" and dtype in (torch.bfloat16, torch.float32)


def run(function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function, compiled, with tensors as arrays of the same memory; bfloat16 as its bits."""
    arrays = [_to_numpy(one) if isinstance(one, torch.Tensor) else one for one in arguments]
    with _one_at_a_time:
        if _has_threads() and numba.get_num_threads() != (wanted := _count_threads()):
            numba.set_num_threads(wanted)
        _compile(function)(*arrays)


def _to_numpy(tensor: torch.Tensor) -> "np.ndarray[Any, Any]":
    """NumPy knows no bfloat16."""
    array: np.ndarray[Any, Any] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _count_threads() -> int:
    return min(torch.get_num_threads(), int(numba.config.NUMBA_NUM_THREADS))


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
def widen(_context: Any, number: Any) -> Any:
    """A bfloat16's bits, or a float32, as a float32."""

    def build(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        if number == types.float32:
            return arguments[0]
        word = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(word, ir.Constant(ir.IntType(32), BFLOAT16_SHIFT)), ir.FloatType())

    return types.float32(number), build


@intrinsic  # type: ignore[untyped-decorator]
def narrow(_context: Any, number: Any, like: Any) -> Any:
    """A float32 as ``like`` is: itself, or the bits of the nearest bfloat16, of two as near the even one."""

    def build(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        if like == types.float32:
            return arguments[0]
        word, half = ir.IntType(32), ir.IntType(16)
        bits = builder.bitcast(arguments[0], word)
        kept = builder.lshr(bits, ir.Constant(word, BFLOAT16_SHIFT))
        odd = builder.and_(kept, ir.Constant(word, 1))
        rounded = builder.add(builder.add(bits, odd), ir.Constant(word, (1 << BFLOAT16_SHIFT - 1) - 1))
        nearest = builder.trunc(builder.lshr(rounded, ir.Constant(word, BFLOAT16_SHIFT)), half)
        is_nan = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        return builder.select(is_nan, ir.Constant(half, QUIET_NAN), nearest)

    return like(number, like), build


@intrinsic  # type: ignore[untyped-decorator]
def power_of_two(_context: Any, exponent: Any) -> Any:
    """2 to an int32 of -126 to 127, as a float32: its exponent's bits."""

    def build(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        biased = builder.add(arguments[0], ir.Constant(word, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(exponent), build


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def exp_of_negative(x: Any) -> Any:
    """The exponential of a float32 of at most 0, to about one unit in its last place, in vector instructions.

    Cody and Waite's reduction with the polynomial of Cephes' ``expf`` (Moshier, netlib.org/cephes). What a compiler
    has for it is a call for each number.
    """
    inner = max(x, LEAST_EXPONENT)
    whole = np.int32(inner * LOG2_E - HALF)
    part = inner - np.float32(whole) * LN_2_HIGH - np.float32(whole) * LN_2_LOW
    series = ((((C5 * part + C4) * part + C3) * part + C2) * part + C1) * part + HALF
    return (series * part * part + part + ONE) * power_of_two(whole)
