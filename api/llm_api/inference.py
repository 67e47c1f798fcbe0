"""LLMInference: a tuned or plain model behind an endpoint, or run once over a dataset.

The classes say what may be written and what is reported; what is done about it is the operator's and the runner's.
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llm_api.compute import Compute
from llm_api.config.partial import PartialLLMConfig
from llm_api.finetune import ModelVolumes
from llm_api.model import ApiModel, Rule
from llm_api.names import MAX_INT32, Count, ResourceName, Step
from llm_api.resource import Artifact, LongText, Metrics, Resource, ShortText, Status
from llm_api.sources import Credentials, Destination, ModelUri, Source, TokenSecret

Replicas = Annotated[int, Field(ge=0, le=10_000)]


class InferenceCondition(StrEnum):
    """Types of an LLMInference's conditions; Complete is of batches only."""

    SPEC_VALID = "SpecValid"
    MODEL_READY = "ModelReady"
    AVAILABLE = "Available"
    READY = "Ready"
    COMPLETE = "Complete"


InferencePhase = Literal[
    "Pending",
    "WaitingForModel",
    "Queued",
    "Starting",
    "Serving",
    "Degraded",
    "Running",
    "Succeeded",
    "Failed",
    "Suspended",
]


class FineTuneRef(ApiModel):
    """An LLMFineTune in the same namespace."""

    name: ResourceName
    """Name of the LLMFineTune."""


class InferenceModel(ModelVolumes):
    """Which model answers."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="model-at-most-one",
            message="write either fineTuneRef or uri, not both",
            cel="!has(self.fineTuneRef) || !has(self.uri)",
            holds=lambda model: model.fine_tune_ref is None or model.uri is None,
            needs=("fineTuneRef", "uri"),
        ),
    )

    fine_tune_ref: FineTuneRef | None = None
    """A fine-tune whose newest good artifact is used; it is waited for, and followed."""
    uri: ModelUri | None = None
    """An artifact by its address."""


class ScalingTarget(ApiModel):
    """What the number of replicas follows."""

    metric: Literal["queueDepth"]
    """queueDepth: requests that wait, per replica."""
    value: Count
    """Value of the metric that is aimed at."""


class Autoscaling(ApiModel):
    """Replicas by load."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="autoscaling-order",
            message="minReplicas must be at most maxReplicas",
            cel="!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
            holds=lambda scaling: scaling.min_replicas <= scaling.max_replicas,
            path="minReplicas",
            needs=("minReplicas", "maxReplicas"),
        ),
    )

    min_replicas: Replicas = 1
    """Fewest replicas; unset: 1. None at all needs KEDA."""
    max_replicas: Annotated[int, Field(ge=1, le=10_000)]
    """Most replicas."""
    target: ScalingTarget
    """What is aimed at."""


class Serve(ApiModel):
    """An endpoint that stays."""

    replicas: Replicas = 1
    """Servers behind the endpoint, where autoscaling doesn't decide; unset: 1."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates; unset: transformers."""
    max_concurrency: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Requests that a server works on at once; more wait, then get 429. Unset: as memory allows."""
    api_key: TokenSecret | None = None
    """Key that requests must carry; unset: none is asked for."""
    autoscaling: Autoscaling | None = None
    """Replicas by load; unset: as many as replicas says."""


class Batch(ApiModel):
    """One pass over a dataset."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="batch-output-format",
            message="the name of the predictions' file must say their format: end it in .parquet, .jsonl or .csv",
            cel="(has(self.output.uri) ? self.output.uri : has(self.output.volume) && has(self.output.volume.path)"
            " ? self.output.volume.path : '').matches('[.](parquet|jsonl|csv)$')",
            holds=lambda batch: _file_of(batch.output).endswith((".parquet", ".jsonl", ".csv")),
            path="output",
            needs=("output",),
        ),
    )

    dataset: Source
    """Rows to answer."""
    output: Destination
    """The file that predictions are written to; its name says its format: .parquet, .jsonl or .csv."""
    shards: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods that share the rows; unset: 1."""


def _file_of(output: Destination) -> str:
    if output.uri is not None:
        return output.uri
    return "" if output.volume is None else output.volume.path


class InferenceSpec(ApiModel):
    """What is wanted."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="inference-serve-or-batch",
            message="write exactly one of serve and batch",
            cel="has(self.serve) != has(self.batch)",
            holds=lambda spec: (spec.serve is None) != (spec.batch is None),
        ),
        Rule(
            name="inference-some-model",
            message="name a model: model.fineTuneRef, model.uri or config.base_model",
            cel="(has(self.model) && (has(self.model.fineTuneRef) || has(self.model.uri)))"
            " || (has(self.config) && has(self.config.base_model))",
            holds=lambda spec: (
                spec.model.fine_tune_ref is not None or spec.model.uri is not None or spec.config.base_model is not None
            ),
            path="model",
            needs=("model", "config.base_model"),
        ),
    )

    model: InferenceModel = InferenceModel()
    """Which model answers; unset: config.base_model as it is."""
    config: PartialLLMConfig = PartialLLMConfig()
    """Parts of an LLM config: prompt, generation, quantization, output_features; what is unset comes from the
    fine-tune."""
    credentials: Credentials = Credentials()
    """Secrets that open models, data and output."""
    compute: Compute = Compute()
    """Nodes, accelerators and pods."""
    serve: Serve | None = None
    """Serve an endpoint. Exactly one of serve and batch is written."""
    batch: Batch | None = None
    """Answer a dataset. Exactly one of serve and batch is written."""


class BatchProgress(ApiModel):
    """How far a batch is."""

    rows: Step = 0
    """Rows answered."""
    of: Step = 0
    """Rows in all; 0 while unknown."""
    percent: ShortText | None = None
    """Part of the rows that is answered, such as 41%."""
    failed_rows: Step = 0
    """Rows that could not be answered; their error column says why. Known once all shards are done."""
    shards_succeeded: Step = 0
    """Shards that are done."""
    eta: ShortText | None = None
    """Time that is left, such as 12m."""


class InferenceStatus(Status):
    """What has come of it."""

    phase: InferencePhase | None = None
    """Where it stands, for people; machines read the conditions."""
    model: LongText | None = None
    """What answers, in short: the fine-tune's name, an address or the base model."""
    replicas: Annotated[int, Field(ge=0, le=MAX_INT32)] = 0
    """Servers there are."""
    ready_replicas: Annotated[int, Field(ge=0, le=MAX_INT32)] = 0
    """Servers that take requests."""
    ready: ShortText | None = None
    """Servers that take requests of those wanted, or shards done of all, such as 1/1."""
    selector: LongText | None = None
    """Label selector of the servers' pods, for autoscalers."""
    url: LongText | None = None
    """Address of the endpoint inside the cluster."""
    artifact: Artifact | None = None
    """The model in use."""
    progress: BatchProgress | None = None
    """How far a batch is."""
    metrics: Metrics = {}
    """Figures of a finished batch, such as accuracy, where its dataset holds the answers."""
    output: Artifact | None = None
    """The file with the predictions of a finished batch."""


class LLMInference(Resource):
    """Serves a language model, or answers a dataset with it."""

    kind: Literal["LLMInference"]
    """LLMInference."""
    spec: InferenceSpec
    """What is wanted."""
    status: InferenceStatus | None = None
    """What has come of it; written by the operator."""
