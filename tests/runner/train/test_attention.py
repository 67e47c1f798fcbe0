"""Attention stays within each sequence, with grouped keys and with a sliding window."""

import pytest
import torch
from llm_runner.train.attention import packed_attention
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

HEADS, HEAD_WIDTH = 4, 8
LENGTHS = [5, 1, 9, 12]


def tensors(key_heads: int = HEADS, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    heads = (HEADS, key_heads, key_heads)
    query, key, value = (torch.randn(1, count, sum(LENGTHS), HEAD_WIDTH, generator=generator) for count in heads)
    return query, key, value


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None = None) -> torch.Tensor:
    output, _ = packed_attention(
        nn.Identity(), query, key, value, None, sequence_lengths=LENGTHS, sliding_window=window
    )
    return output


def masked_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None) -> torch.Tensor:
    """The same by one mask over the whole row: causal, in the same sequence, at most ``window`` tokens back."""
    positions = torch.arange(sum(LENGTHS))
    owner = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    back = positions[:, None] - positions[None]
    allowed = (owner[:, None] == owner[None]) & (back >= 0) & (back < (10**6 if window is None else window))
    repeats = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=allowed).transpose(1, 2)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("window", [None, 1, 3, 9, 100])
def test_it_is_attention_under_a_mask_of_blocks(key_heads: int, window: int | None) -> None:
    query, key, value = tensors(key_heads)
    torch.testing.assert_close(attend(query, key, value, window), masked_attention(query, key, value, window))


@pytest.mark.parametrize("window", [None, 3])
def test_a_sequence_gets_no_gradient_from_another(window: int | None) -> None:
    query, key, value = (tensor.requires_grad_() for tensor in tensors(2))
    start, end = sum(LENGTHS[:2]), sum(LENGTHS[:3])
    attend(query, key, value, window)[:, start:end].sum().backward()
    for tensor in (query, key, value):
        assert tensor.grad is not None
        assert tensor.grad[:, :, start:end].abs().sum() > 0
        assert tensor.grad[:, :, :start].abs().sum() == 0
        assert tensor.grad[:, :, end:].abs().sum() == 0


def test_changing_one_sequence_changes_no_other() -> None:
    query, key, value = tensors()
    before = attend(query, key, value)
    for tensor in (query, key, value):
        tensor[:, :, 6:15] = 77.0
    after = attend(query, key, value)
    torch.testing.assert_close(after[:, :6], before[:, :6], rtol=0, atol=0)
    torch.testing.assert_close(after[:, 15:], before[:, 15:], rtol=0, atol=0)


@pytest.mark.parametrize("unknown", ["attention_mask", "softcap", "s_aux"])
def test_what_it_does_not_know_is_refused_rather_than_left_out(unknown: str) -> None:
    query, key, value = tensors()
    given = {"attention_mask": None, unknown: torch.ones(1)}
    with pytest.raises(NotImplementedError):
        packed_attention(nn.Identity(), query, key, value, sequence_lengths=LENGTHS, **given)  # type: ignore[arg-type]


def test_dropout_drops_attention_weights() -> None:
    query, key, value = tensors()
    dropped, _ = packed_attention(nn.Identity(), query, key, value, None, sequence_lengths=LENGTHS, dropout=0.5)
    assert not torch.allclose(dropped, attend(query, key, value))
