"""``llm-runner export``: a model put where vLLM's own server finds it, and that server's settings beside it.

What vLLM can't serve is refused here at the latest, with the reason; it itself would end with a traceback. Serves
nothing, loads no weights, and sees no key: that is vLLM's own environment's.
"""

import json
from pathlib import Path
from typing import Any

import yaml
from llm_api.config import Generation
from llm_api.config.partial import PartialLLMConfig
from llm_api.issues import InvalidConfig
from llm_api.report import Outcome
from llm_api.run import ServeRun
from llm_api.vllm import DEFAULT_KEYS, VLLM_VERSION, check_served_by_vllm, choose_max_rank, find_adapter_faults

from llm_runner.errors import ConfigInvalid, ModelNotFound
from llm_runner.predict.source import ADAPTER_CONFIG, ModelSource, fetch_source
from llm_runner.report.reporter import Reporter

SETTINGS_NAME = "vllm.yaml"
Settings = dict[str, Any]


def export(run: ServeRun, *, reporter: Reporter, work_path: Path) -> Outcome:
    """Raises a RunError that says what to do."""
    source = fetch_source(run, work_path)
    if source.is_untrained:
        raise ConfigInvalid(
            "model: nothing was trained there, and vLLM would leave out the prompt that was measured; write engine: "
            "transformers in spec.serve"
        )
    if issues := list(check_served_by_vllm(source.config)):
        raise InvalidConfig(issues)
    settings = build_settings(run, source)
    path = work_path / SETTINGS_NAME
    path.write_text(f"# Options of vllm serve {VLLM_VERSION}.\n{yaml.safe_dump(settings, sort_keys=False)}", "utf-8")
    if source.config.generation is not None and "max_new_tokens" in source.config.generation.model_fields_set:
        reporter.info("generation.max_new_tokens is no default of vLLM's: requests say max_tokens themselves")
    reporter.info(f"{path}: {run.name} is ready for vLLM")
    return Outcome(reason="Succeeded", message=f"{run.name} is ready for vLLM")


def build_settings(run: ServeRun, source: ModelSource) -> Settings:
    """Options of ``vllm serve`` by their long names. Raises ConfigInvalid or ModelNotFound."""
    return {
        "model": str(source.base_path),
        "tokenizer": str(source.tokenizer_path),
        **_name(run, source),
        **_quantize(source.config),
        **_adapt(run, source),
        "generation-config": "vllm",
        # Text, as this version hands nested mappings of the file on as Python writes them.
        "override-generation-config": json.dumps(_build_defaults(source.config)),
    }


def _name(run: ServeRun, source: ModelSource) -> Settings:
    """The run's name is what answers; beside an adapter, the base has its own, as on our server."""
    if source.adapter_path is None:
        return {"served-model-name": run.name}
    same = source.base_name == run.name
    return {"served-model-name": f"{source.base_name}-base" if same else source.base_name}


def _quantize(config: PartialLLMConfig) -> Settings:
    return {} if config.quantization is None else {"quantization": "bitsandbytes"}


def _adapt(run: ServeRun, source: ModelSource) -> Settings:
    if source.adapter_path is None:
        return {}
    written = _read_adapter(source.adapter_path)
    faults = find_adapter_faults(written)
    if faults:
        raise ConfigInvalid(
            f"vLLM {VLLM_VERSION} can't serve this adapter: {'; '.join(faults)}. Write engine: transformers in "
            "spec.serve, or merge it while tuning (adapter.postprocessor.merge_adapter_into_base_model)"
        )
    module = {"name": run.name, "path": str(source.adapter_path), "base_model_name": source.base_name}
    return {
        "enable-lora": True,
        "lora-modules": [json.dumps(module)],
        "max-loras": 1,
        "max-lora-rank": choose_max_rank(int(written["r"])),
    }


def _read_adapter(folder: Path) -> Settings:
    try:
        written = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"{folder / ADAPTER_CONFIG} can't be read: {error}") from error
    if not isinstance(written, dict) or not isinstance(written.get("r", 1), int):
        raise ModelNotFound(f"{folder / ADAPTER_CONFIG} is no adapter's config")
    return written


def _build_defaults(config: PartialLLMConfig) -> Settings:
    """What a request that says nothing gets: as with our own server, the config's, else the document's defaults."""
    generation = Generation() if config.generation is None else config.generation
    defaults = {key: getattr(generation, key) for key in DEFAULT_KEYS}
    if not generation.samples:
        defaults["temperature"] = 0.0
    return {key: value for key, value in defaults.items() if value is not None}
