"""What answers in a ServeRun or a PredictRun, on this machine: the base's folder, the adapter's, and their config.

An artifact brings its own config; the run's goes before it. Loads no weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from llm_api.config import Quantization
from llm_api.config.partial import PartialLLMConfig
from llm_api.issues import load
from llm_api.run import PredictRun, ServeRun

from llm_runner.errors import ConfigInvalid, StorageFailed
from llm_runner.store.digest import SUMS_NAME, digest_of_sums
from llm_runner.store.fetch import fetch_folder, fetch_model
from llm_runner.store.hub import read_token
from llm_runner.train.artifact import CONFIG_NAME

ADAPTER_CONFIG, WHOLE_CONFIG = "adapter_config.json", "config.json"
LOFTQ_KEYS = ("bits", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")
"""What decides about the weights that a quantized base has."""

InferenceRun: TypeAlias = ServeRun | PredictRun


@dataclass(frozen=True)
class ModelSource:
    """Folders and config of what is served."""

    config: PartialLLMConfig
    base_name: str
    base_path: Path
    tokenizer_path: Path
    adapter_path: Path | None = None
    artifact_path: Path | None = None
    """What a run of ours has stored, with or without weights of a whole model; None where the base answers as it is."""
    is_untrained: bool = False
    """Whether the artifact is a prompt only."""


def fetch_source(run: InferenceRun, work_path: Path) -> ModelSource:
    """Raises ModelNotFound, ModelAccessDenied, StorageFailed or ConfigInvalid, as their names say."""
    artifact = _fetch_artifact(run, work_path)
    stored = {} if artifact is None else _read_stored_config(artifact)
    config = load(PartialLLMConfig, run.config.over(stored), prefix="config")
    _check_loftq(run.config, stored)
    untrained = artifact is not None and _is_untrained(artifact, stored)
    is_adapter = artifact is not None and (artifact / ADAPTER_CONFIG).is_file()
    if artifact is not None and not untrained and not is_adapter:
        return ModelSource(config, run.name, artifact, artifact, artifact_path=artifact)
    base_name = _base_name(run, config, artifact if is_adapter else None)
    base_path = fetch_by_name(run, base_name, "base_model")
    adapter = artifact if is_adapter else _fetch_written_adapter(run, config)
    has_tokenizer = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    tokenizer_path = adapter if adapter is not None and has_tokenizer else base_path
    return ModelSource(config, base_name, base_path, tokenizer_path, adapter, artifact, untrained)


def fetch_by_name(run: InferenceRun, name: str, key: str) -> Path:
    """The folder of a model or adapter: a local one, or downloaded. ``key``: what the config calls it."""
    return fetch_model(
        name,
        model_root=None if run.model_root is None else Path(run.model_root),
        cache_path=None if run.model_cache_path is None else Path(run.model_cache_path),
        s3=run.s3,
        token=read_token(run.hub_token_path),
        key=key,
    ).path


def _fetch_artifact(run: InferenceRun, work_path: Path) -> Path | None:
    """The folder that ``model.artifact_uri`` names: one of ours, checked against its sums, or any other model's."""
    uri = run.model.artifact_uri
    if uri is None:
        return None
    if run.model.artifact_digest is None:
        return fetch_by_name(run, uri, "model.uri")
    folder = fetch_folder(uri, work_path / "artifact", run.s3)
    found = digest_of_sums((folder / SUMS_NAME).read_bytes())
    if found != run.model.artifact_digest:
        raise StorageFailed(f"{uri} has the digest {found}, and {run.model.artifact_digest} was to be served")
    return folder


def _fetch_written_adapter(run: InferenceRun, config: PartialLLMConfig) -> Path | None:
    weights = None if config.adapter is None else config.adapter.pretrained_adapter_weights
    return None if weights is None else fetch_by_name(run, weights, "adapter.pretrained_adapter_weights")


def _read_stored_config(artifact: Path) -> dict[str, Any]:
    """Empty where another program has stored the model."""
    path = artifact / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        stored = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path} can't be read: {error}") from error
    if not isinstance(stored, dict):
        raise ConfigInvalid(f"{path} holds no LLM config")
    return stored


def is_untrained(artifact: Path) -> bool:
    """Whether it holds a prompt and the rows that it shows, and the base answers as it is."""
    return _is_untrained(artifact, _read_stored_config(artifact))


def _is_untrained(artifact: Path, stored: dict[str, Any]) -> bool:
    trainer = stored.get("trainer")
    return isinstance(trainer, dict) and trainer.get("type") == "none" and not (artifact / WHOLE_CONFIG).is_file()


def _check_loftq(own: PartialLLMConfig, stored: dict[str, Any]) -> None:
    """What LoftQ started with is what one way of quantizing lost; beside weights that lost less, or other things, it
    is an error that was added to them."""
    adapter = stored.get("adapter")
    if not isinstance(adapter, dict) or adapter.get("init_lora_weights") != "loftq" or own.quantization is None:
        return
    trained = load(PartialLLMConfig, {"quantization": stored.get("quantization")}).quantization or Quantization()
    for key in LOFTQ_KEYS:
        written, was = getattr(own.quantization, key), getattr(trained, key)
        if written != was:
            raise ConfigInvalid(
                f"config.quantization.{key}: {written}, but this adapter was started by LoftQ, which makes up for what "
                f"{was} lost of the base; leave quantization out, or write that"
            )


def _base_name(run: InferenceRun, config: PartialLLMConfig, artifact: Path | None) -> str:
    """As the run says; else as the config does; else as the adapter itself."""
    if run.model.base_model is not None:
        return run.model.base_model
    if config.base_model is not None:
        return str(config.base_model)
    own = None if artifact is None else read_json(artifact / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not own:
        raise ConfigInvalid("base_model: neither the run nor the artifact names one; write config.base_model")
    return str(own)


def read_json(path: Path) -> dict[str, Any]:
    """Raises ConfigInvalid; what holds anything but keys and values is empty."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"{path} can't be read: {error}") from error
    return content if isinstance(content, dict) else {}
