"""Noise on the embeddings while training (NEFTune: Jain et al. 2023, arXiv:2310.05914, section 2)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


@contextmanager
def embedding_noise(model: PreTrainedModel, alpha: float, sequence_lengths: Sequence[int]) -> Iterator[None]:
    """While it is open, forward passes in training mode see embeddings with noise added; alpha 0 adds none.

    Args:
        sequence_lengths: tokens of each sequence in the batch. In a flattened batch, shape (1, tokens), they follow
            each other along the row; in a padded one, shape (sequences, tokens), there is one for each row.
    """
    if alpha == 0:
        yield
        return

    def add_noise(module: nn.Module, _inputs: Any, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings + noise_like(embeddings, alpha, sequence_lengths) if module.training else embeddings

    handle = model.get_input_embeddings().register_forward_hook(add_noise)
    try:
        yield
    finally:
        handle.remove()


def noise_like(embeddings: torch.Tensor, alpha: float, sequence_lengths: Sequence[int]) -> torch.Tensor:
    """Uniform noise within alpha / sqrt(L * d) of zero, where L is the length of the token's own sequence.

    Args:
        embeddings: shape (rows, tokens, d).
    """
    lengths = torch.tensor(sequence_lengths, device=embeddings.device)
    if len(embeddings) == len(sequence_lengths):
        lengths = lengths[:, None].expand(embeddings.shape[:2])
    else:
        lengths = lengths.repeat_interleave(lengths)[None]
    bound = alpha / torch.sqrt(lengths * embeddings.shape[-1]).to(embeddings.dtype)
    return torch.empty_like(embeddings).uniform_(-1, 1) * bound[:, :, None]
