"""An LLMFineTune as a TrainRun on this machine. Reads no data; what is missing is told to the machine."""

from pathlib import Path

from llm_api.finetune import MODEL_ROOT, FineTuneSpec, LLMFineTune
from llm_api.run import DataLocation, DataLocations, RunCheckpoints, RunGate, S3Settings, Together, TrainRun
from llm_api.sources import ClaimRef, Credentials, Dataset

from llm_runner.local.machine import Machine


def build_train_run(resource: LLMFineTune, machine: Machine, output_path: Path | None) -> TrainRun:
    spec = resource.spec
    output_uri = str(output_uri_of(spec, machine) if output_path is None else output_path)
    hub, model = spec.output.hub, spec.model
    model_root = None if model.volume is None else machine.find_folder("spec.model.volume", model.volume)
    cache = machine.find_optional_folder(model.cache_volume)
    return TrainRun(
        name=resource.name,
        namespace=resource.namespace,
        config=spec.config.model_copy(update={"base_model": base_model_of(spec)}),
        dataset=_data_locations(spec.dataset, machine),
        output_uri=output_uri,
        hub_repo_id=None if hub is None else hub.repo_id,
        hub_private=True if hub is None else hub.private,
        checkpoint=_checkpoints(resource, output_uri),
        gate=None if spec.gate is None else RunGate(**spec.gate.model_dump()),
        model_root=None if model_root is None else str(model_root),
        model_cache_path=None if cache is None else str(cache),
        s3=to_s3_settings(spec.credentials),
        together=Together(processes_per_node=spec.compute.devices, parallelism=spec.compute.parallelism),
    )


def output_uri_of(spec: FineTuneSpec, machine: Machine, at: str = "spec.output") -> str | None:
    """None where the machine misses the volume."""
    if spec.output.volume is None:
        return spec.output.uri
    path = machine.find_path(f"{at}.volume", spec.output.volume)
    return None if path is None else str(path)


def base_model_of(spec: FineTuneSpec) -> str:
    return to_local_name(spec.config.base_model, spec.model.volume)


def to_local_name(base_model: str, volume: ClaimRef | None) -> str:
    """A path as a pod sees it on the model volume is looked up in the folder that stands for the volume."""
    return base_model if volume is None else base_model.removeprefix(f"{MODEL_ROOT}/")


def to_s3_settings(credentials: Credentials) -> S3Settings:
    s3 = credentials.s3
    return S3Settings() if s3 is None else S3Settings(endpoint_url=s3.endpoint_url, region=s3.region)


def _data_locations(dataset: Dataset, machine: Machine) -> DataLocations:
    found = {
        name: DataLocation(uri=machine.find_data(f"spec.dataset.{name}", source), format=dataset.format)
        for name, source in dataset.sources()
    }
    return DataLocations(train=found["train"], validation=found.get("validation"), test=found.get("test"))


def _checkpoints(resource: LLMFineTune, output_uri: str) -> RunCheckpoints:
    """A folder of the run's own, since all of it is deleted once the run has succeeded."""
    policy = resource.spec.run.checkpoint
    parts = (output_uri, "checkpoints") if policy.uri is None else (policy.uri, resource.name)
    uri = f"{parts[0].rstrip('/')}/{parts[1]}"
    return RunCheckpoints(uri=uri, every_steps=policy.every_steps, keep=policy.keep)
