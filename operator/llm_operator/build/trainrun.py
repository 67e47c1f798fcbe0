"""A fine-tune as the run file that its pods are handed, and the hashes that tell one run from another.

Two hashes, since edits mean different things. What the *result* depends on: config, data, output, base models' volume,
gate. While it stays, a run that succeeded isn't repeated. And the *run*: all of that and what its pods are made of,
which is credentials, volumes, compute and checkpoints. It names the run's objects, so an edit of these stops a run
under way after a checkpoint and goes on from there in new pods, and gives one that failed another chance. Suspension,
retries, deadline and time to live are in neither: they are changed in place. The operator's own settings aren't either.
"""

from dataclasses import dataclass
from typing import Any

from llm_api.compute import TuningCompute
from llm_api.finetune import FineTuneSpec, LLMFineTune
from llm_api.run import DataLocation, DataLocations, RunCheckpoints, RunGate, S3Settings, Together, TrainRun
from llm_api.sources import Credentials, Dataset

from llm_operator.build.names import hash_of, run_name
from llm_operator.build.volumes import CHECKPOINT_FOLDER, Volumes
from llm_operator.settings import Settings

RENDEZVOUS_PORT = 29500
NO_EFFECT = {"backend", "ludwig_version"}
"""Keys of the config that are accepted for other programs' sake."""


@dataclass(frozen=True)
class RunIdentity:
    """Which run a spec asks for."""

    name: str
    """Of its Job and ConfigMap."""
    result_hash: str


def identify_run(resource: LLMFineTune) -> RunIdentity:
    spec = resource.spec
    result_hash = hash_of(_result_parts(spec))
    pods = spec.model_dump(mode="json", by_alias=True, exclude_unset=True, include={"credentials", "model", "compute"})
    checkpoint = spec.run.checkpoint.model_dump(mode="json", exclude_unset=True)
    run_hash = hash_of({"result": result_hash, "pods": pods, "checkpoint": checkpoint})
    return RunIdentity(run_name(resource.name, run_hash), result_hash)


def _result_parts(spec: FineTuneSpec) -> dict[str, Any]:
    """As written: a default that changes with the operator's version changes no hash."""
    return {
        "config": spec.config.model_dump(mode="json", exclude_unset=True, exclude=NO_EFFECT),
        "dataset": spec.dataset.model_dump(mode="json", exclude_unset=True),
        "output": spec.output.model_dump(mode="json", exclude_unset=True, exclude={"deletion_policy"}),
        "models": None if spec.model.volume is None else spec.model.volume.claim_name,
        "gate": None if spec.gate is None else spec.gate.model_dump(mode="json", exclude_unset=True),
    }


def build_train_run(resource: LLMFineTune, settings: Settings, volumes: Volumes) -> TrainRun:
    """The run file; what it refers to is added to ``volumes``."""
    spec, hub = resource.spec, resource.spec.output.hub
    run = identify_run(resource)
    output_uri = volumes.mount_output(spec.output.uri, spec.output.volume)
    model_root, model_cache_path = volumes.mount_models(spec.model)
    progress_url = progress_url_of(resource.namespace, run.name, settings)
    return TrainRun(
        kind="TrainRun",
        name=resource.name,
        namespace=resource.namespace,
        config=spec.config,
        dataset=_data_locations(spec.dataset, volumes),
        output_uri=output_uri,
        hub_repo_id=None if hub is None else hub.repo_id,
        hub_private=True if hub is None else hub.private,
        checkpoint=_checkpoints(resource, output_uri),
        gate=None if spec.gate is None else RunGate(**spec.gate.model_dump()),
        model_root=model_root,
        model_cache_path=model_cache_path,
        hub_token_path=volumes.mount_hub_token(spec.credentials),
        s3=to_s3_settings(spec.credentials),
        progress_url=progress_url,
        progress_token_path=None if progress_url is None else volumes.mount_progress_token(),
        together=_together(spec.compute, run.name),
    )


def _together(compute: TuningCompute, run: str) -> Together:
    """Several nodes meet at the first of them, by the name that its Service gives it."""
    return Together(
        nodes=compute.nodes,
        processes_per_node=compute.devices_per_node,
        parallelism=compute.parallelism,
        rendezvous=None if compute.nodes == 1 else f"{run}-0.{run}:{RENDEZVOUS_PORT}",
    )


def progress_url_of(namespace: str, run: str, settings: Settings) -> str | None:
    return None if settings.progress_url is None else f"{settings.progress_url.rstrip('/')}/{namespace}/{run}"


def to_s3_settings(credentials: Credentials) -> S3Settings:
    s3 = credentials.s3
    return S3Settings() if s3 is None else S3Settings(endpoint_url=s3.endpoint_url, region=s3.region)


def _data_locations(dataset: Dataset, volumes: Volumes) -> DataLocations:
    found = {
        name: DataLocation(uri=volumes.mount_data(name, source), format=dataset.format)
        for name, source in dataset.sources()
    }
    return DataLocations(train=found["train"], validation=found.get("validation"), test=found.get("test"))


def _checkpoints(resource: LLMFineTune, output_uri: str) -> RunCheckpoints:
    """A folder of the resource's own, as all of it is deleted once the run has succeeded; it survives the pods."""
    policy = resource.spec.run.checkpoint
    parts = (output_uri, CHECKPOINT_FOLDER) if policy.uri is None else (policy.uri, resource.namespace, resource.name)
    uri = "/".join(part.rstrip("/") for part in parts)
    return RunCheckpoints(uri=uri, every_steps=policy.every_steps, keep=policy.keep)
