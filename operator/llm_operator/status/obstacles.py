"""What stands in the way of a pod that should run: named from what scheduler, kubelet and admission say.

Each finding says what to do. Whatever is recognized by words falls back to the words themselves, so that nothing is
hidden when a later Kubernetes says it differently.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from llm_api.conditions import Reason
from llm_api.report import ExitCode

from llm_operator.observed import ClusterEvent, Refusal
from llm_operator.status.endings import explain_exit
from llm_operator.status.finding import Finding
from llm_operator.status.pods import NO_TIME, PodView, Said

IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
CONTAINER_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
MOUNT_REASONS = {"FailedMount", "FailedAttachVolume", "FailedMapVolume"}
CREATION_REASON = "FailedCreate"
MOUNT_EVENT_LASTS = timedelta(minutes=4)
"""The kubelet repeats itself every two minutes; a mount that isn't complained about any more has succeeded."""
BINDING_TAKES = timedelta(seconds=20)
"""The scheduler calls a claim unbound until its volume is made, and the controller that binds them looks every 15 s."""
AGAIN_SECONDS = 30.0
"""Some obstacles go without anything being seen to change, such as a mount that succeeds at last."""
UNBOUND = "unbound immediate PersistentVolumeClaims"

_LACKING = re.compile(r"Insufficient ([\w./-]*[\w])")
_CLAIM = re.compile(r'persistentvolumeclaim "([^"]+)"')
_TAINT = re.compile(r"untolerated taint(?:\(s\))? ?\{([^}]*)\}")
_QUOTA = re.compile(r"exceeded quota: ([\w.-]+)")
_ACCOUNT = re.compile(r'serviceaccount "([^"]+)" not found', re.IGNORECASE)
_MISSING_KEY = re.compile(r"couldn't find key (\S+) in (Secret|ConfigMap) \S*?/?([^/\s]+)$")
_MISSING = re.compile(r'(secret|configmap) "([^"]+)" not found', re.IGNORECASE)
_MISSING_ITEM = re.compile(r"references non-existent (secret|config) key: (\S+)")


def find_obstacle(
    pods: Sequence[PodView],
    events: Iterable[ClusterEvent],
    refusals: Sequence[Refusal],
    now: datetime,
    wanted: int = 1,
) -> Finding | None:
    """The first thing in the way: an object that was refused, a pod that can't start, pods that can't be made.

    ``wanted``: how many pods there should be.
    """
    if refusals:
        return explain_refused(refusals[0])
    known = list(events)
    for pod in reversed([pod for pod in pods if pod.is_live]):
        about = [event for event in known if (event.kind, event.name) == ("Pod", pod.name)]
        found = explain_running(pod) if pod.is_running else explain_waiting(pod, about, now)
        if found is not None:
            return found
    if count_missing(pods, wanted) == 0:
        return None
    lost = next((pod for pod in pods if pod.is_going and pod.is_node_silent), None)
    return explain_missing(pods, known) if lost is None else explain_running(lost)


def count_missing(pods: Sequence[PodView], wanted: int) -> int:
    """Of ``wanted`` pods those that don't exist, and have not done their work either."""
    return wanted - len({pod.index for pod in pods if pod.is_live or _is_done(pod)})


def _is_done(pod: PodView) -> bool:
    return pod.ended is not None and pod.ended.exit_code == ExitCode.DONE


def explain_missing(pods: Sequence[PodView], events: Sequence[ClusterEvent]) -> Finding | None:
    """Why no more pods are made. What was said before the newest was made may be over, and is said again if it isn't.

    All pods of a Deployment share one index, so more of them than one are never waited for here.
    """
    newest = max((pod.created_at for pod in pods), default=NO_TIME)
    failed = [event for event in events if event.kind != "Pod" and event.reason == CREATION_REASON]
    told = [event for event in failed if event.last_seen_at >= newest]
    return explain_refusal(_newest(told).message) if told else None


def explain_running(pod: PodView) -> Finding | None:
    if pod.is_node_silent:
        return Finding(
            Reason.NODE_LOST,
            f"its node {pod.node} does not answer any more; the work goes on when the node is back, or on another one "
            f"when this one is given up: kubectl delete node {pod.node}",
        )
    return _explain_restart(pod)


def _explain_restart(pod: PodView) -> Finding | None:
    """Said until it is ready, or a server that ends time and again would seem to start well in between."""
    if pod.previous is None or pod.is_ready:
        return None
    found = explain_exit(pod.previous)
    return Finding(found.reason, f"the server ended and is started again: {found.message}")


def explain_waiting(pod: PodView, events: Sequence[ClusterEvent], now: datetime) -> Finding | None:
    if is_binding(pod, now):
        return None
    if pod.scheduling is not None:
        return explain_scheduling(pod.scheduling)
    if pod.waiting is not None and (pod.waiting.reason != "CrashLoopBackOff" or pod.previous is None):
        return explain_container(pod.waiting)
    restart = _explain_restart(pod)
    if restart is not None:
        return restart
    mounts = [event for event in events if event.reason in MOUNT_REASONS]
    recent = [event for event in mounts if now - event.last_seen_at < MOUNT_EVENT_LASTS]
    return explain_mount(_newest(recent).message) if recent else None


def is_binding(pod: PodView, now: datetime) -> bool:
    """Whether a claim without a volume may yet get one by itself."""
    waits = pod.scheduling is not None and UNBOUND in pod.scheduling.message
    return waits and now - pod.created_at < BINDING_TAKES


def look_again_seconds(pods: Iterable[PodView], now: datetime) -> float:
    """When a resource that waits for ``pods`` is to be looked at again, whatever happens."""
    return BINDING_TAKES.total_seconds() if any(is_binding(pod, now) for pod in pods) else AGAIN_SECONDS


def _newest(events: Sequence[ClusterEvent]) -> ClusterEvent:
    return max(events, key=lambda event: event.last_seen_at)


def explain_scheduling(said: Said) -> Finding:
    claim = _CLAIM.search(said.message)
    if claim is not None:
        return Finding(
            Reason.VOLUME_NOT_FOUND,
            f"there is no usable PersistentVolumeClaim {claim.group(1)}; create it in this namespace, or name another "
            f"({said.message})",
        )
    if UNBOUND in said.message:
        return Finding(
            Reason.VOLUME_NOT_FOUND,
            "a PersistentVolumeClaim that is named in the spec has no volume yet; check its storage class with "
            f"kubectl describe pvc ({said.message})",
        )
    if said.reason == "SchedulingGated":
        return Finding(Reason.WAITING, "the pod waits for its scheduling gates to be removed")
    return Finding(Reason.UNSCHEDULABLE, _describe_unschedulable(said.message))


def _describe_unschedulable(message: str) -> str:
    lacking = sorted(set(_LACKING.findall(message)))
    taints = sorted({taint.split(":")[0].strip() for taint in _TAINT.findall(message)})
    advice = []
    if lacking:
        advice.append(f"no node has enough {', '.join(lacking)} free: ask for less in spec.compute, or add nodes")
    if taints:
        advice.append(
            f"nodes are tainted {', '.join(taints)}: tolerate it in spec.compute.podTemplate.spec.tolerations"
        )
    if "node affinity" in message or "node selector" in message:
        advice.append("no node matches nodeSelector and affinity of spec.compute.podTemplate.spec: change them")
    return f"{'; '.join(advice)} ({message})" if advice else f"no node takes the pod: {message}"


def explain_container(said: Said) -> Finding:
    if said.reason in IMAGE_REASONS:
        return Finding(
            Reason.IMAGE_PULL,
            "the image can't be pulled; check its name, and imagePullSecrets where the registry asks for a login "
            f"({said.reason}: {said.message})",
        )
    found = _explain_missing(said.message)
    if found is not None:
        return found
    if "run as root" in said.message or "runAsNonRoot" in said.message:
        return Finding(Reason.POD_SECURITY, f"containers don't run as root here; set a user: {said.message}")
    return Finding(Reason.UNEXPECTED, f"the container can't be started: {said.reason}: {said.message}")


def explain_mount(message: str) -> Finding:
    found = _explain_missing(message)
    return Finding(Reason.VOLUME_NOT_MOUNTED, f"a volume can't be mounted: {message}") if found is None else found


def explain_refused(refusal: Refusal) -> Finding:
    """An object of the operator's that isn't there as it should be."""
    if refusal.reason is None:
        return explain_refusal(refusal.message)
    return Finding(refusal.reason, refusal.message)


def explain_refusal(message: str) -> Finding:
    """What admission said to a Job, or the Job's controller about its pods."""
    quota, account = _QUOTA.search(message), _ACCOUNT.search(message)
    if quota is not None:
        return Finding(
            Reason.QUOTA_EXCEEDED,
            f"the namespace's quota {quota.group(1)} is used up: ask for less in spec.compute, wait for others to end, "
            f"or have it raised ({message})",
        )
    if account is not None:
        return Finding(
            Reason.SERVICE_ACCOUNT_NOT_FOUND,
            f"there is no ServiceAccount {account.group(1)} in this namespace; create it, or change "
            "spec.compute.serviceAccountName",
        )
    if "violates PodSecurity" in message:
        return Finding(Reason.POD_SECURITY, f"change spec.compute.podTemplate: {message}")
    return Finding(Reason.REFUSED, f"the cluster does not take it: {message}")


def _explain_missing(message: str) -> Finding | None:
    item = _MISSING_ITEM.search(message)
    if item is not None:
        kind = "Secret" if item.group(1) == "secret" else "ConfigMap"
        return _missing(kind, f"a {kind} that the spec names has no key {item.group(2)}; add the key, or name another")
    key = _MISSING_KEY.search(message)
    if key is not None:
        kind = key.group(2)
        return _missing(kind, f"{kind} {key.group(3)} has no key {key.group(1)}; add the key")
    whole = _MISSING.search(message)
    if whole is not None:
        kind = "Secret" if whole.group(1).lower() == "secret" else "ConfigMap"
        return _missing(kind, f"there is no {kind} {whole.group(2)} in this namespace; create it, or name another")
    return None


def _missing(kind: str, message: str) -> Finding:
    return Finding(Reason.SECRET_NOT_FOUND if kind == "Secret" else Reason.CONFIG_MAP_NOT_FOUND, message)
