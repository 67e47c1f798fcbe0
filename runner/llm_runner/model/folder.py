"""Checks a model's folder before anything expensive is done with it; loads no weights.

What the libraries say about a bad folder names their own internals. Here every way in which a folder can be bad
has a sentence that names the file and what to do.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import __version__ as transformers_version
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llm_runner.errors import ConfigInvalid, ModelNotFound

INDEX_NAME = "model.safetensors.index.json"
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
SUPPORTED_QUANTIZATION = "bitsandbytes"


def check_folder(path: Path) -> None:
    """Raises unless the folder holds a causal language model in whole safetensors files.

    Raises:
        ModelNotFound: a file is missing or damaged.
        ConfigInvalid: the model needs code of its own, is of another kind, or is quantized by another library.
    """
    check_kind(path)
    for file in weight_files(path):
        _check_weight_file(file)


def check_kind(path: Path) -> None:
    """The same of config.json alone, wherever the weights are."""
    description = read_description(path)
    _check_code(path, description)
    _check_architecture(path, description)
    _check_quantization(path, description)


def read_description(path: Path) -> dict[str, Any]:
    """What config.json says."""
    if not path.is_dir():
        raise ModelNotFound(f"base_model: {path} is not a folder")
    return _read_json(path, "config.json", "a Hugging Face model folder has one beside its weights")


def weight_files(path: Path) -> list[Path]:
    """The safetensors files that make up the weights, all there."""
    if (path / INDEX_NAME).is_file():
        index = _read_json(path, INDEX_NAME, "")
        files = [path / name for name in sorted(set(index["weight_map"].values()))]
    else:
        files = [path / "model.safetensors"]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelNotFound(f"base_model: {path} lacks {', '.join(missing)}. {_advice_on_weights(path)}")
    return files


def _read_json(path: Path, name: str, advice: str) -> dict[str, Any]:
    try:
        content = json.loads((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelNotFound(f"base_model: {path} has no {name}; {advice}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelNotFound(f"base_model: {path / name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelNotFound(f"base_model: {path / name} holds a {type(content).__name__}, not an object")
    return content


def _advice_on_weights(path: Path) -> str:
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED_SUFFIXES)
    if pickled:
        return (
            f"{pickled[0]} is pickled, which can run code when it is loaded, so it is never read: "
            "convert it to safetensors (load it with transformers somewhere safe, then save_pretrained), "
            "or use a revision of the model that has safetensors"
        )
    return "Fetch the model again, or name a folder that holds all of it"


def _check_code(path: Path, description: dict[str, Any]) -> None:
    if "auto_map" in description and description.get("model_type") not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConfigInvalid(
            f"base_model: {path} needs Python code of its own (auto_map in config.json), which is never run here. "
            "Use a model whose architecture is part of transformers"
        )


def _check_architecture(path: Path, description: dict[str, Any]) -> None:
    architectures = description.get("architectures")
    if architectures:
        found, known = ", ".join(architectures), any(name in causal_architectures() for name in architectures)
    else:
        found = str(description.get("model_type"))
        known = description.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not known:
        raise ConfigInvalid(
            f"base_model: {path} is a {found}, which is not a causal language model that transformers "
            f"{transformers_version} knows; architectures that work are called like LlamaForCausalLM"
        )


def causal_architectures() -> frozenset[str]:
    """Names of all classes that transformers can load as a causal language model."""
    names: set[str] = set()
    for value in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        names.update((value,) if isinstance(value, str) else value)
    return frozenset(names)


def _check_quantization(path: Path, description: dict[str, Any]) -> None:
    method = quantization_method(description)
    if method not in (None, SUPPORTED_QUANTIZATION):
        raise ConfigInvalid(
            f"base_model: the weights in {path} are already quantized by {method}, which is not supported. "
            "Use the model's original weights with a quantization section"
        )


def quantization_method(description: dict[str, Any]) -> str | None:
    """The library that the stored weights are quantized by, if they are."""
    quantization = description.get("quantization_config")
    return None if quantization is None else str(quantization.get("quant_method"))


def _check_weight_file(file: Path) -> None:
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelNotFound(
            f"base_model: {file} is damaged or cut off ({file.stat().st_size} bytes; {error}). Fetch it again"
        ) from error
