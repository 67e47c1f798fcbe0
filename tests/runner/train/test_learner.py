"""One optimizer step: its loss and gradients are per target token of the whole step, bounded as the config says."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_runner.errors import Diverged
from llm_runner.train.checkpoint import load_checkpoint, save_checkpoint
from llm_runner.train.forward import FlatForward, PaddedForward, choose_forward
from llm_runner.train.learner import Clipping, Learner, build_regularization
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from tests.support.models import build_model, llama_config
from tests.support.rows import TokenRow, TokenRows, make_row, random_rows

UNEVEN = TokenRows([make_row([5, 6, 7], 2), make_row(range(2, 42), 3), make_row([9, 8, 7, 6], 1)])
"""One, 37 and 3 targets: a mean of means is far from the mean over targets."""


def build_learner(tokens_per_forward: int = 1024, rate: float = 0.1, **options: Any) -> Learner:
    model = build_model(llama_config())
    forward, _ = choose_forward(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    return Learner(model, forward, optimizer, tokens_per_forward, **options)


def reference_loss(model: PreTrainedModel, rows: list[TokenRow]) -> torch.Tensor:
    """Mean over all target tokens of all rows, each row by itself through the library's own pass."""
    sums, targets = [], 0
    for row in rows:
        ids = torch.from_numpy(row.token_ids)[None]
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
        sums.append(cross_entropy(logits[row.prompt_length - 1 : -1], ids[0, row.prompt_length :], reduction="sum"))
        targets += len(row.token_ids) - row.prompt_length
    return torch.stack(sums).sum() / targets


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("tokens_per_forward", [1, 41, 1024])
def test_loss_and_update_are_per_target_token_however_the_step_is_cut(tokens_per_forward: int) -> None:
    reference = build_model(llama_config())
    loss = reference_loss(reference, list(UNEVEN.rows))
    torch.optim.SGD(reference.parameters(), lr=0.1).zero_grad()
    loss.backward()
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    learner = build_learner(tokens_per_forward)
    result = learner.take_step(UNEVEN.rows, 0.1, 0)
    assert result.loss == pytest.approx(loss.item(), abs=1e-5)
    assert (result.targets, result.tokens) == (41, 47)
    torch.testing.assert_close(weights_of(learner.model), weights_of(reference), rtol=1e-4, atol=1e-6)


def test_a_padded_pass_takes_the_same_step() -> None:
    flat, padded = build_learner(), build_learner()
    padded.forward = PaddedForward(build_model(llama_config()))
    padded.model = padded.forward.model
    padded.__post_init__()
    padded.optimizer = torch.optim.SGD(padded.model.parameters(), lr=0.1)
    assert isinstance(flat.forward, FlatForward)
    for step in range(3):
        rows = random_rows(5, seed=step).rows
        assert flat.take_step(rows, 0.1, step).loss == pytest.approx(padded.take_step(rows, 0.1, step).loss, abs=1e-4)


def test_targets_that_were_most_likely_are_counted() -> None:
    learner = build_learner()
    with torch.no_grad():
        expected = learner.forward(UNEVEN.rows).correct
    assert learner.take_step(UNEVEN.rows, 0.1, 0).correct == expected


def stepped_gradients(clipping: Clipping) -> list[torch.Tensor]:
    """What the optimizer saw, as SGD of rate 1 shows it."""
    learner = build_learner(rate=1.0, clipping=clipping)
    before = weights_of(learner.model)
    learner.take_step(UNEVEN.rows, 1.0, 0)
    return [before[name] - value for name, value in weights_of(learner.model).items()]


def norm(gradients: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))


@pytest.mark.proves("trainer.gradient_clipping.clipglobalnorm")
def test_a_global_norm_shrinks_all_gradients_together() -> None:
    free, bound = stepped_gradients(Clipping()), stepped_gradients(Clipping(global_norm=0.1))
    assert norm(free) > 0.2
    assert norm(bound) == pytest.approx(0.1, rel=1e-3)
    torch.testing.assert_close(bound, [gradient * 0.1 / norm(free) for gradient in free], rtol=1e-2, atol=1e-5)


@pytest.mark.proves("trainer.gradient_clipping.clipnorm")
def test_a_norm_bounds_each_parameter_by_itself() -> None:
    free, bound = stepped_gradients(Clipping()), stepped_gradients(Clipping(norm=0.05))
    for before, after in zip(free, bound, strict=True):
        assert norm([after]) == pytest.approx(min(0.05, norm([before])), rel=1e-2)


@pytest.mark.proves("trainer.gradient_clipping.clipvalue")
def test_a_value_bounds_each_element() -> None:
    free, bound = stepped_gradients(Clipping()), stepped_gradients(Clipping(value=0.001))
    for before, after in zip(free, bound, strict=True):
        torch.testing.assert_close(after, before.clamp(-0.001, 0.001), rtol=1e-3, atol=1e-6)


@pytest.mark.proves("trainer.regularization_type", "trainer.regularization_lambda")
@pytest.mark.parametrize(("kind", "slope"), [("l1", "sign"), ("l2", "double"), ("l1_l2", "both")])
def test_regularization_adds_its_own_gradient_and_no_loss(kind: str, slope: str) -> None:
    plain, pulled = build_learner(rate=1.0), build_learner(rate=1.0, regularization=build_regularization(kind, 0.01))
    before = weights_of(plain.model)
    losses = [learner.take_step(UNEVEN.rows, 1.0, 0).loss for learner in (plain, pulled)]
    assert losses[0] == losses[1]
    for name, value in weights_of(pulled.model).items():
        weight = before[name]
        slopes = {"sign": weight.sign(), "double": 2 * weight, "both": weight.sign() + 2 * weight}
        expected = weights_of(plain.model)[name] - 0.01 * slopes[slope]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_no_regularization_is_built_where_it_would_be_nothing() -> None:
    assert build_regularization("l2", 0.0) is None
    assert build_regularization(None, 0.5) is None


def test_a_loss_of_nan_leaves_the_weights_and_says_what_to_change() -> None:
    learner = build_learner()
    with torch.no_grad():
        next(iter(learner.trained.values())).fill_(math.nan)
    before = weights_of(learner.model)
    with pytest.raises(Diverged, match=r"the loss became nan at step 8 with learning rate 0\.1; lower trainer\."):
        learner.take_step(UNEVEN.rows, 0.1, 7)
    torch.testing.assert_close(weights_of(learner.model), before, rtol=0, atol=0, equal_nan=True)


def test_a_gradient_that_is_no_number_is_found_before_it_spoils_the_weights() -> None:
    def infinite(parameters: Any) -> torch.Tensor:
        total: torch.Tensor = sum(parameter.sum() for parameter in parameters)
        return total * math.inf

    learner = build_learner(regularization=infinite)
    before = weights_of(learner.model)
    with pytest.raises(Diverged, match="the norm of the gradients became inf at step 1"):
        learner.take_step(UNEVEN.rows, 0.1, 0)
    torch.testing.assert_close(weights_of(learner.model), before, rtol=0, atol=0)


@pytest.mark.proves("trainer.use_mixed_precision")
def test_mixed_precision_computes_in_16_bits_and_keeps_float32_weights() -> None:
    full, mixed = build_learner(), build_learner(autocast_dtype=torch.bfloat16)
    losses = [learner.take_step(UNEVEN.rows, 0.1, 0).loss for learner in (full, mixed)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert {value.dtype for value in mixed.trained.values()} == {torch.float32}


def test_a_restored_learner_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    rows = [random_rows(4, seed=seed).rows for seed in range(6)]
    whole = build_learner()
    whole.optimizer = torch.optim.AdamW(whole.model.parameters(), lr=0.01)
    for step in range(3):
        whole.take_step(rows[step], 0.01, step)
    stored = save_checkpoint(tmp_path, 3, whole.snapshot())
    other = build_learner()
    other.optimizer = torch.optim.AdamW(other.model.parameters(), lr=0.01)
    other.restore(load_checkpoint(stored))
    losses = [[learner.take_step(rows[step], 0.01, step).loss for step in (3, 4, 5)] for learner in (other, whole)]
    assert losses[0] == losses[1]
