"""What a runner says back: progress while it works, one outcome when it ends, and what its exit codes mean.

The operator and the runner share nothing else at run time. Neither sends nor receives here.
"""

from enum import IntEnum
from typing import Self

from pydantic import Field

from llm_api.model import ApiModel

MAX_OUTCOME_BYTES = 4096
"""Kubernetes cuts a termination message here."""
CUT = " …"
"""Ends a message that was cut."""


class ExitCode(IntEnum):
    """Exit codes of a runner; the Job's podFailurePolicy is built from them."""

    DONE = 0
    UNEXPECTED = 1
    USER_ERROR = 10
    ACCESS_DENIED = 11
    OUT_OF_MEMORY = 12
    DIVERGED = 13
    GATE_NOT_MET = 14
    STORAGE_FAILED = 20
    PEER_LOST = 21
    STOPPED = 143

    @property
    def is_final(self) -> bool:
        """Whether starting the same run again can't end differently."""
        return self in {
            ExitCode.DONE,
            ExitCode.USER_ERROR,
            ExitCode.ACCESS_DENIED,
            ExitCode.OUT_OF_MEMORY,
            ExitCode.DIVERGED,
            ExitCode.GATE_NOT_MET,
        }


FINAL_FAILURES = frozenset(int(code) for code in ExitCode if code.is_final and code is not ExitCode.DONE)
"""Exit codes of runs that failed and are never tried again."""
UNCOUNTED = frozenset({int(ExitCode.PEER_LOST), int(ExitCode.STOPPED)})
"""Exit codes of processes that others ended: no fault of theirs, and no attempt of those that a run has."""


class Progress(ApiModel):
    """One report of a run under way."""

    phase: str
    """Preparing, Training, Predicting, Evaluating or Storing."""
    step: int = 0
    """Optimizer steps done, or rows answered."""
    of: int = 0
    """Optimizer steps planned, or rows in all; 0 while unknown."""
    epoch: float = 0.0
    """Passes over the training rows, as a fraction."""
    loss: float | None = None
    """Training loss of the newest step, per target token or pair of answers."""
    eval_loss: float | None = None
    """Newest loss on the hold-out."""
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    """Non-padding tokens, prompt and target, per second of training."""
    eta_seconds: float | None = None
    resumed_from_step: int | None = None
    """Step of the checkpoint that this start went on from; None: from the beginning."""

    @property
    def percent(self) -> int:
        return 0 if self.of == 0 else min(100, 100 * self.step // self.of)


class Outcome(ApiModel):
    """The last thing that a runner writes, as JSON of at most MAX_OUTCOME_BYTES bytes."""

    reason: str
    """Succeeded, or the name of an error class of the runner."""
    message: str = ""
    last_step: int = 0
    resumed_from_step: int | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    artifact_uri: str | None = None
    artifact_digest: str | None = None
    artifact_size_bytes: int | None = None

    def to_termination_message(self) -> str:
        """JSON that fits Kubernetes' limit: the message is cut first, then metrics are left out."""
        text = self.model_dump_json(exclude_defaults=True, by_alias=True)
        excess = len(text.encode()) - MAX_OUTCOME_BYTES
        if excess <= 0:
            return text
        return self._shortened(excess).to_termination_message()

    def _shortened(self, excess_bytes: int) -> Self:
        message = self.message.removesuffix(CUT)
        if not message:
            return self.model_copy(update={"metrics": {}})
        kept = message.encode()[: -excess_bytes - len(CUT.encode())].decode(errors="ignore")
        return self.model_copy(update={"message": kept + CUT if kept else ""})
