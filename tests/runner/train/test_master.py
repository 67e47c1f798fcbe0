"""Trained 16-bit weights learn from updates that are too small for them, and go on exactly."""

from pathlib import Path

import torch
from llm_runner.train.checkpoint import load_checkpoint, save_checkpoint
from llm_runner.train.forward import choose_forward
from llm_runner.train.learner import Learner
from llm_runner.train.master import build_masters
from torch import nn

from tests.support.models import build_model, llama_config
from tests.support.rows import random_rows


def half_weight(value: float = 1.0) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(layer.weight, value)
    return layer


def test_updates_that_16_bits_can_not_hold_add_up() -> None:
    layer = half_weight()
    masters = build_masters(layer)
    optimizer = torch.optim.SGD(masters.parameters, lr=1e-4)
    for _ in range(200):
        layer(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        masters.take_gradients()
        optimizer.step()
        masters.give_back()
        optimizer.zero_grad()
    assert layer.weight.item() == torch.tensor(0.98).to(torch.bfloat16).item()
    assert (torch.tensor(1.0).to(torch.bfloat16) - 1e-4).item() == 1.0


def test_gradients_of_several_passes_are_summed_in_float32() -> None:
    layer = half_weight()
    masters = build_masters(layer)
    for factor in (256.0, 1.0, 1.0):
        (layer(torch.ones(1, 1, dtype=torch.bfloat16)) * factor).sum().backward()
        masters.take_gradients()
    (master,) = masters.parameters
    assert master.grad is not None
    assert float(master.grad) == 258.0
    assert layer.weight.grad is None


def test_float32_weights_are_their_own_masters() -> None:
    model = build_model(llama_config())
    masters = build_masters(model)
    assert all(master is masters.trained[name] for name, master in masters.masters.items())
    assert masters.state_dict() == {}


def test_frozen_weights_have_none() -> None:
    model = build_model(llama_config(), dtype=torch.bfloat16)
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    assert [master.dtype for master in build_masters(model).parameters] == [torch.float32]


def build_learner() -> Learner:
    model = build_model(llama_config(), dtype=torch.bfloat16)
    masters = build_masters(model)
    optimizer = torch.optim.AdamW(masters.parameters, lr=1e-4)
    return Learner(model, choose_forward(model)[0], optimizer, 512, masters=masters)


def take_steps(learner: Learner, first: int, last: int) -> list[float]:
    return [learner.take_step(random_rows(4, seed=step).rows, 1e-4, step).loss for step in range(first, last)]


def test_a_stopped_run_goes_on_from_the_copies_and_not_from_what_was_rounded(tmp_path: Path) -> None:
    whole = build_learner()
    take_steps(whole, 0, 4)
    stored = save_checkpoint(tmp_path, 4, whole.snapshot())
    other = build_learner()
    other.restore(load_checkpoint(stored))
    assert take_steps(other, 4, 8) == take_steps(whole, 4, 8)
    torch.testing.assert_close(other.masters.state_dict(), whole.masters.state_dict(), rtol=0, atol=0)
