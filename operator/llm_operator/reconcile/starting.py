"""How long pods that train together wait for one that can't start, and what is then said. Pure.

A queue admits all of them or none, and takes back what it gave; so its Jobs are left to it.
"""

from datetime import timedelta

from llm_api.conditions import Reason, find_condition
from llm_api.finetune import FineTuneCondition

from llm_operator.reconcile.situation import Situation
from llm_operator.status.finding import Finding
from llm_operator.status.obstacles import find_obstacle

MEND = "mend that, and then edit the spec, or set run.suspend to true and to false again, to go on"


def find_late_start(situation: Situation) -> Finding | None:
    """Why the others shall wait no longer; also later on, until the spec is edited."""
    job, nodes = situation.job, situation.resource.spec.compute.nodes
    if nodes == 1 or job is None or situation.is_queued:
        return None
    return _found_before(situation) if job.is_suspended else _find_late(situation)


def _found_before(situation: Situation) -> Finding | None:
    known = find_condition(situation.known.conditions, FineTuneCondition.RUNNING)
    is_meant = known is not None and known.reason == Reason.START_TIMEOUT
    if known is None or not is_meant or known.observed_generation != situation.resource.metadata.generation:
        return None
    return Finding(Reason.START_TIMEOUT, known.message)


def _find_late(situation: Situation) -> Finding | None:
    nodes, seconds = situation.resource.spec.compute.nodes, situation.resource.spec.run.start_timeout_seconds
    live = [pod for pod in situation.pods if pod.is_live]
    started = [pod for pod in live if pod.started_at is not None]
    waiting = [pod for pod in live if pod.started_at is None]
    if not started or not waiting or situation.now - waiting[0].created_at < timedelta(seconds=seconds):
        return None
    observed = situation.observed
    obstacle = find_obstacle(waiting, observed.events, observed.refusals, situation.now)
    why = "the cluster doesn't say why" if obstacle is None else f"{obstacle.reason}: {obstacle.message}"
    return Finding(
        Reason.START_TIMEOUT,
        f"{len(started)} of {nodes} pods started within {seconds} s (run.startTimeoutSeconds), and none holds its node "
        f"for longer; {waiting[0].name}: {why}; {MEND}",
    )
