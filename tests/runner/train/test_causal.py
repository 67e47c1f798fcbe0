"""Attention by plain products gives what torch's own gives, gradients included, for every shape that models have."""

import pytest
import torch
from llm_runner.train.attention import packed_attention
from llm_runner.train.causal import MAX_TOKENS, causal_attention
from torch.nn.functional import scaled_dot_product_attention

LENGTHS = [7, 1, 32, 20]
Tensors = list[torch.Tensor]


def draw(heads: tuple[int, int], tokens: int, dtype: torch.dtype = torch.float32) -> Tensors:
    """query, key and value as projections give them: the numbers of a token side by side."""
    generator = torch.Generator().manual_seed(0)
    counts = (heads[0], heads[1], heads[1])
    drawn = [torch.randn(tokens, count, 16, generator=generator).to(dtype).transpose(0, 1) for count in counts]
    return [tensor.requires_grad_() for tensor in drawn]


def reference(tensors: Tensors, window: int | None, scale: float) -> torch.Tensor:
    """Each sequence by itself."""
    outputs = []
    for query, key, value in zip(*(tensor.split(LENGTHS, dim=1) for tensor in tensors), strict=True):
        length = query.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        mask = seen if window is None else seen.triu(1 - window)
        parts = (tensor[None] for tensor in (query, key, value))
        outputs.append(scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale, enable_gqa=True)[0])
    return torch.cat(outputs, dim=1)


def with_gradients(attended: torch.Tensor, tensors: Tensors) -> Tensors:
    weights = torch.arange(attended.numel(), dtype=torch.float32).view(attended.shape).sin().to(attended.dtype)
    gradients = torch.autograd.grad((attended * weights).sum(), tensors)
    return [attended, *gradients]


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)], ids=["plain", "grouped", "one key"])
@pytest.mark.parametrize("window", [None, 5])
def test_it_is_torchs_attention_with_the_same_gradients(heads: tuple[int, int], window: int | None) -> None:
    tensors = draw(heads, sum(LENGTHS))
    found = with_gradients(causal_attention(*tensors, LENGTHS, 0.3, window), tensors)
    expected = with_gradients(reference(tensors, window, 0.3), tensors)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_in_bfloat16_it_is_as_near_to_the_exact_result_as_torchs_own() -> None:
    narrow = draw((6, 2), sum(LENGTHS), torch.bfloat16)
    exact = [tensor.detach().float().requires_grad_() for tensor in narrow]
    wanted = with_gradients(reference(exact, None, 0.25), exact)
    ours = with_gradients(causal_attention(*narrow, LENGTHS, 0.25, None), narrow)
    theirs = with_gradients(reference(narrow, None, 0.25), narrow)
    for one, other, right in zip(ours, theirs, wanted, strict=True):
        assert (one.float() - right).abs().mean() < 2 * (other.float() - right).abs().mean() + 1e-4


@pytest.mark.parametrize("length", [MAX_TOKENS, MAX_TOKENS + 1], ids=["short", "long"])
def test_sequences_on_both_sides_of_the_bound_are_attended_alike(length: int) -> None:
    query, key, value = (tensor[None] for tensor in draw((2, 1), length, torch.bfloat16))
    found, _ = packed_attention(torch.nn.Identity(), query, key, value, None, sequence_lengths=[length])
    exact = scaled_dot_product_attention(
        query.float(), key.float(), value.float(), is_causal=True, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.02)
