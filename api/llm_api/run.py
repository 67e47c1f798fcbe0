"""The one file that a runner is handed. Everything that it must know is in here, but for credentials.

Volumes, ConfigMaps and mounted credentials are paths by the time that this file is written;
the runner knows no cluster.
"""

from typing import Literal

from llm_api.compute import Parallelism
from llm_api.config import LLMConfig
from llm_api.config.partial import PartialLLMConfig
from llm_api.model import ApiModel

DEFAULT_SEED = 42


class DataLocation(ApiModel):
    """Where one table lies."""

    uri: str
    """An s3://, hf:// or https:// address, or the path of a file."""
    format: Literal["auto", "csv", "tsv", "jsonl", "json", "parquet"] = "auto"


class DataLocations(ApiModel):
    """The tables of a run."""

    train: DataLocation
    validation: DataLocation | None = None
    """Unset: taken from train by preprocessing.split."""
    test: DataLocation | None = None


class S3Settings(ApiModel):
    """How S3 is reached; keys come from the environment or the pod's identity."""

    endpoint_url: str | None = None
    region: str | None = None


class RunCheckpoints(ApiModel):
    """How often a run saves what it needs to go on, and where."""

    uri: str
    """An s3:// folder or a local folder."""
    every_steps: int | None = None
    """Unset: as the config's trainer says."""
    keep: int = 2


class RunGate(ApiModel):
    """A bound that the hold-out must meet."""

    metric: str
    min: float | None = None
    max: float | None = None


class Together(ApiModel):
    """The processes that train one model: some on each of some nodes."""

    nodes: int = 1
    processes_per_node: int = 1
    """One for each accelerator."""
    parallelism: Parallelism = "auto"
    rendezvous: str | None = None
    """HOST:PORT of the first node, where the others find it; unset: there is one node."""

    @property
    def processes(self) -> int:
        return self.nodes * self.processes_per_node


class TrainRun(ApiModel):
    """One fine-tune, ready to run on this machine."""

    kind: Literal["TrainRun"] = "TrainRun"
    name: str
    namespace: str = "default"
    config: LLMConfig
    """As the user wrote it: what is unset stays unset, since some defaults depend on the model."""
    dataset: DataLocations
    output_uri: str
    """An s3:// folder or a local folder."""
    hub_repo_id: str | None = None
    hub_private: bool = True
    checkpoint: RunCheckpoints
    gate: RunGate | None = None
    model_root: str | None = None
    """The folder that a relative base_model is looked up in, besides the working folder."""
    model_cache_path: str | None = None
    """Where hub downloads are kept between runs."""
    hub_token_path: str | None = None
    """A file that holds the Hugging Face token."""
    s3: S3Settings = S3Settings()
    progress_url: str | None = None
    progress_token_path: str | None = None
    together: Together = Together()
    seed: int = DEFAULT_SEED
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base's weights; auto: bfloat16 where the machine computes it, or as quantization says."""


class ModelLocation(ApiModel):
    """Which model answers: a stored artifact, or the base that the config names."""

    artifact_uri: str | None = None
    """Folder of an adapter or of a whole model; unset: config.base_model as it is."""
    artifact_digest: str | None = None
    """SHA-256 over its files, to be checked; a new one is a new run."""
    base_model: str | None = None
    """The model that the artifact was made from; unset: as the artifact says."""


class _InferenceRun(ApiModel):
    name: str
    namespace: str = "default"
    config: PartialLLMConfig
    """As the user wrote it; what is unset comes from the config that is stored with the artifact."""
    model: ModelLocation
    model_root: str | None = None
    """The folder that a relative base_model is looked up in, besides the working folder."""
    model_cache_path: str | None = None
    """Where hub downloads are kept between runs."""
    hub_token_path: str | None = None
    """A file that holds the Hugging Face token."""
    s3: S3Settings = S3Settings()


class AdapterLocation(ApiModel):
    """One more adapter on a server's base."""

    name: str
    """What requests ask for."""
    artifact_uri: str
    """Folder of the adapter."""
    artifact_digest: str | None = None
    """SHA-256 over its files, to be checked; unset: what is stored there is followed."""


class ServeRun(_InferenceRun):
    """An endpoint that stays."""

    kind: Literal["ServeRun"] = "ServeRun"
    host: str = "0.0.0.0"
    port: int = 8000
    adapters: list[AdapterLocation] = []
    """Further adapters on the same base, none merged."""
    max_concurrency: int | None = None
    """Requests that are worked on at once; unset: as memory allows."""
    api_key_path: str | None = None
    """A file that holds the key that requests must carry; unset: none is asked for."""


class PredictRun(_InferenceRun):
    """One pass over a dataset. With several shards each process does the one of JOB_COMPLETION_INDEX."""

    kind: Literal["PredictRun"] = "PredictRun"
    dataset: DataLocation
    output_uri: str
    """An s3:// address or a local path of the file that predictions are written to."""
    shards: int = 1
    seed: int = DEFAULT_SEED
    """Of what is drawn; each row has its own, whichever shard answers it."""
    progress_url: str | None = None
    progress_token_path: str | None = None
