"""Loads a base model and its tokenizer from a local folder, quantized and with a longer context where asked.

Safetensors only, and never code that comes with a model.
"""

from pathlib import Path
from typing import Any

import torch
from llm_api.config import ModelParameters, Quantization
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llm_runner.errors import ConfigInvalid, ModelNotFound
from llm_runner.model.dequantize import keep_differentiable
from llm_runner.model.folder import check_folder, check_kind, quantization_method, read_description
from llm_runner.model.precision import choose_dtype
from llm_runner.model.rope import scale_rope

TOKENIZER_CONFIG = "tokenizer_config.json"
PAD_TOKENS = ("<|finetune_right_pad_id|>", "<|finetune_right_pad|>", "<|pad|>", "<pad>", "[PAD]", "<|padding|>")
"""Tokens that vocabularies reserve for padding without always saying so."""


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a model's or adapter's folder, with a padding token that its vocabulary has already.

    Padding is never attended to and never a target, so which token it is changes no result; but one that also stands
    for something real would hide that from other programs, so reserved ones come first and EOS last.
    """
    if not (path / TOKENIZER_CONFIG).is_file():
        read_description(path)  # it says what is wrong with the folder as a whole
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelNotFound(
            f"base_model: {path} holds no tokenizer that can be loaded ({_first_line(error)}); "
            "tokenizer.json and tokenizer_config.json belong beside the weights"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ConfigInvalid(f"base_model: the tokenizer in {path} names no eos_token, so no answer could ever end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = _pad_token(tokenizer)
    return tokenizer  # type: ignore[no-any-return]


def _pad_token(tokenizer: PreTrainedTokenizerBase) -> str:
    vocabulary = tokenizer.get_vocab()
    candidates = (*PAD_TOKENS, tokenizer.unk_token, tokenizer.eos_token)
    return next(token for token in candidates if token in vocabulary)


def load_config(path: Path, model_parameters: ModelParameters | None = None) -> PretrainedConfig:
    """The model's own config, with RoPE scaling put into it, beside whole weights. Loads none of these."""
    check_folder(path)
    return read_config(path, model_parameters)


def read_config(path: Path, model_parameters: ModelParameters | None = None) -> PretrainedConfig:
    """The same, wherever the weights are."""
    check_kind(path)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigInvalid(f"base_model: {path / 'config.json'} can't be used: {_first_line(error)}") from error
    scale_rope(config, model_parameters)
    return config


def load_base(
    path: Path,
    *,
    quantization: Quantization | None = None,
    model_parameters: ModelParameters | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """The base model, in evaluation mode, all of it on one device.

    Args:
        path: a folder with config.json and safetensors.
        quantization: 4 or 8 bit through bitsandbytes; on a CPU too.
        dtype: what isn't quantized is held in this, and 4-bit layers compute in it; None: ``choose_dtype``.

    Raises:
        ModelNotFound: files are missing, damaged or do not fit each other.
        ConfigInvalid: the model is of a kind that can't be used, or not with this config.
    """
    config = load_config(path, model_parameters)
    resolved = choose_dtype(device, quantization) if dtype is None else dtype
    options: dict[str, Any] = {"config": config, "dtype": resolved, "device_map": {"": str(device)}}
    if quantization is not None and not _is_quantized_as(path, quantization):
        options["quantization_config"] = to_bnb_config(quantization, resolved)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **options
        )
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise ModelNotFound(f"base_model: the weights in {path} do not have the shapes its config.json says") from error
    model: PreTrainedModel = loaded[0]
    _check_complete(path, loaded[1])
    keep_differentiable(model)
    if getattr(model, "is_quantized", False):
        _let_go_of_files(model)
    model.eval()
    return model


def to_bnb_config(quantization: Quantization, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """The library's form of the ``quantization`` section."""
    if quantization.bits == 8:
        return BitsAndBytesConfig(
            load_in_8bit=True,
            llm_int8_threshold=quantization.llm_int8_threshold,
            llm_int8_has_fp16_weight=quantization.llm_int8_has_fp16_weight,
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=compute_dtype,
        bnb_4bit_use_double_quant=quantization.bnb_4bit_use_double_quant,
        bnb_4bit_quant_type=quantization.bnb_4bit_quant_type,
    )


def _is_quantized_as(path: Path, quantization: Quantization) -> bool:
    """Whether the stored weights are in the wanted form already."""
    description = read_description(path)
    if quantization_method(description) is None:
        return False
    stored = 8 if description["quantization_config"].get("load_in_8bit") else 4
    if stored != quantization.bits:
        raise ConfigInvalid(
            f"quantization.bits: {quantization.bits}, but the weights in {path} are stored in {stored} bits. "
            f"Write {stored}, or use the model's original weights"
        )
    return True


def _check_complete(path: Path, report: dict[str, Any]) -> None:
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelNotFound(
            f"base_model: the files in {path} lack the weights {', '.join(missing[:3])}{more}, "
            "which its config.json calls for"
        )


def _let_go_of_files(model: PreTrainedModel) -> None:
    """Copies what is not quantized out of the mapped files on a CPU: one tensor in there keeps all of a file."""
    for parameter in model.parameters():
        if type(parameter) is torch.nn.Parameter and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
