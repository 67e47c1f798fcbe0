"""How long pods that train together wait for one that can't start, and what is then said. Pure.

A queue admits all of them or none, and takes back what it gave; so its Jobs are left to it.
"""

from datetime import datetime, timedelta

from llm_api.conditions import Reason, find_condition
from llm_api.finetune import FineTuneCondition

from llm_operator.reconcile.situation import Situation
from llm_operator.status.finding import Finding
from llm_operator.status.obstacles import count_missing, find_obstacle

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
    since = waiting[0].created_at if waiting else _missing_since(situation)
    if not started or since is None or situation.now - since < timedelta(seconds=seconds):
        return None
    observed, others = situation.observed, [pod for pod in situation.pods if pod not in started]
    lacking = nodes - len(started)
    obstacle = find_obstacle(others, observed.events, observed.refusals, situation.now, lacking)
    why = "the cluster doesn't say why" if obstacle is None else f"{obstacle.reason}: {obstacle.message}"
    who = waiting[0].name if waiting else f"{lacking} missing"
    return Finding(
        Reason.START_TIMEOUT,
        f"{len(started)} of {nodes} pods started within {seconds} s (run.startTimeoutSeconds), and none holds its node "
        f"for longer; {who}: {why}; {MEND}",
    )


def _missing_since(situation: Situation) -> datetime | None:
    """Since when there are fewer pods than nodes; None where there are enough.

    A run that is said to work lost a pod only now, and its others are about to end for that; one whose pods can't be
    made is said not to work.
    """
    known = find_condition(situation.known.conditions, FineTuneCondition.RUNNING)
    is_short = count_missing(situation.pods, situation.resource.spec.compute.nodes) > 0
    if not is_short or known is None or known.status == "True":
        return None
    ends = [pod.ended.at for pod in situation.pods if pod.ended is not None]
    return max((known.last_transition_time, *ends, *(pod.created_at for pod in situation.pods)))
