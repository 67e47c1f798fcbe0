"""The chunked loss is torch's own, with all of its gradients, whatever the chunk."""

import pytest
import torch
from llm_runner.train import loss as loss_module
from llm_runner.train.loss import TokenLoss, head_cross_entropy
from torch import nn
from torch.nn.functional import cross_entropy

WIDTH, VOCABULARY = 16, 300


def inputs(targets: int, *, bias: bool = True) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    torch.manual_seed(targets)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias)
    hidden = torch.randn(targets, WIDTH, requires_grad=True)
    return hidden, head, torch.randint(0, VOCABULARY, (targets,))


def gradients(loss: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, tensors))


@pytest.mark.parametrize("targets", [1, 127, 128, 129, 300])
def test_loss_and_gradients_of_hidden_weight_and_bias_are_torchs(targets: int) -> None:
    hidden, head, wanted = inputs(targets)
    assert head.bias is not None
    found = head_cross_entropy(hidden, head, wanted)
    expected = cross_entropy(head(hidden), wanted, reduction="sum")
    torch.testing.assert_close(found.loss_sum, expected)
    leaves = (hidden, head.weight, head.bias)
    torch.testing.assert_close(gradients(found.loss_sum / 7, *leaves), gradients(expected / 7, *leaves))


def test_a_head_without_bias_and_a_frozen_head_get_the_gradients_that_they_should() -> None:
    hidden, head, wanted = inputs(50, bias=False)
    head.requires_grad_(False)
    found = head_cross_entropy(hidden, head, wanted)
    expected = cross_entropy(head(hidden), wanted, reduction="sum")
    torch.testing.assert_close(gradients(found.loss_sum, hidden), gradients(expected, hidden))
    assert head.weight.grad is None


def test_only_the_heads_weights_may_be_trained() -> None:
    hidden, head, wanted = inputs(200)
    found = head_cross_entropy(hidden.detach(), head, wanted)
    expected = cross_entropy(head(hidden), wanted, reduction="sum")
    torch.testing.assert_close(gradients(found.loss_sum, head.weight), gradients(expected, head.weight))


def test_targets_that_are_the_most_likely_token_are_counted() -> None:
    hidden, head, _ = inputs(200)
    likely = head(hidden).argmax(-1)
    wanted = likely.clone()
    wanted[::4] = (wanted[::4] + 1) % VOCABULARY
    found = head_cross_entropy(hidden, head, wanted)
    assert (found.targets, found.correct) == (200, 150)


def test_a_bfloat16_model_sums_its_loss_in_float32() -> None:
    hidden, head, wanted = inputs(300)
    half_head = head.to(torch.bfloat16)
    found = head_cross_entropy(hidden.to(torch.bfloat16), half_head, wanted)
    assert found.loss_sum.dtype == torch.float32
    expected = cross_entropy(half_head(hidden.to(torch.bfloat16)).float(), wanted, reduction="sum")
    torch.testing.assert_close(found.loss_sum, expected, rtol=1e-5, atol=0.0)


class DoublingHead(nn.Linear):
    """A head that is more than its weights, as one with an adapter is."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden) * 2


def test_a_head_that_does_more_than_multiply_is_called_as_it_is() -> None:
    hidden, _, wanted = inputs(20)
    head = DoublingHead(WIDTH, VOCABULARY)
    found = head_cross_entropy(hidden, head, wanted)
    torch.testing.assert_close(found.loss_sum, cross_entropy(head(hidden), wanted, reduction="sum"))


def test_logits_exist_for_a_chunk_of_targets_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, wanted = inputs(500)
    shapes: list[torch.Size] = []

    def noted(*arguments: torch.Tensor) -> torch.Tensor:
        logits = nn.functional.linear(*arguments)
        shapes.append(logits.shape)
        return logits

    monkeypatch.setattr(loss_module, "linear", noted)
    assert isinstance(head_cross_entropy(hidden, head, wanted), TokenLoss)
    assert max(shape[0] for shape in shapes) == 128
    assert sum(shape[0] for shape in shapes) == 500
