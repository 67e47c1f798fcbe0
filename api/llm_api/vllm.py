"""What vLLM's own server can do with an LLM config, and what it can't: refused before anything is started.

True of the version named here, whose image the operator starts; each statement is one of its documentation or of the
errors that it raises. Starts and imports nothing of it.
"""

from collections.abc import Iterator
from typing import Any

from llm_api.config import Generation
from llm_api.config.adapter import AnyAdapter, LoraAdapter
from llm_api.config.partial import PartialLLMConfig
from llm_api.issues import Issue

VLLM_VERSION = "0.11.0"
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank may be."""
DEFAULT_KEYS = ("repetition_penalty", "temperature", "top_k", "top_p")
"""Keys of ``generation`` that --override-generation-config makes the defaults of requests."""
PLAIN_KEYS = frozenset(
    {*DEFAULT_KEYS, "do_sample", "max_new_tokens", "max_length", "use_cache", "pad_token_id", "bos_token_id"}
)
"""Keys of ``generation`` that mean the same there, or that each request says for itself."""
INSTEAD = "or write engine: transformers"
ROW_SECTIONS = ("prompt", "input_features", "output_features", "preprocessing")


def check_served_by_vllm(config: PartialLLMConfig) -> Iterator[Issue]:
    """Of a whole config, with what a fine-tune brought; its adapter is judged by its own file."""
    yield from _check_quantization(config)
    yield from _check_generation(Generation() if config.generation is None else config.generation)
    parameters = config.model_parameters
    if parameters is not None and parameters.rope_scaling is not None:
        yield _refuse("model_parameters.rope_scaling", "is not handed on to vLLM; leave it out")


def check_written_for_vllm(config: PartialLLMConfig) -> Iterator[Issue]:
    """Of what an inference itself says: also what would have no effect."""
    yield from check_served_by_vllm(config)
    for section in ROW_SECTIONS:
        if section in config.model_fields_set:
            message = "vLLM has no /v1/predict and takes prompts as they come, so this has no effect; leave it out"
            yield _refuse(section, message)
    if config.adapter is not None:
        yield from _check_adapter(config.adapter)


def find_adapter_faults(written: dict[str, Any]) -> list[str]:
    """Of an adapter's own file, as PEFT writes it: what vLLM refuses, or would leave out without a word."""
    kind = written.get("peft_type")
    if kind != "LORA":
        return [f"it is of type {kind}, and vLLM takes LoRA only"]
    faults = {
        "it trains DoRA's magnitudes (use_dora)": bool(written.get("use_dora")),
        f"it trains biases (bias: {written.get('bias')})": written.get("bias", "none") != "none",
        "its updates have biases (lora_bias)": bool(written.get("lora_bias")),
        "it brings whole layers (modules_to_save)": bool(written.get("modules_to_save")),
        "it brings embeddings of single tokens (trainable_token_indices)": bool(written.get("trainable_token_indices")),
        "its ranks differ by layer (rank_pattern)": bool(written.get("rank_pattern")),
        "its scales differ by layer (alpha_pattern)": bool(written.get("alpha_pattern")),
        "it repeats layers of the base (layer_replication)": bool(written.get("layer_replication")),
        f"its rank is {written.get('r')}, and vLLM takes {LORA_RANKS[-1]} at most": _rank_of(written) > LORA_RANKS[-1],
    }
    return [fault for fault, is_there in faults.items() if is_there]


def choose_max_rank(rank: int) -> int:
    """The least of what vLLM offers that has room for it."""
    return next(offered for offered in LORA_RANKS if offered >= rank)


def _rank_of(written: dict[str, Any]) -> int:
    rank = written.get("r")
    return rank if isinstance(rank, int) else 0


def _check_quantization(config: PartialLLMConfig) -> Iterator[Issue]:
    quantization = config.quantization
    if quantization is None:
        return
    if quantization.bits != 4:
        message = "vLLM quantizes a base to 4 bits when it loads it, and to no others; write 4"
        yield _refuse("quantization.bits", message, str(quantization.bits))
    elif quantization.bnb_4bit_quant_type != "nf4":
        message = "vLLM quantizes a base to nf4; write nf4"
        yield _refuse("quantization.bnb_4bit_quant_type", message, quantization.bnb_4bit_quant_type)


def _check_generation(generation: Generation) -> Iterator[Issue]:
    """A key that is written as it is by default asks for nothing."""
    usual = Generation()
    for key in sorted(generation.model_fields_set - PLAIN_KEYS):
        value = getattr(generation, key)
        if value is not None and value != getattr(usual, key):
            message = "vLLM's server has no default for this; leave it out and let requests say it where they can"
            yield _refuse(f"generation.{key}", message, str(value))


def _check_adapter(adapter: AnyAdapter) -> Iterator[Issue]:
    if not isinstance(adapter, LoraAdapter):
        yield _refuse("adapter.type", "vLLM takes lora only; write lora", adapter.type)
        return
    if adapter.use_dora:
        yield _refuse("adapter.use_dora", "vLLM takes LoRA without DoRA; write false", "true")
    if adapter.bias_type != "none":
        yield _refuse("adapter.bias_type", "vLLM takes LoRA without biases; write none", adapter.bias_type)
    if adapter.r > LORA_RANKS[-1]:
        yield _refuse("adapter.r", f"vLLM takes {LORA_RANKS[-1]} at most; write less", str(adapter.r))


def _refuse(path: str, message: str, found: str | None = None) -> Issue:
    return Issue(f"spec.config.{path}", f"{message}, {INSTEAD} in spec.serve", found)
