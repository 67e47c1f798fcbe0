"""Writes what was trained as folders that plain PEFT and plain transformers load: safetensors only.

A merge starts from the base model as it is stored, never from its quantized form: merging into 4-bit weights rounds
nearly all of the tuning away.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from llm_api.config import Generation, ModelParameters
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_runner.model.generation import build_generation_config
from llm_runner.model.load import load_base
from llm_runner.model.pretrained import load_adapter
from llm_runner.model.silence import peft_silenced
from llm_runner.model.start import has_start, store_as_plain_lora

MAX_SHARD_SIZE = "5GB"


@dataclass(frozen=True)
class BaseName:
    """The base model as the user wrote it, for people and programs that load the adapter elsewhere."""

    name: str
    revision: str | None = None
    """The commit that was fetched from a hub."""


def save_adapter(
    model: PeftModel,
    folder: Path,
    *,
    base: BaseName,
    tokenizer: PreTrainedTokenizerBase,
    generation: Generation | None = None,
) -> None:
    """Adapter, tokenizer and generation config, as ``PeftModel.from_pretrained(base, folder)`` loads them.

    The base's own weights are never in it.
    """
    for peft_config in model.peft_config.values():
        peft_config.base_model_name_or_path = base.name
        peft_config.revision = base.revision
    # "auto" would ask the hub whether the vocabulary was resized; it never is.
    with peft_silenced():
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    if has_start(model):
        store_as_plain_lora(model, folder)
    # PEFT's stub of a model card is not ours.
    (folder / "README.md").unlink(missing_ok=True)
    base_model: Any = model.get_base_model()
    _save_rest(base_model, folder, tokenizer, generation)


def save_full(
    model: PreTrainedModel,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    generation: Generation | None = None,
) -> None:
    """Model, tokenizer and generation config, as ``AutoModelForCausalLM.from_pretrained(folder)`` loads them."""
    model.generation_config = build_generation_config(model.generation_config, tokenizer, generation)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder, max_shard_size=MAX_SHARD_SIZE)
    _save_rest(model, folder, tokenizer, generation)


def merge_adapter(
    base_path: Path,
    adapter_folder: Path,
    *,
    model_parameters: ModelParameters | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progressbar: bool = False,
) -> PreTrainedModel:
    """The base model, loaded again unquantized, with the adapter's changes added to its weights.

    Args:
        dtype: of the merged weights; None: as ``load_base``.

    Raises:
        ValueError: a merged weight is not a finite number.
    """
    base = load_base(base_path, model_parameters=model_parameters, dtype=dtype, device=device)
    merged: PreTrainedModel = load_adapter(base, adapter_folder).merge_and_unload(
        progressbar=progressbar, safe_merge=True
    )
    # Left behind by PEFT, it would make whoever looks for adapters find one.
    merged.__dict__.pop("peft_config", None)
    return merged


def save_merged(
    base_path: Path,
    adapter_folder: Path,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    generation: Generation | None = None,
    model_parameters: ModelParameters | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progressbar: bool = False,
) -> PreTrainedModel:
    """Merges and saves; gives the merged model back, so that it can be compared with the adapted one."""
    merged = merge_adapter(
        base_path,
        adapter_folder,
        model_parameters=model_parameters,
        dtype=dtype,
        device=device,
        progressbar=progressbar,
    )
    save_full(merged, folder, tokenizer=tokenizer, generation=generation)
    return merged


def _save_rest(
    model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerBase, generation: Generation | None
) -> None:
    tokenizer.save_pretrained(folder)
    build_generation_config(model.generation_config, tokenizer, generation).save_pretrained(folder)
