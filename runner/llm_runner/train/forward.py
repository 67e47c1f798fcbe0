"""From rows to their loss through a model: flattened where the architecture allows it, padded where it doesn't.

Whether it allows it is measured, not looked up: two short sequences go through both ways and must agree. A model with
recurrent state, absolute positions of its own or an attention that ignores the boundaries is found by that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from llm_runner.model.neftune import embedding_noise
from llm_runner.train.attention import PACKED_ATTENTION
from llm_runner.train.batch import Row, flatten, pad
from llm_runner.train.loss import (
    TokenLoss,
    TokenScores,
    head_cross_entropy,
    head_scores,
    logits_cross_entropy,
    logits_scores,
)

MASKED_LAYERS = {"chunked_attention"}


class Forward(Protocol):
    """Loss of some rows, with its graph unless gradients are off."""

    @property
    def pads(self) -> bool:
        """Whether rows of unlike length are padded, which takes memory for tokens that aren't there."""

    def __call__(self, rows: Sequence[Any], /) -> TokenLoss: ...


class TokenForward(Forward, Protocol):
    """One that also tells each target's own share."""

    @property
    def model(self) -> PreTrainedModel: ...
    def scores(self, rows: Sequence[Row]) -> TokenScores: ...


@dataclass(frozen=True)
class FlatForward:
    """No padding; the head is applied at target positions only, its loss in chunks."""

    model: PreTrainedModel
    """The language model itself; adapters are injected into its layers."""
    pads: bool = False

    def __call__(self, rows: Sequence[Row]) -> TokenLoss:
        return head_cross_entropy(*self._predict(rows))

    def scores(self, rows: Sequence[Row]) -> TokenScores:
        return head_scores(*self._predict(rows))

    def _predict(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.nn.Module, torch.Tensor]:
        """Hidden states where a target comes next, the head over them, and the targets."""
        batch = flatten(rows, self.model.device)
        decoder = self.model.get_decoder()
        hidden = decoder(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            sequence_lengths=batch.sequence_lengths,
            use_cache=False,
        ).last_hidden_state
        return hidden[0, batch.predicting], self.model.get_output_embeddings(), batch.targets


@dataclass(frozen=True)
class PaddedForward:
    """The library's own forward pass over right-padded rows; works for every causal language model."""

    model: PreTrainedModel
    pads: bool = True

    def __call__(self, rows: Sequence[Row]) -> TokenLoss:
        return logits_cross_entropy(*self._predict(rows))

    def scores(self, rows: Sequence[Row]) -> TokenScores:
        return logits_scores(*self._predict(rows))

    def _predict(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits where a target comes next, and the targets."""
        batch = pad(rows, self.model.device)
        logits = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        return logits[batch.predicting], batch.targets


@dataclass(frozen=True)
class NoisyForward:
    """Another forward pass with NEFTune's noise on the embeddings while the model trains."""

    model: PreTrainedModel
    inner: TokenForward
    alpha: float

    @property
    def pads(self) -> bool:
        return self.inner.pads

    def __call__(self, rows: Sequence[Row]) -> TokenLoss:
        with embedding_noise(self.model, self.alpha, [len(row) for row in rows]):
            return self.inner(rows)

    def scores(self, rows: Sequence[Row]) -> TokenScores:
        with embedding_noise(self.model, self.alpha, [len(row) for row in rows]):
            return self.inner.scores(rows)


@dataclass(frozen=True)
class _ProbeRow:
    token_ids: np.ndarray
    prompt_length: int

    def __len__(self) -> int:
        return len(self.token_ids)


def choose_forward(model: PreTrainedModel) -> tuple[TokenForward, str | None]:
    """The flattened pass if it gives this model's own loss, else the padded one and why."""
    padded, own_attention = PaddedForward(model), model.config._attn_implementation
    rows = _probe_rows(model.config.get_text_config().vocab_size)
    was_training = model.training
    model.eval()
    try:
        _refuse_layers(model)
        with torch.inference_mode():
            expected = float(padded(rows).loss_sum)
            model.set_attn_implementation(PACKED_ATTENTION)
            found = float(FlatForward(model)(rows).loss_sum)
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        reason: str | None = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        agrees = abs(found - expected) <= _probe_tolerance(model) * abs(expected)
        reason = None if agrees else f"the flattened loss is {found:.4f}, the padded one {expected:.4f}"
    model.train(was_training)
    if reason is None:
        return FlatForward(model), None
    model.set_attn_implementation(own_attention)
    return padded, reason


def _refuse_layers(model: PreTrainedModel) -> None:
    """Layers whose mask is wrong only past a length that no probe should have."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if unknown := sorted(kinds & MASKED_LAYERS):
        raise NotImplementedError(f"its layers have {', '.join(unknown)}")


def _probe_rows(vocabulary: int) -> list[_ProbeRow]:
    """Three sequences of unlike length; a leak across their boundaries changes the loss by far more than rounding."""
    generator = np.random.default_rng(0)
    return [_ProbeRow(generator.integers(0, vocabulary, length), 1) for length in (7, 24, 12)]


def _probe_tolerance(model: PreTrainedModel) -> float:
    return 1e-4 if model.dtype == torch.float32 else 3e-3
