"""The learning rate as a pure function of the step, so that a resumed run needs no state of it.

Only the reduction on a plateau depends on what happened; it is a factor of its own, in the module ``plateau``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from llm_api.config import LearningRateScheduler

Factor = Callable[[int], float]
"""Optimizer steps already done, of the first size -> what the learning rate is multiplied by."""


@dataclass(frozen=True)
class Horizon:
    """What a schedule must know of its run, in optimizer steps."""

    total_steps: int
    steps_per_evaluation: int
    learning_rate: float
    """Some of the config's keys are absolute rates; the factors are relative to this one."""


def build_factor(config: LearningRateScheduler, horizon: Horizon) -> Factor:
    """Linear warm-up from 0, then the config's decay over what is left of the run."""
    warmup_steps = min(plan_warmup_steps(config, horizon), max(horizon.total_steps - 1, 0))
    decay = _build_decay(config, replace(horizon, total_steps=max(horizon.total_steps - warmup_steps, 1)))

    def factor(step: int) -> float:
        return (step + 1) / (warmup_steps + 1) if step < warmup_steps else decay(step - warmup_steps)

    return factor


def plan_warmup_steps(config: LearningRateScheduler, horizon: Horizon) -> int:
    by_fraction = round(config.warmup_fraction * horizon.total_steps)
    return max(by_fraction, config.warmup_evaluations * horizon.steps_per_evaluation)


def _build_decay(config: LearningRateScheduler, horizon: Horizon) -> Factor:
    total, rate = horizon.total_steps, horizon.learning_rate
    match config.decay:
        case None:
            return lambda _: 1.0
        case "linear":
            return lambda step: max(0.0, 1.0 - step / total)
        case "exponential":
            return lambda step: config.decay_rate ** _periods(step, config.decay_steps, config.staircase)
        case "cosine":
            first = total if config.t_0 is None else config.t_0
            return lambda step: _cosine(step, first, config.t_mult, config.eta_min / rate if rate else 0.0)
        case "one_cycle":
            return lambda step: _one_cycle(step, total, config, rate)
        case "inverse_sqrt":
            return lambda step: _inverse_sqrt(step, config.inverse_sqrt_warmup_steps)
        case "polynomial":
            end = config.polynomial_end_lr / rate if rate else 0.0
            return lambda step: end + (1.0 - end) * (1.0 - min(step, total) / total) ** config.polynomial_power
        case "wsd":
            return lambda step: _warmup_stable_decay(step, total, config)
    raise ValueError(f"no such decay: {config.decay}")


def _periods(step: int, length: int, staircase: bool) -> float:
    return step // length if staircase else step / length


def _cosine(step: int, first: int, multiple: int, floor: float) -> float:
    """Annealing with warm restarts (SGDR, Loshchilov and Hutter 2017, eq. 5)."""
    length = first
    while step >= length:
        step, length = step - length, length * multiple
    return floor + (1.0 - floor) * (1.0 + math.cos(math.pi * step / length)) / 2.0


def _one_cycle(step: int, total: int, config: LearningRateScheduler, rate: float) -> float:
    """Up to the peak and down to almost nothing, both along a cosine (Smith and Topin 2018)."""
    peak = 1.0 if config.max_lr is None or rate == 0.0 else config.max_lr / rate
    start = peak / config.div_factor
    end = start / config.final_div_factor
    top = config.pct_start * total - 1.0
    if step <= top:
        return _along_cosine(start, peak, step / top if top > 0 else 1.0)
    return _along_cosine(peak, end, min(1.0, (step - top) / max(total - 1.0 - top, 1.0)))


def _along_cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * fraction)) / 2.0


def _inverse_sqrt(step: int, warmup_steps: int) -> float:
    """Linear up to ``warmup_steps``, then as one over the square root (Vaswani et al. 2017, section 5.3)."""
    done = step + 1
    return min(done / warmup_steps, math.sqrt(warmup_steps / done))


def _warmup_stable_decay(step: int, total: int, config: LearningRateScheduler) -> float:
    """Up, level, down, each a fraction of the run (Hu et al. 2024, MiniCPM, section 4)."""
    up, down = config.wsd_warmup_fraction * total, config.wsd_decay_fraction * total
    if step < up:
        return (step + 1) / (up + 1)
    return min(1.0, max(0.0, (total - step) / down)) if down > 0 else 1.0
