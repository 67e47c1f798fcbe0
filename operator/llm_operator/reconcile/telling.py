"""How a plan tells what was found: by a status and its events, where they are worth a write now. Pure."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from llm_api.finetune import FineTuneStatus
from llm_api.inference import InferenceStatus

from llm_operator.observed import Observed
from llm_operator.reconcile.plan import EventNote, Plan
from llm_operator.settings import Settings
from llm_operator.status.obstacles import look_again_seconds
from llm_operator.status.pods import view_pods
from llm_operator.status.writing import plan_writing

WAITING_PHASES = ("Pending", "Preparing", "Starting", "Degraded")
"""Of either kind: time alone may then change what is to be done."""


def add_status(
    plan: Plan,
    observed: Observed,
    status: FineTuneStatus | InferenceStatus,
    announce: Callable[[], tuple[EventNote, ...]],
    settings: Settings,
    now: datetime,
) -> Plan:
    """``announce`` gives the events of a status that is written."""
    writing = plan_writing(observed.document, status, observed.status_written_at, settings.status_interval_seconds, now)
    events = () if writing.status is None else announce()
    again = writing.again_after_seconds
    if again is None and status.phase in WAITING_PHASES:
        again = look_again_seconds(view_pods(observed.pods), now)
    return replace(plan, status=writing.status, events=events, again_after_seconds=again)
