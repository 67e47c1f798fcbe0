"""An LLMInference as a ServeRun or a PredictRun on this machine. Serves nothing and reads no data; what is missing is
told to the machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_api.config.partial import PartialLLMConfig
from llm_api.inference import Batch, InferenceSpec, LLMInference, Serve
from llm_api.run import DataLocation, PredictRun, ServeRun
from llm_api.sources import Destination

from llm_runner.local.finetune import to_local_name, to_s3_settings
from llm_runner.local.machine import Machine
from llm_runner.local.manifest import Document
from llm_runner.local.options import SERVED_HOST, SERVED_PORT, LocalOptions
from llm_runner.local.tuned import FoundModel, find_model

NO_OUTPUT = "not to be found"


def build_inference_run(
    resource: LLMInference, documents: Sequence[Document], options: LocalOptions, machine: Machine
) -> ServeRun | PredictRun:
    """``documents`` are all that the caller gave, for what the resource refers to."""
    spec = resource.spec
    model = find_model(spec, documents, options, machine, to_s3_settings(spec.credentials))
    common = _common_parts(resource, model, machine)
    if spec.serve is not None:
        return _build_serve_run(spec.serve, options, machine, common)
    assert spec.batch is not None, "a rule of InferenceSpec: exactly one of the two"
    return _build_predict_run(spec.batch, options, machine, common)


def _build_serve_run(serve: Serve, options: LocalOptions, machine: Machine, common: dict[str, Any]) -> ServeRun:
    key_path = options.api_key_path
    if serve.api_key is not None and key_path is None:
        machine.miss(
            "spec.serve.apiKey", "there are no Secrets on this machine; name a file with the key by --api-key-file FILE"
        )
    return ServeRun(
        host=SERVED_HOST if options.host is None else options.host,
        port=SERVED_PORT if options.port is None else options.port,
        max_concurrency=serve.max_concurrency,
        api_key_path=None if key_path is None else str(key_path),
        **common,
    )


def _build_predict_run(batch: Batch, options: LocalOptions, machine: Machine, common: dict[str, Any]) -> PredictRun:
    return PredictRun(
        dataset=DataLocation(uri=machine.find_data("spec.batch.dataset", batch.dataset)),
        output_uri=_output_uri(batch.output, options.output_path, machine),
        shards=batch.shards,
        **common,
    )


def _output_uri(output: Destination, folder: Path | None, machine: Machine) -> str:
    """Of the file; its name is the manifest's wherever it is stored."""
    if folder is not None:
        written = output.uri if output.volume is None else output.volume.path
        return str(folder.absolute() / str(written).rpartition("/")[2])
    if output.volume is None:
        return str(output.uri)
    path = machine.find_path("spec.batch.output.volume", output.volume)
    return NO_OUTPUT if path is None else str(path.absolute())


def _common_parts(resource: LLMInference, model: FoundModel, machine: Machine) -> dict[str, Any]:
    spec = resource.spec
    volume = model.base_volume if spec.model.volume is None else spec.model.volume
    model_root = None if volume is None else machine.find_folder("spec.model.volume", volume)
    cache = machine.find_optional_folder(spec.model.cache_volume)
    return {
        "name": resource.name,
        "namespace": resource.namespace,
        "config": _config_of(spec),
        "model": model.location,
        "model_root": None if model_root is None else str(model_root),
        "model_cache_path": None if cache is None else str(cache),
        "s3": to_s3_settings(spec.credentials),
    }


def _config_of(spec: InferenceSpec) -> PartialLLMConfig:
    name, volume = spec.config.base_model, spec.model.volume
    if name is None or volume is None:
        return spec.config
    return spec.config.model_copy(update={"base_model": to_local_name(name, volume)})
