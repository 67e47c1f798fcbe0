"""A Job, read down to what a status and a plan need of it. Judges nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llm_operator.observed import Manifest
from llm_operator.status.pods import Said, to_time


@dataclass(frozen=True)
class JobView:
    name: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    owner_uid: str | None
    is_suspended: bool
    is_going: bool
    spec: Mapping[str, Any]
    created_at: datetime | None
    completed_at: datetime | None
    failure: Said | None
    """Why it was given up; None while it isn't."""
    is_complete: bool
    succeeded: int
    failed_indexes: Sequence[int]
    """Those that were given up, while the others may go on."""

    @property
    def is_finished(self) -> bool:
        return self.is_complete or self.failure is not None


def view_job(job: Manifest) -> JobView:
    metadata, spec, status = job["metadata"], job.get("spec", {}), job.get("status", {})
    conditions = {
        condition["type"]: condition
        for condition in status.get("conditions") or ()
        if condition.get("status") == "True"
    }
    owners = (owner["uid"] for owner in metadata.get("ownerReferences") or () if owner.get("controller"))
    # FailureTarget comes first, while the last pods are still ending: the verdict is the same.
    failed = conditions.get("Failed", conditions.get("FailureTarget"))
    return JobView(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        owner_uid=next(owners, None),
        is_suspended=bool(spec.get("suspend", False)),
        is_going=metadata.get("deletionTimestamp") is not None,
        spec=spec,
        created_at=to_time(metadata.get("creationTimestamp")),
        completed_at=to_time(status.get("completionTime")),
        failure=None if failed is None else Said(failed.get("reason", ""), failed.get("message", "")),
        is_complete="Complete" in conditions,
        succeeded=int(status.get("succeeded") or 0),
        failed_indexes=_to_indexes(str(status.get("failedIndexes") or "")),
    )


def _to_indexes(text: str) -> list[int]:
    """Of an Indexed Job's status, such as 1,3-5."""
    bounds = [part.partition("-") for part in text.split(",") if part]
    return [index for first, _, last in bounds for index in range(int(first), int(last or first) + 1)]
