"""What is said of a Job that its queue hasn't let start, or has stopped for others. Pure.

Kueue lets a Job start by ending its suspension once its Workload has got quota, and stops it by suspending it again
(https://kueue.sigs.k8s.io/docs/concepts/workload/, https://kueue.sigs.k8s.io/docs/concepts/preemption/). Why it lets it
wait it says in events about that Workload; places in the queue are not among what it says there.
"""

from collections.abc import Iterable, Sequence

from llm_api.conditions import Reason

from llm_operator.observed import ClusterEvent
from llm_operator.status.finding import Finding
from llm_operator.status.pods import PodView

WAITS = "waits for its queue to admit it"
QUEUE_REASON = "Pending"
"""Of the event for each time that there was no quota."""


def explain_queue(pods: Sequence[PodView], words: str | None) -> Finding:
    """``words``: why it waits, as the queue said last; None where it didn't."""
    if any(not pod.is_gone for pod in pods):
        return Finding(Reason.QUEUED, "its queue takes its place back: what is done is saved first")
    return Finding(Reason.QUEUED, f"{WAITS}; see kubectl describe workloads" if words is None else f"{WAITS}: {words}")


def find_queue_words(events: Iterable[ClusterEvent], job: str) -> str | None:
    said = [event for event in events if (event.kind, event.name, event.reason) == ("Job", job, QUEUE_REASON)]
    return max(said, key=lambda event: event.last_seen_at).message if said else None
