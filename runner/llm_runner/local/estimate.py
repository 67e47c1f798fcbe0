"""How much memory a run will take on each device, and which accelerators have it. Loads no weights and no data.

A fine-tune is estimated by the function that refuses it where it doesn't fit, and that ``parallelism: auto`` goes by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from llm_api.config import Quantization, TuningTrainer
from llm_api.report import Outcome
from llm_api.run import PredictRun, ServeRun, TrainRun
from llm_api.sharing import can_share_layers
from transformers import PretrainedConfig

from llm_runner.data.prepare import plan_limits
from llm_runner.errors import ConfigInvalid
from llm_runner.generate.engine_build import CachePlan
from llm_runner.model.accelerators import accelerators_gib
from llm_runner.model.load import read_config
from llm_runner.model.memory import (
    GIB,
    MemoryPlan,
    cache_token_bytes,
    estimate_memory,
    serving_bytes,
)
from llm_runner.model.precision import choose_dtype
from llm_runner.model.rope import context_length
from llm_runner.predict.load import plan_limits as plan_engine_limits
from llm_runner.report.reporter import Reporter
from llm_runner.report.table import to_lines
from llm_runner.store.fetch import fetch_model_config
from llm_runner.store.hub import read_token
from llm_runner.train.build import resolve_dtype
from llm_runner.train.memory import plan_memory
from llm_runner.train.plan import RunSize

MANY_STEPS = 2**31
"""Of a run whose rows aren't counted."""
InferenceRun = ServeRun | PredictRun


@dataclass(frozen=True)
class Way:
    """To run it, with what one device needs then."""

    name: str
    parts: Mapping[str, int]
    """What takes memory -> bytes."""

    @property
    def total_bytes(self) -> int:
        return sum(self.parts.values())


def estimate(
    run: TrainRun | InferenceRun, device: str, longest_row_tokens: int | None, *, reporter: Reporter, work_path: Path
) -> Outcome:
    """``device``: cuda or cpu. ``longest_row_tokens``: None is what the config's limits and the model's context allow.

    Raises ConfigInvalid, or what keeps the model's config.json from being read.
    """
    folder = fetch_model_config(
        _base_of(run),
        work_path / "model",
        model_root=None if run.model_root is None else Path(run.model_root),
        s3=run.s3,
        token=read_token(run.hub_token_path),
    )
    config = read_config(folder, run.config.model_parameters)
    context = context_length(config, run.config.model_parameters)
    if isinstance(run, TrainRun):
        longest = longest_allowed(run, context) if longest_row_tokens is None else min(longest_row_tokens, context)
        said, ways = f"rows of up to {longest} tokens", estimate_training(run, config, longest, device, reporter)
    else:
        said, ways = estimate_answering(run, config, context, device)
    reporter.info(f"{run.name} on {_base_of(run)}, {said}; GiB on each {device} device:")
    tables = [build_parts(ways)] if device == "cpu" else [build_parts(ways), build_fits(ways)]
    for line in chain.from_iterable(map(to_lines, tables)):
        reporter.info(line)
    return Outcome(reason="Estimated", metrics={f"{way.name}_bytes": float(way.total_bytes) for way in ways})


def longest_allowed(run: TrainRun, context: int) -> int:
    limits = plan_limits(run.config, context)
    parts = (limits.prompt, limits.target)
    return limits.whole if None in parts else min(limits.whole, sum(part for part in parts if part is not None))


def estimate_training(
    run: TrainRun, config: PretrainedConfig, longest: int, device: str, reporter: Reporter
) -> list[Way]:
    """With the whole model on each device; and with its layers shared out, where there are several and it can be."""
    trainer = run.config.trainer
    if not isinstance(trainer, TuningTrainer):
        raise ConfigInvalid("trainer: {type: none} trains nothing; an LLMInference of this model tells what it takes")
    kind, count = torch.device(device), run.together.processes
    size, is_open = RunSize(MANY_STEPS, longest), run.dtype == "auto"
    dtype = _compute_dtype(kind, run.config.quantization) if is_open else resolve_dtype(run, kind, reporter)
    plan = partial(plan_memory, run, trainer, size, MANY_STEPS, kind, dtype)
    found = [Way("ddp" if count > 1 else "whole", _parts_of(config, plan(), kind))]
    if count > 1 and can_share_layers(run.config):
        found.append(Way("fsdp", _parts_of(config, plan(shared_by=count), kind)))
    return found


def estimate_answering(run: InferenceRun, config: PretrainedConfig, context: int, device: str) -> tuple[str, list[Way]]:
    """With the key-value cache that a server makes where memory allows."""
    kind, written = torch.device(device), run.max_concurrency if isinstance(run, ServeRun) else None
    limits = plan_engine_limits(context, device, written)
    tokens = CachePlan(context, limits.running).wanted_tokens
    dtype = _compute_dtype(kind, run.config.quantization)
    needs = serving_bytes(config, dtype, run.config.quantization, max(limits.step_tokens, limits.running), kind)
    parts = {**needs, "KV cache": tokens * cache_token_bytes(config, dtype)}
    return f"{limits.running} answers at a time, {tokens} tokens in the cache", [Way("serve", parts)]


def build_parts(ways: Sequence[Way]) -> list[list[str]]:
    parts = [[part, *(f"{way.parts[part] / GIB:.2f}" for way in ways)] for part in ways[0].parts]
    total = ["total", *(f"{way.total_bytes / GIB:.2f}" for way in ways)]
    return [["what", *(way.name for way in ways)], *parts, total]


def build_fits(ways: Sequence[Way]) -> list[list[str]]:
    heads = ["accelerator", "GiB", *(way.name for way in ways)]
    rows = (
        [name, f"{gib:.1f}", *("fits" if way.total_bytes <= gib * GIB else "-" for way in ways)]
        for name, gib in accelerators_gib().items()
    )
    return [heads, *rows]


def _parts_of(config: PretrainedConfig, plan: MemoryPlan, device: torch.device) -> dict[str, int]:
    found = estimate_memory(config, plan, device)
    return {
        "weights": found.weights_bytes,
        "what is trained, with gradients and optimizer": found.trained_bytes,
        "activations": found.activations_bytes,
        "loss": found.loss_bytes,
        "libraries": found.overhead_bytes,
    }


def _base_of(run: TrainRun | InferenceRun) -> str:
    if isinstance(run, TrainRun):
        return run.config.base_model
    name = run.config.base_model if run.model.base_model is None else run.model.base_model
    if name is None:
        raise ConfigInvalid(
            "config.base_model: not written, and what is stored is not looked into; write which model it was made from"
        )
    return name


def _compute_dtype(device: torch.device, quantization: Quantization | None) -> torch.dtype:
    """Of an accelerator that need not be here: all that are sold now compute bfloat16."""
    return choose_dtype(device, quantization) if device.type == "cpu" else torch.bfloat16
