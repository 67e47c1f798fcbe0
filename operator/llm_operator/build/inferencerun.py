"""An inference as the run file that its pods are handed.

The config goes in as it is written: what is unset comes from the one that is stored with the artifact, which stays what
the model was trained with whatever becomes of the fine-tune's spec.
"""

from typing import Any

from llm_api.inference import Batch, LLMInference, Serve
from llm_api.run import DataLocation, PredictRun, ServeRun

from llm_operator.build.model import ResolvedModel, mount_bases, mount_model
from llm_operator.build.names import hash_of, run_name
from llm_operator.build.trainrun import progress_url_of, to_s3_settings
from llm_operator.build.volumes import API_KEY_PATH, Volumes
from llm_operator.settings import Settings

PORT = 8000
PREDICTIONS = "predictions"


def build_serve_run(resource: LLMInference, serve: Serve, model: ResolvedModel, volumes: Volumes) -> ServeRun:
    if serve.api_key is not None:
        reference = serve.api_key.secret_ref
        volumes.mount_secret("api-key", reference.name, reference.key, API_KEY_PATH)
    return ServeRun(
        kind="ServeRun",
        port=PORT,
        max_concurrency=serve.max_concurrency,
        api_key_path=None if serve.api_key is None else API_KEY_PATH,
        **_common_parts(resource, model, volumes),
    )


def build_predict_run(
    resource: LLMInference, batch: Batch, model: ResolvedModel, settings: Settings, volumes: Volumes
) -> PredictRun:
    progress_url = progress_url_of(resource.namespace, batch_name(resource), settings)
    return PredictRun(
        kind="PredictRun",
        dataset=DataLocation(uri=volumes.mount_data(PREDICTIONS, batch.dataset)),
        output_uri=volumes.mount_output(batch.output.uri, batch.output.volume),
        shards=batch.shards,
        progress_url=progress_url,
        progress_token_path=None if progress_url is None else volumes.mount_progress_token(),
        **_common_parts(resource, model, volumes),
    )


def batch_name(resource: LLMInference) -> str:
    """Of the Job: an edit is another batch. A new artifact isn't, as nobody asked for the rows to be answered again."""
    parts = resource.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return run_name(resource.name, hash_of(parts))


def batch_result(resource: LLMInference) -> str:
    """Hash of what the predictions depend on: neither compute nor credentials."""
    spec = resource.spec.model_dump(mode="json", exclude_unset=True, include={"model", "config", "batch"})
    spec.get("model", {}).pop("cache_volume", None)
    return hash_of(spec)


def _common_parts(resource: LLMInference, model: ResolvedModel, volumes: Volumes) -> dict[str, Any]:
    model_root, model_cache_path = mount_bases(resource, model, volumes)
    return {
        "name": resource.name,
        "namespace": resource.namespace,
        "config": resource.spec.config,
        "model": mount_model(model, volumes),
        "model_root": model_root,
        "model_cache_path": model_cache_path,
        "hub_token_path": volumes.mount_hub_token(resource.spec.credentials),
        "s3": to_s3_settings(resource.spec.credentials),
    }
