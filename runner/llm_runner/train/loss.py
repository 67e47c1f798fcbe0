"""Cross-entropy of a language-model head, a chunk of targets at a time.

The logits of a whole batch are the largest tensor of a training step (targets x vocabulary); here only a chunk of them
exists at once, and its gradient is taken on the spot. torch's own ``linear_cross_entropy`` does the same, but was four
to seven times slower on a CPU at these shapes (640 targets, 576 wide, vocabulary 49,152) and rounds the sum to bf16.
"""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

CHUNK_TARGETS = 128
"""Targets whose logits exist at a time: 128 x 49,152 floats are 25 MB."""


class TokenLoss(NamedTuple):
    """What a forward pass says about its targets."""

    loss_sum: torch.Tensor
    """Summed negative log-likelihood in nats; a scalar with a gradient."""
    targets: int
    correct: int
    """Targets that are also the most likely token."""
    preference: "PreferenceLoss | None" = None
    """Where pairs are trained on; the rest then tells of their chosen answers, and has no gradient."""

    @property
    def trained(self) -> torch.Tensor:
        """The sum that training makes less."""
        return self.loss_sum if self.preference is None else self.preference.loss_sum


class PreferenceLoss(NamedTuple):
    """What a forward pass says about its pairs."""

    loss_sum: torch.Tensor
    """The method's loss, summed over pairs; a scalar with a gradient."""
    pairs: int
    margin_sum: float | None
    """Rewards of chosen answers less those of rejected ones; None where the method knows no rewards."""
    better: int
    """Pairs whose chosen answer has the larger reward."""


class TokenScores(NamedTuple):
    """What a forward pass says about each of its targets, in their order."""

    log_probs: torch.Tensor
    """[targets], float32, with a gradient."""
    correct: torch.Tensor
    """[targets]; whether it is also the most likely token."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients too, since the logits are gone by the time of backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        needs_hidden, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias and bias is not None else None
        loss_sum = hidden.new_zeros((), dtype=torch.float32)
        correct = torch.zeros((), dtype=torch.long, device=hidden.device)
        for start in range(0, hidden.shape[0], CHUNK_TARGETS):
            rows = slice(start, start + CHUNK_TARGETS)
            logits = linear(hidden[rows], weight, bias).float()
            wanted = targets[rows, None]
            correct += (logits.argmax(-1, keepdim=True) == wanted).sum()
            log_total = logits.logsumexp(-1, keepdim=True)
            loss_sum += (log_total - logits.gather(1, wanted)).sum()
            grad_logits = _softmax_minus_one_hot(logits, log_total, wanted)
            if grad_hidden is not None:
                grad_hidden[rows] = grad_logits.to(weight.dtype) @ weight
            if grad_weight is not None:
                grad_weight += grad_logits.to(hidden.dtype).T @ hidden[rows]
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(correct)
        return loss_sum, correct

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scale = grad_outputs[0]
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype),
            None if grad_weight is None else (grad_weight * scale).to(weight_dtype),
            None if grad_bias is None else (grad_bias * scale).to(bias_dtype),
            None,
        )


def _softmax_minus_one_hot(logits: torch.Tensor, log_total: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Gradient of the summed loss by the logits; overwrites ``logits``."""
    probabilities = logits.sub_(log_total).exp_()
    return probabilities.scatter_add_(1, wanted, probabilities.new_full(wanted.shape, -1.0))


def head_cross_entropy(hidden: torch.Tensor, head: torch.nn.Module, targets: torch.Tensor) -> TokenLoss:
    """Loss of ``head(hidden)`` against ``targets``; hidden is [targets, width], targets are token ids [targets].

    A head that is more than a linear layer, as one with an adapter in it, is called as it is.
    """
    if type(head) is not torch.nn.Linear:
        return logits_cross_entropy(head(hidden), targets)
    loss_sum, correct = _ChunkedCrossEntropy.apply(hidden, head.weight, head.bias, targets)
    return TokenLoss(loss_sum, targets.numel(), int(correct))


def logits_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> TokenLoss:
    """The same from logits [targets, vocabulary], all of them at once."""
    loss_sum = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
    return TokenLoss(loss_sum, targets.numel(), int((logits.argmax(-1) == targets).sum()))


def head_scores(hidden: torch.Tensor, head: torch.nn.Module, targets: torch.Tensor) -> TokenScores:
    """Each target's own log-probability; shapes as for ``head_cross_entropy``.

    The logits of a chunk are computed again in backward rather than kept, as what weighs them is not known before.
    """
    chunks = zip(hidden.split(CHUNK_TARGETS), targets.split(CHUNK_TARGETS), strict=True)
    scores = [checkpoint(_score_chunk, head, *chunk, use_reentrant=False) for chunk in chunks]
    log_probs, correct = zip(*scores, strict=True)
    return TokenScores(torch.cat(log_probs), torch.cat(correct))


def _score_chunk(head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> TokenScores:
    return logits_scores(head(hidden), targets)


def logits_scores(logits: torch.Tensor, targets: torch.Tensor) -> TokenScores:
    """The same from logits [targets, vocabulary]."""
    log_probs = -torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return TokenScores(log_probs, logits.argmax(-1) == targets)
