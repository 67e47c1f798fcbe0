"""Each schedule against torch's own scheduler, or against its formula where torch has none."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from llm_api.config import LearningRateScheduler
from llm_runner.train.schedule import Horizon, build_factor
from torch.optim import lr_scheduler

RATE, TOTAL = 0.02, 40


def rates(total: int = TOTAL, per_round: int = 10, **options: Any) -> list[float]:
    factor = build_factor(LearningRateScheduler(**options), Horizon(total, per_round, RATE))
    return [RATE * factor(step) for step in range(total)]


def torch_rates(build: Callable[[torch.optim.Optimizer], Any], total: int = TOTAL) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler, found = build(optimizer), []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_without_a_decay_the_rate_stays() -> None:
    assert rates() == [RATE] * TOTAL


TORCH_SCHEDULES: dict[str, tuple[dict[str, Any], Callable[[torch.optim.Optimizer], Any]]] = {
    "linear": (
        {"decay": "linear"},
        lambda optimizer: lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=TOTAL),
    ),
    "exponential": (
        {"decay": "exponential", "decay_rate": 0.5, "decay_steps": 8},
        lambda optimizer: lr_scheduler.ExponentialLR(optimizer, gamma=0.5 ** (1 / 8)),
    ),
    "staircase": (
        {"decay": "exponential", "decay_rate": 0.5, "decay_steps": 8, "staircase": True},
        lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=8, gamma=0.5),
    ),
    "cosine": (
        {"decay": "cosine", "eta_min": 0.002},
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=TOTAL, eta_min=0.002),
    ),
    "restarts": (
        {"decay": "cosine", "t_0": 5, "t_mult": 2, "eta_min": 0.001},
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5, T_mult=2, eta_min=0.001),
    ),
    "one_cycle": (
        {"decay": "one_cycle", "pct_start": 0.25, "div_factor": 10.0, "final_div_factor": 100.0},
        lambda optimizer: lr_scheduler.OneCycleLR(
            optimizer, max_lr=RATE, total_steps=TOTAL + 1, pct_start=0.25, div_factor=10.0, final_div_factor=100.0
        ),
    ),
    "one_cycle to another peak": (
        {"decay": "one_cycle", "max_lr": 0.1},
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=TOTAL + 1, final_div_factor=1e4),
    ),
    "polynomial": (
        {"decay": "polynomial", "polynomial_power": 2.0},
        lambda optimizer: lr_scheduler.PolynomialLR(optimizer, total_iters=TOTAL, power=2.0),
    ),
}


@pytest.mark.proves(
    "trainer.learning_rate_scheduler.decay",
    "trainer.learning_rate_scheduler.decay_rate",
    "trainer.learning_rate_scheduler.decay_steps",
    "trainer.learning_rate_scheduler.staircase",
    "trainer.learning_rate_scheduler.t_0",
    "trainer.learning_rate_scheduler.t_mult",
    "trainer.learning_rate_scheduler.eta_min",
    "trainer.learning_rate_scheduler.max_lr",
    "trainer.learning_rate_scheduler.pct_start",
    "trainer.learning_rate_scheduler.div_factor",
    "trainer.learning_rate_scheduler.final_div_factor",
    "trainer.learning_rate_scheduler.polynomial_power",
)
@pytest.mark.parametrize("name", TORCH_SCHEDULES)
def test_a_decay_that_torch_has_is_torchs(name: str) -> None:
    options, build = TORCH_SCHEDULES[name]
    # torch's one-cycle schedule must be told of one step more, to be asked after the last.
    tolerance = 0.05 if "one_cycle" in name else 1e-6
    assert rates(**options) == pytest.approx(torch_rates(build), rel=tolerance, abs=RATE * 1e-4 * tolerance / 1e-6)


@pytest.mark.proves("trainer.learning_rate_scheduler.polynomial_end_lr")
def test_a_polynomial_ends_at_its_own_rate() -> None:
    found = rates(decay="polynomial", polynomial_end_lr=0.005)
    assert found == pytest.approx([0.005 + 0.015 * (1 - step / TOTAL) for step in range(TOTAL)])


@pytest.mark.proves(
    "trainer.learning_rate_scheduler.decay", "trainer.learning_rate_scheduler.inverse_sqrt_warmup_steps"
)
def test_the_inverse_square_root_rises_and_falls_as_in_the_paper() -> None:
    found = rates(decay="inverse_sqrt", inverse_sqrt_warmup_steps=10)
    assert found[:10] == pytest.approx([RATE * step / 10 for step in range(1, 11)])
    assert found[9:] == pytest.approx([RATE * math.sqrt(10 / step) for step in range(10, TOTAL + 1)])


@pytest.mark.proves(
    "trainer.learning_rate_scheduler.decay",
    "trainer.learning_rate_scheduler.wsd_warmup_fraction",
    "trainer.learning_rate_scheduler.wsd_stable_fraction",
    "trainer.learning_rate_scheduler.wsd_decay_fraction",
)
def test_warm_up_level_and_decay_take_their_fractions_of_the_run() -> None:
    found = rates(decay="wsd", wsd_warmup_fraction=0.25, wsd_stable_fraction=0.25, wsd_decay_fraction=0.5)
    assert found[:10] == pytest.approx([RATE * step / 11 for step in range(1, 11)])
    assert found[10:20] == pytest.approx([RATE] * 10)
    assert found[20:] == pytest.approx([RATE * (TOTAL - step) / 20 for step in range(20, TOTAL)])


@pytest.mark.proves("trainer.learning_rate_scheduler.warmup_fraction")
def test_warm_up_takes_its_fraction_and_the_decay_what_is_left() -> None:
    found = rates(decay="linear", warmup_fraction=0.25)
    assert found[:10] == pytest.approx([RATE * step / 11 for step in range(1, 11)])
    assert found[10:] == pytest.approx([RATE * (1 - step / 30) for step in range(30)])


@pytest.mark.proves("trainer.learning_rate_scheduler.warmup_evaluations")
def test_warm_up_in_evaluations_counts_their_steps() -> None:
    assert rates(warmup_evaluations=2, per_round=4)[:8] == pytest.approx([RATE * step / 9 for step in range(1, 9)])


@pytest.mark.parametrize("decay", ["linear", "cosine", "one_cycle", "polynomial", "wsd", "inverse_sqrt", "exponential"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_the_shortest_runs_learn_something_at_a_rate_that_is_allowed(decay: str, total: int) -> None:
    found = rates(total=total, decay=decay, warmup_fraction=0.5)
    assert all(0.0 <= rate <= RATE for rate in found)
    assert max(found) > 0


def test_a_rate_of_zero_stays_zero() -> None:
    schedules = ("cosine", "one_cycle", "polynomial")
    for decay in schedules:
        config = LearningRateScheduler(decay=decay, eta_min=0.1, max_lr=0.1, polynomial_end_lr=0.1)  # type: ignore[arg-type]
        factor = build_factor(config, Horizon(TOTAL, 10, 0.0))
        assert all(math.isfinite(factor(step)) for step in range(TOTAL))
