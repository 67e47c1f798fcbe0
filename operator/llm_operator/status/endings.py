"""Why a pod's work ended: the runner's own words first, then what kubelet, scheduler and controllers say.

Says nothing about whether it is tried again; that is the Job's policy.
"""

from collections.abc import Mapping

from llm_api.conditions import Reason
from llm_api.report import ExitCode

from llm_operator.status.finding import Finding
from llm_operator.status.pods import Ended, PodView

DISRUPTIONS: Mapping[str, Finding] = {
    "PreemptionByScheduler": Finding(Reason.PREEMPTED, "a pod of higher priority took its place"),
    "DeletionByTaintManager": Finding(Reason.EVICTED, "its node was tainted"),
    "EvictionByEvictionAPI": Finding(Reason.EVICTED, "it was evicted, as when a node is drained"),
    "TerminationByKubelet": Finding(Reason.EVICTED, "its node shut down or ran short of something"),
    "DeletionByPodGC": Finding(Reason.NODE_LOST, "its node is gone"),
}
"""Reasons of the DisruptionTarget condition."""
CODE_REASONS: Mapping[int, Reason] = {
    ExitCode.DONE: Reason.SUCCEEDED,
    ExitCode.USER_ERROR: Reason.CONFIG_INVALID,
    ExitCode.ACCESS_DENIED: Reason.MODEL_ACCESS_DENIED,
    ExitCode.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    ExitCode.DIVERGED: Reason.DIVERGED,
    ExitCode.GATE_NOT_MET: Reason.GATE_NOT_MET,
    ExitCode.STORAGE_FAILED: Reason.STORAGE_FAILED,
    ExitCode.PEER_LOST: Reason.PEER_LOST,
    ExitCode.STOPPED: Reason.STOPPED,
}
"""For a runner that left no Outcome."""
HOST_MEMORY = (
    "the host's memory ran out (OOMKilled): raise spec.compute.resources.limits.memory, or lower trainer.batch_size or "
    "preprocessing.global_max_sequence_length"
)


def explain_ending(pod: PodView) -> Finding:
    """For a pod that has ended, or is being deleted."""
    if pod.ended is not None and pod.ended.exit_code == ExitCode.DONE:
        return Finding(Reason.SUCCEEDED, "")
    if pod.disruption is not None:
        return _explain_disruption(pod)
    if pod.ended is not None:
        return explain_exit(pod.ended)
    if pod.reason is not None:
        return _explain_pod(pod)
    return Finding(Reason.STOPPED, "its pod was deleted")


def explain_exit(ended: Ended) -> Finding:
    if ended.reason == "OOMKilled":
        return Finding(Reason.OUT_OF_MEMORY, HOST_MEMORY)
    outcome = ended.outcome
    if outcome is not None and outcome.reason in set(Reason):
        return Finding(Reason(outcome.reason), outcome.message)
    reason = CODE_REASONS.get(ended.exit_code, Reason.UNEXPECTED)
    words = f"the runner ended with exit code {ended.exit_code} and left no message; see its log with kubectl logs"
    return Finding(reason, words if outcome is None else outcome.message)


def _explain_disruption(pod: PodView) -> Finding:
    said = pod.disruption
    assert said is not None, "only called where there was one"
    if said.reason == "DeletionByTaintManager" and pod.ended is None:
        return Finding(Reason.NODE_LOST, f"its node {pod.node} does not answer any more")
    found = DISRUPTIONS.get(said.reason)
    if found is None:
        return Finding(Reason.EVICTED, f"{said.reason}: {said.message}")
    return Finding(found.reason, f"{found.message} ({said.message})" if said.message else found.message)


def _explain_pod(pod: PodView) -> Finding:
    said = pod.reason
    assert said is not None, "only called where there was one"
    if said.reason == "NodeLost":
        return Finding(Reason.NODE_LOST, f"its node {pod.node} does not answer any more")
    reason = Reason.EVICTED if said.reason == "Evicted" else Reason.UNEXPECTED
    return Finding(reason, f"{said.reason}: {said.message}")
