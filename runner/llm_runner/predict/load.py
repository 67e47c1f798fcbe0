"""The model that answers, from its folder to the device and into an engine, which is left to be started."""

from dataclasses import dataclass

from llm_api.config import Generation
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_runner.generate.engine import Engine, EngineLimits, Observer
from llm_runner.generate.engine_adapters import Adapters
from llm_runner.generate.engine_build import CachePlan, apart, build_forward
from llm_runner.generate.special import SpecialTokens, find_special_tokens, refuse_unknown_tokens
from llm_runner.model.dequantize import dequantize_linears
from llm_runner.model.load import load_base
from llm_runner.model.memory import available_memory
from llm_runner.model.precision import choose_dtype
from llm_runner.model.rope import context_length
from llm_runner.predict.source import ModelSource
from llm_runner.report.reporter import Reporter
from llm_runner.train.device import choose_device

HOST_CONCURRENCY, ACCELERATOR_CONCURRENCY = 16, 64
"""Answers that are generated at once where the run doesn't say: more than these make all of them slower."""
ACCELERATOR_STEP_TOKENS = 4096


@dataclass(frozen=True)
class LoadedEngine:
    """A model in an engine that isn't started yet."""

    engine: Engine
    limits: EngineLimits
    model: PreTrainedModel
    adapters: Adapters
    special: SpecialTokens


def load_engine(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
    generation: Generation,
    reporter: Reporter,
    *,
    max_concurrency: int | None = None,
    observer: Observer | None = None,
) -> LoadedEngine:
    """Raises a RunError that says what to do."""
    model = apart(lambda: load_model(source, reporter))
    special = find_special_tokens(generation, tokenizer, model.generation_config)
    refuse_unknown_tokens(generation, model.config.get_text_config().vocab_size)
    limits = plan_engine(source, model, max_concurrency)
    plan = CachePlan(limits.context_tokens, limits.running)
    forward, reason = apart(lambda: build_forward(model, plan))
    if reason is not None:
        reporter.info(f"{model.config.model_type} runs as the library has it, which is slower: {reason}")
    return LoadedEngine(Engine(forward, limits, observer), limits, model, forward.adapters, special)


def load_model(source: ModelSource, reporter: Reporter) -> PreTrainedModel:
    device, config = choose_device(), source.config
    dtype = choose_dtype(device, config.quantization, reporter.warning)
    model = load_base(
        source.base_path,
        quantization=config.quantization,
        model_parameters=config.model_parameters,
        dtype=dtype,
        device=device,
    )
    if getattr(model, "is_loaded_in_4bit", False):
        unpacked_bytes = dtype.itemsize * model.num_parameters()
        if unpacked_bytes * 3 <= available_memory(device):
            layers = dequantize_linears(model, dtype)
            reporter.info(f"{layers} 4-bit layers are unpacked once, as memory allows: faster, with the same numbers")
    return model


def plan_engine(source: ModelSource, model: PreTrainedModel, max_concurrency: int | None) -> EngineLimits:
    context = context_length(model.config, source.config.model_parameters)
    return plan_limits(context, model.device.type, max_concurrency)


def plan_limits(context_tokens: int, device_type: str, max_concurrency: int | None) -> EngineLimits:
    """As many at once as the run says, else as are of use on the device; half as many may wait."""
    is_host = device_type == "cpu"
    usual = HOST_CONCURRENCY if is_host else ACCELERATOR_CONCURRENCY
    running = usual if max_concurrency is None else max_concurrency
    usual_step = EngineLimits(context_tokens).step_tokens
    return EngineLimits(
        context_tokens=context_tokens,
        running=running,
        waiting=max(1, running // 2),
        step_tokens=usual_step if is_host else ACCELERATOR_STEP_TOKENS,
    )
