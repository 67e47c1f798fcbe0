"""LLMFineTune: from a base model and data to a stored, measured adapter or model.

The classes say what may be written and what is reported; what is done about it is the operator's and the runner's.
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llm_api.compute import TuningCompute
from llm_api.conditions import MAX_MESSAGE_LENGTH, ReasonText
from llm_api.config import LLMConfig
from llm_api.config.scalars import NonNegative, Number
from llm_api.config.schedule import REWARDS, JudgedBy
from llm_api.config.tuning import WITH_REWARDS
from llm_api.model import ApiModel, Rule
from llm_api.names import MAX_INT32, Count, ObjectName, Seconds, Spelling, Step, Time
from llm_api.resource import Artifact, Metrics, Resource, ShortText, Status
from llm_api.sharing import SHARING_RULES
from llm_api.sources import ClaimRef, Credentials, Dataset, Destination, FolderUri

MODEL_ROOT = "/models"
"""Where spec.model.volume is mounted."""
MAX_LOSS_POINTS = 64
MAX_ATTEMPTS = 32


class FineTuneCondition(StrEnum):
    """Types of an LLMFineTune's conditions."""

    SPEC_VALID = "SpecValid"
    RUNNING = "Running"
    ARTIFACTS_STORED = "ArtifactsStored"
    SUCCEEDED = "Succeeded"


FineTunePhase = Literal[
    "Pending", "Queued", "Preparing", "Training", "Evaluating", "Storing", "Succeeded", "Failed", "Suspended"
]


class HubDestination(ApiModel):
    """A repository of the Hugging Face hub."""

    repo_id: Annotated[
        str,
        Field(max_length=96),
        Spelling("^[A-Za-z0-9][-._A-Za-z0-9]*/[A-Za-z0-9][-._A-Za-z0-9]*$", "write OWNER/NAME"),
    ]
    """The repository, as OWNER/NAME; it is made if it isn't there."""
    private: bool = True
    """Whether only its owner sees a repository that is made; unset: true."""


class FineTuneOutput(Destination):
    """Where the tuned model is stored."""

    hub: HubDestination | None = None
    """A repository that the result is pushed to as well, after it is stored."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """Whether the stored files stay when the resource is deleted; unset: Retain. Delete takes what this spec names as
    output and checkpoints; what an earlier spec stored elsewhere stays, as does what was pushed to a hub."""


class ModelVolumes(ApiModel):
    """Where base models are kept."""

    cache_volume: ClaimRef | None = None
    """A volume that keeps what is downloaded from the hub from one run to the next."""
    volume: ClaimRef | None = None
    """A volume with models, mounted read-only at /models; config.base_model may be a path in it."""


class CheckpointPolicy(ApiModel):
    """What a run saves to go on after an interruption."""

    every_steps: Count | None = None
    """Optimizer steps between checkpoints; unset: as config.trainer says."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints that are kept; unset: 2."""
    uri: FolderUri | None = None
    """Where checkpoints go; unset: under output."""


class RunPolicy(ApiModel):
    """How long and how often a run is tried."""

    suspend: bool = False
    """A suspended run saves a checkpoint, gives its node back, and later goes on exactly where it stopped."""
    max_retries: Annotated[int, Field(ge=0, le=100)] = 3
    """Failures of the runner after which it is given up; preemption and eviction don't count. Unset: 3."""
    deadline_seconds: Seconds | None = None
    """Seconds that a run may take in all; unset: no limit."""
    start_timeout_seconds: Seconds = 600
    """Seconds that pods of several nodes wait for one that can't start; then the run is suspended. Unset: 600."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    """Seconds after which a finished run's pods are deleted, not the resource; unset: they stay."""
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    """How often a run saves its state, and where."""


class Gate(ApiModel):
    """A bound that the tuned model must meet on the hold-out."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="gate-bound",
            message="write min or max, or both",
            cel="has(self.min) || has(self.max)",
            holds=lambda gate: gate.min is not None or gate.max is not None,
            needs=("min", "max"),
        ),
        Rule(
            name="gate-order",
            message="min must be at most max",
            cel="!has(self.min) || !has(self.max) || self.min <= self.max",
            holds=lambda gate: gate.min is None or gate.max is None or gate.min <= gate.max,
            path="min",
            needs=("min", "max"),
        ),
    )

    metric: JudgedBy
    """What is measured."""
    min: Number | None = None
    """Smallest value that passes."""
    max: Number | None = None
    """Largest value that passes."""


_TRAINS = "(has(self.config.trainer) && self.config.trainer.type != 'none')"


class FineTuneSpec(ApiModel):
    """What is wanted."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="gate-needs-training",
            message="with `trainer: {type: none}` nothing is trained that could be let through; leave gate out, or "
            "write `trainer: {type: finetune}`",
            cel=f"!has(self.gate) || {_TRAINS}",
            holds=lambda spec: spec.gate is None or spec.config.trainer.type != "none",
            path="gate",
            needs=("gate", "config.trainer"),
        ),
        Rule(
            name="hub-needs-training",
            message="with `trainer: {type: none}` there are no weights to push; leave hub out, or write "
            "`trainer: {type: finetune}`",
            cel=f"!has(self.output.hub) || {_TRAINS}",
            holds=lambda spec: spec.output.hub is None or spec.config.trainer.type != "none",
            path="output.hub",
            needs=("output.hub", "config.trainer"),
        ),
        Rule(
            name="gate-rewards-need-pairs",
            message="rewards are those of pairs of answers beside a reference, which `trainer: {type: dpo}` and "
            "`{type: kto}` have; gate by loss",
            cel=f"!has(self.gate) || !(self.gate.metric in {list(REWARDS)})"
            f" || (has(self.config.trainer) && self.config.trainer.type in {list(WITH_REWARDS)})",
            holds=lambda spec: (
                spec.gate is None or spec.gate.metric not in REWARDS or spec.config.trainer.type in WITH_REWARDS
            ),
            path="gate.metric",
            needs=("gate.metric", "config.trainer"),
        ),
        *SHARING_RULES,
    )

    config: LLMConfig
    """The LLM config: base model, features, prompt, adapter, quantization, trainer, generation; keys in snake_case."""
    dataset: Dataset
    """What the model is tuned and measured on."""
    output: FineTuneOutput
    """Where the result is stored."""
    credentials: Credentials = Credentials()
    """Secrets that open models, data and output."""
    model: ModelVolumes = ModelVolumes()
    """Volumes that base models are read from or kept on."""
    compute: TuningCompute = TuningCompute()
    """Nodes, accelerators and pods."""
    run: RunPolicy = RunPolicy()
    """Suspension, retries, deadline and checkpoints."""
    gate: Gate | None = None
    """Unless the hold-out meets it, the run is failed; nothing follows its artifact."""


class ProgressStatus(ApiModel):
    """How far a run is."""

    step: Step = 0
    """Optimizer steps done."""
    of: Step = 0
    """Optimizer steps planned; 0 while unknown."""
    epoch: NonNegative = 0.0
    """Passes over the training rows."""
    percent: ShortText | None = None
    """Part of the steps that is done, such as 41%."""
    loss: Number | None = None
    """Training loss per target token, or per pair of answers where the trainer takes pairs."""
    tokens_per_second: NonNegative | None = None
    """Tokens trained on per second, padding not counted."""
    eta: ShortText | None = None
    """Time that is left, such as 12m."""


class LossPoint(ApiModel):
    """One point of the loss curve."""

    step: Step
    """Optimizer step."""
    loss: Number
    """Training loss per target token, or per pair of answers where the trainer takes pairs."""
    eval_loss: Number | None = None
    """Loss on the hold-out, where it was measured at this step."""


class Attempt(ApiModel):
    """One start of the run."""

    started_at: Time
    """When its pod started."""
    resumed_from_step: Step | None = None
    """Step of the checkpoint that it went on from; unset: from the beginning."""
    ended_at: Time | None = None
    """When it ended."""
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """Exit code of the runner."""
    reason: ReasonText | None = None
    """Why it ended, in one word."""
    message: Annotated[str, Field(max_length=MAX_MESSAGE_LENGTH)] = ""
    """Why it ended, for people."""


class RunStatus(ApiModel):
    """Which run the rest of a status is about."""

    name: ObjectName
    """Name of its Job, and of the ConfigMap with its run file."""
    result_hash: ShortText
    """Hash of all that its result depends on. While that stays, a run that succeeded isn't repeated."""


class FineTuneStatus(Status):
    """What has come of it."""

    phase: FineTunePhase | None = None
    """Where it stands, for people; machines read the conditions."""
    run: RunStatus | None = None
    """The run that the spec asks for; unset: none has been started."""
    progress: ProgressStatus | None = None
    """How far the run is."""
    metrics: Metrics = {}
    """Figures of the finished run, such as eval.loss."""
    loss_curve: Annotated[list[LossPoint], Field(max_length=MAX_LOSS_POINTS)] = []
    """The loss over the run, thinned out to at most 64 points."""
    attempts: Annotated[list[Attempt], Field(max_length=MAX_ATTEMPTS)] = []
    """Starts of the run, the latest last."""
    artifact: Artifact | None = None
    """The newest good result."""


class LLMFineTune(Resource):
    """Tunes a language model on data and stores the result."""

    kind: Literal["LLMFineTune"]
    """LLMFineTune."""
    spec: FineTuneSpec
    """What is wanted."""
    status: FineTuneStatus | None = None
    """What has come of it; written by the operator."""
