"""Conditions in a status: the list that machines read, and the reasons that both kinds give.

Time is handed in; nothing here looks at a clock.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from llm_api.model import ApiModel
from llm_api.names import Spelling, Step, Time

MAX_CONDITIONS = 16
MAX_MESSAGE_LENGTH = 32768


class Reason(StrEnum):
    """Why a condition is as it is. Those of a failed run are also the names of the runner's errors."""

    VALID = "Valid"
    INVALID = "Invalid"
    WAITING = "Waiting"
    SUSPENDED = "Suspended"
    QUEUED = "Queued"
    STARTING = "Starting"
    START_TIMEOUT = "StartTimeout"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL = "ImagePull"
    SECRET_NOT_FOUND = "SecretNotFound"
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    VOLUME_NOT_FOUND = "VolumeNotFound"
    VOLUME_NOT_MOUNTED = "VolumeNotMounted"
    SERVICE_ACCOUNT_NOT_FOUND = "ServiceAccountNotFound"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_SECURITY = "PodSecurity"
    NAME_TAKEN = "NameTaken"
    REFUSED = "Refused"
    FINE_TUNE_NOT_FOUND = "FineTuneNotFound"
    FINE_TUNE_NOT_FINISHED = "FineTuneNotFinished"
    FINE_TUNE_FAILED = "FineTuneFailed"
    CONFIG_INVALID = "ConfigInvalid"
    DATA_INVALID = "DataInvalid"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_ACCESS_DENIED = "ModelAccessDenied"
    TARGET_MODULES_NOT_FOUND = "TargetModulesNotFound"
    OUTPUT_NOT_WRITABLE = "OutputNotWritable"
    OUT_OF_MEMORY = "OutOfMemory"
    DIVERGED = "Diverged"
    GATE_NOT_MET = "GateNotMet"
    STORAGE_FAILED = "StorageFailed"
    PEER_LOST = "PeerLost"
    STOPPED = "Stopped"
    PREEMPTED = "Preempted"
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    RETRIES_EXHAUSTED = "RetriesExhausted"
    UNEXPECTED = "Unexpected"


ReasonText = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Spelling("^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", "write a reason in CamelCase"),
]


class Condition(ApiModel):
    """One thing that is true of the resource, false, or not known yet."""

    type: Annotated[str, Field(min_length=1, max_length=316), Spelling("^[A-Za-z][-A-Za-z0-9_./]*$", "write CamelCase")]
    """What the condition is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: Step | None = None
    """The metadata.generation that this was said of."""
    last_transition_time: Time
    """When the status last changed."""
    reason: ReasonText
    """Why, in one word for machines."""
    message: Annotated[str, Field(max_length=MAX_MESSAGE_LENGTH)] = ""
    """Why, for people, and what to do about it."""


def set_condition(conditions: Sequence[Condition], new: Condition) -> list[Condition]:
    """The list with ``new`` in the place of the one of its type, or at the end.

    ``new.last_transition_time`` is the caller's now; the old time is kept while the status stays the same.
    """
    old = find_condition(conditions, new.type)
    if old is None:
        return [*conditions, new]
    if old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    return [new if condition.type == new.type else condition for condition in conditions]


def find_condition(conditions: Sequence[Condition], type_: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == type_), None)


def is_true(conditions: Sequence[Condition], type_: str) -> bool:
    condition = find_condition(conditions, type_)
    return condition is not None and condition.status == "True"
