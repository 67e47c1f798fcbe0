"""Asks, before any weights are loaded, whether a run will fit into the device's memory."""

import torch
from llm_api.run import TrainRun

from llm_runner.model.memory import MemoryPlan, available_memory, check_memory, estimate_memory
from llm_runner.train.inputs import Inputs
from llm_runner.train.plan import plan_sizes_to_try, plan_tokens_per_forward


def check_fit(run: TrainRun, inputs: Inputs, total_steps: int, device: torch.device, dtype: torch.dtype) -> None:
    """Raises OutOfMemory with both figures and what to change; what the adapter can't be put into, too."""
    trainer = inputs.trainer
    longest = inputs.size.longest_row_tokens
    tried = plan_sizes_to_try(trainer, inputs.size, device.type)
    tokens = tried[0] if tried else max(plan_tokens_per_forward(trainer, inputs.size, device.type), longest)
    plan = MemoryPlan(
        batch_tokens=min(tokens, *_tokens_of_a_step(inputs)),
        dtype=dtype,
        quantization=run.config.quantization,
        adapter=run.config.adapter,
        optimizer=trainer.optimizer.type,
        gradient_checkpointing=trainer.enable_gradient_checkpointing,
        total_steps=total_steps,
    )
    check_memory(estimate_memory(inputs.model_config, plan, device), available_memory(device), plan)


def _tokens_of_a_step(inputs: Inputs) -> tuple[int, int]:
    """Bounds: of all rows, and of the largest step, unless it may grow."""
    all_tokens = int(inputs.train_rows.lengths.sum())
    if inputs.trainer.increase_batch_size_on_plateau > 0:
        return all_tokens, all_tokens
    return all_tokens, inputs.trainer.rows_per_step() * inputs.size.longest_row_tokens
