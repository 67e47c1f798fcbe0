"""Noise on embeddings: how large, where, and when not."""

import math

import pytest
import torch
from llm_runner.model.neftune import embedding_noise, noise_like

from tests.support.models import SIZES, build_model, llama_config

WIDTH = SIZES["hidden_size"]


@pytest.mark.proves("model_parameters.neftune_noise_alpha")
def test_the_noise_of_each_sequence_of_a_flat_row_is_bounded_by_its_own_length() -> None:
    lengths = [4, 100, 25]
    noise = noise_like(torch.zeros(1, sum(lengths), WIDTH), 5.0, lengths)
    for part, length in zip(noise.split(lengths, dim=1), lengths, strict=True):
        bound = 5.0 / math.sqrt(length * WIDTH)
        assert 0.9 * bound < float(part.abs().max()) <= bound
        assert abs(float(part.mean())) < bound / 5


def test_the_noise_of_padded_rows_is_bounded_by_their_lengths_without_padding() -> None:
    noise = noise_like(torch.zeros(2, 50, WIDTH), 5.0, [50, 10])
    bounds = [5.0 / math.sqrt(length * WIDTH) for length in (50, 10)]
    assert [float(row.abs().max()) for row in noise] == pytest.approx(bounds, rel=0.1)


@pytest.mark.proves("model_parameters.neftune_noise_alpha")
def test_noise_is_added_while_training_only_and_only_inside_the_block() -> None:
    model = build_model(llama_config())
    token_ids = torch.arange(2, 12)[None]
    plain = model(token_ids).logits
    with embedding_noise(model, 5.0, [10]):
        assert torch.equal(model(token_ids).logits, plain)
        assert not torch.equal(model.train()(token_ids).logits, plain)
    assert torch.equal(model(token_ids).logits, plain)


def test_no_strength_is_no_noise() -> None:
    model = build_model(llama_config()).train()
    token_ids = torch.arange(2, 12)[None]
    with embedding_noise(model, 0.0, [10]):
        assert torch.equal(model(token_ids).logits, model(token_ids).logits)
        assert not model.get_input_embeddings()._forward_hooks
