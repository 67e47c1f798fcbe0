"""What is compiled of a decoder gives what torch gives, number by number."""

from typing import Any

import numba
import pytest
import torch
from llm_runner.generate.compiled import exp_of_negative, narrow, run
from llm_runner.generate.lean_compiled import add_and_normalize, gate_by_silu, rotate
from torch.nn.functional import rms_norm, silu

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def _round(numbers: Any, rounded: Any) -> None:
    for row in numba.prange(numbers.shape[0]):
        for index in range(numbers.shape[1]):
            rounded[row, index] = narrow(numbers[row, index], rounded[row, index])


def _take_exponentials(numbers: Any, results: Any) -> None:
    for row in numba.prange(numbers.shape[0]):
        for index in range(numbers.shape[1]):
            results[row, index] = exp_of_negative(numbers[row, index])


def test_numbers_are_rounded_to_bfloat16_as_torch_rounds_them() -> None:
    halfway = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38, torch.inf, -torch.inf, 0.0, 1e-40])
    numbers = torch.cat([halfway, draw(1000)])[None]
    found = torch.empty_like(numbers, dtype=torch.bfloat16)
    run(_round, numbers, found)
    assert torch.equal(found, numbers.to(torch.bfloat16))
    run(_round, torch.full((1, 3), torch.nan), rounded := torch.zeros(1, 3, dtype=torch.bfloat16))
    assert rounded.isnan().all()


def test_exponentials_are_right_to_the_last_places() -> None:
    numbers = torch.cat([torch.linspace(-87, 0, 100_000), torch.tensor([0.0, -1e-30])])[None]
    found = torch.empty_like(numbers)
    run(_take_exponentials, numbers, found)
    expected = numbers.double().exp()
    assert ((found - expected).abs() / expected).max() < 4e-7
    assert found[0, -2] == 1
    extremes = torch.tensor([[-torch.inf, -1e30, torch.nan]])
    run(_take_exponentials, extremes, results := torch.empty_like(extremes))
    assert results[0, :2].max() < 1e-37
    assert results[0, 2].isnan()


@DTYPES
@pytest.mark.parametrize("tokens", [1, 7])
def test_a_sum_and_its_norm_are_those_of_torch(dtype: torch.dtype, tokens: int) -> None:
    x, change, weight = draw(tokens, 65, dtype=dtype), 3 * draw(tokens, 65, dtype=dtype), draw(65, dtype=dtype)
    found, normed = add_and_normalize(x, change, weight, 1e-5)
    assert torch.equal(found, x + change)
    torch.testing.assert_close(normed, rms_norm(x + change, (65,), weight, 1e-5))


@DTYPES
def test_a_gate_is_silu_of_one_half_times_the_other(dtype: torch.dtype) -> None:
    gate_up = 10 * draw(5, 70, dtype=dtype)
    gate_up[0, :2] = torch.tensor([200.0, -200.0])
    gate, up = gate_up.float().chunk(2, dim=-1)
    torch.testing.assert_close(gate_by_silu(gate_up), (silu(gate) * up).to(dtype))


@DTYPES
def test_the_first_heads_are_rotated_and_the_others_left(dtype: torch.dtype) -> None:
    heads, angles = draw(6, 4, 16, dtype=dtype), draw(6, 1, 16)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    wide = heads.float()
    first, second = wide.chunk(2, dim=-1)
    expected = (wide * cos.float() + torch.cat([-second, first], dim=-1) * sin.float()).to(dtype)
    found = heads.clone()
    rotate(found, 3, cos, sin)
    torch.testing.assert_close(found[:, :3], expected[:, :3])
    assert torch.equal(found[:, 3:], heads[:, 3:])


def test_what_is_no_number_stays_so() -> None:
    broken = draw(1, 8)
    broken[0, 3] = torch.nan
    assert add_and_normalize(broken, broken, draw(8), 1e-5)[1].isnan().all()
    assert gate_by_silu(broken)[0, 3].isnan()
