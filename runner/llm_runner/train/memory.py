"""Asks, before any weights are loaded, whether a run will fit into a device's memory, and whether its layers are shared
out for that.
"""

from dataclasses import dataclass
from functools import partial

import torch
from llm_api.config import TuningTrainer
from llm_api.run import TrainRun
from llm_api.sharing import can_share_layers

from llm_runner.model.memory import (
    GIB,
    MemoryEstimate,
    MemoryPlan,
    available_memory,
    check_memory,
    describe,
    estimate_memory,
)
from llm_runner.report.reporter import Reporter
from llm_runner.train.inputs import Inputs
from llm_runner.train.plan import RunSize, plan_sizes_to_try, plan_tokens_per_forward
from llm_runner.train.ranks import Ranks


@dataclass(frozen=True)
class Fit:
    """What a process of a run needs, and what there is for it."""

    plan: MemoryPlan
    estimate: MemoryEstimate
    available_bytes: int

    @property
    def fits(self) -> bool:
        return self.estimate.total_bytes <= self.available_bytes


def settle_sharing(
    run: TrainRun,
    inputs: Inputs,
    total_steps: int,
    device: torch.device,
    dtype: torch.dtype,
    ranks: Ranks,
    reporter: Reporter,
) -> bool:
    """Whether the processes share the model's layers out, as all of them find: where the run says so, or by itself
    where one of them has no room for all layers. Raises OutOfMemory, with both figures and what to change, where
    there is no room either way; what the adapter can't be put into, too.
    """
    plan = partial(plan_memory, run, inputs.trainer, inputs.size, total_steps, device, dtype)
    whole = _measure(inputs, plan(), device, ranks)
    if not _wants_sharing(run, whole, ranks):
        check_memory(whole.estimate, whole.available_bytes, whole.plan)
        return False
    shared = _measure(inputs, plan(shared_by=ranks.count), device, ranks)
    if run.together.parallelism == "auto":
        reporter.info(_tell(whole, shared))
    check_memory(shared.estimate, shared.available_bytes, shared.plan)
    return True


def _wants_sharing(run: TrainRun, whole: Fit, ranks: Ranks) -> bool:
    if ranks.count == 1:
        return False
    if run.together.parallelism == "auto":
        return can_share_layers(run.config) and ranks.any(not whole.fits)
    return run.together.parallelism == "fsdp"


def plan_memory(
    run: TrainRun,
    trainer: TuningTrainer,
    size: RunSize,
    total_steps: int,
    device: torch.device,
    dtype: torch.dtype,
    shared_by: int = 1,
) -> MemoryPlan:
    """What a run with rows of this size takes. No smaller forward pass is tried where layers are shared out."""
    tried = plan_sizes_to_try(trainer, size, device.type) if shared_by == 1 else []
    longest = size.longest_row_tokens
    tokens = tried[0] if tried else max(plan_tokens_per_forward(trainer, size, device.type), longest)
    return MemoryPlan(
        batch_tokens=min(tokens, _tokens_of_a_step(trainer, size)),
        dtype=dtype,
        quantization=run.config.quantization,
        adapter=run.config.adapter,
        optimizer=trainer.optimizer.type,
        gradient_checkpointing=trainer.enable_gradient_checkpointing,
        total_steps=total_steps,
        shared_by=shared_by,
    )


def _measure(inputs: Inputs, plan: MemoryPlan, device: torch.device, ranks: Ranks) -> Fit:
    available = available_memory(device, processes=ranks.count_here)
    return Fit(plan, estimate_memory(inputs.model_config, plan, device), available)


def _tell(whole: Fit, shared: Fit) -> str:
    return (
        f"parallelism auto: a whole model would need about {whole.estimate.total_bytes / GIB:.1f} GiB on each device "
        f"({describe(whole.estimate)}), where {whole.available_bytes / GIB:.1f} are free; its layers are shared out, "
        f"which takes {shared.estimate.total_bytes / GIB:.1f}"
    )


def _tokens_of_a_step(trainer: TuningTrainer, size: RunSize) -> int:
    """Bounded by all rows, and by the largest step, unless it may grow."""
    if trainer.increase_batch_size_on_plateau > 0:
        return size.train_tokens
    return min(size.train_tokens, trainer.rows_per_step() * size.longest_row_tokens)
