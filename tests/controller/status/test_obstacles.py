"""What stands in a run's way is named within one look, and each message says what to do."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from llm_operator.observed import ClusterEvent, ObservedFineTune, Refusal

from tests.support.fine_tunes import NOW, condition, name_of, plan, pod, running, started, warnings, with_pods


def status_of(observed: ObservedFineTune) -> dict[str, Any]:
    planned = plan(observed)
    stored = observed.document.get("status") if planned.status is None else planned.status
    assert stored is not None
    return dict(stored)


def waiting(observed: ObservedFineTune, reason: str, message: str) -> ObservedFineTune:
    state = {"waiting": {"reason": reason, "message": message}}
    return with_pods(observed, pod(observed, containerStatuses=[{"name": "runner", "state": state}]))


def unscheduled(observed: ObservedFineTune, message: str) -> ObservedFineTune:
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return with_pods(observed, pod(observed, conditions=[said]))


def told(observed: ObservedFineTune, kind: str, reason: str, message: str) -> ObservedFineTune:
    about = observed.pods[0] if kind == "Pod" else observed.jobs[0]
    return replace(observed, events=[ClusterEvent(kind, name_of(about), reason, message, NOW)])


@pytest.mark.parametrize(
    ("message", "reason", "says"),
    [
        ("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", "Unschedulable", "enough nvidia.com/gpu free"),
        (
            "0/2 nodes are available: 1 Insufficient memory, 1 Insufficient cpu. preemption: 0/2 nodes are available",
            "Unschedulable",
            "enough cpu, memory free",
        ),
        (
            "0/1 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: present}.",
            "Unschedulable",
            "tainted nvidia.com/gpu: tolerate it in",
        ),
        (
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            "Unschedulable",
            "no node matches nodeSelector",
        ),
        ("no nodes available to schedule pods", "Unschedulable", "no node takes the pod"),
        (
            '0/1 nodes are available: persistentvolumeclaim "results" not found.',
            "VolumeNotFound",
            "PersistentVolumeClaim results; create it",
        ),
        (
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
            "VolumeNotFound",
            "storage class",
        ),
    ],
)
def test_a_pod_without_a_node_says_what_is_lacking(message: str, reason: str, says: str) -> None:
    planned = plan(unscheduled(started(), message), now=NOW + timedelta(minutes=1))
    status, found, words = condition(planned.status, "Running")
    assert (status, found) == ("False", reason)
    assert says in words
    assert message in words
    assert warnings(planned) == [reason]
    assert planned.again_after_seconds is not None


@pytest.mark.parametrize(
    ("why", "phase", "reason"), [("", "Pending", "NodeLost"), ("ReadinessGatesNotReady", "Preparing", "Running")]
)
def test_a_node_that_does_not_answer_is_named_while_its_pod_seems_to_run(why: str, phase: str, reason: str) -> None:
    observed = started()
    silent = running(observed)
    silent["status"]["conditions"] = [
        {"type": "Ready", "status": "False", "reason": why},
        {"type": "ContainersReady", "status": "True"},
    ]
    status = status_of(with_pods(observed, silent))
    assert status["phase"] == phase
    assert condition(status, "Running")[1] == reason


def test_a_volume_that_may_still_be_being_made_is_no_obstacle_yet() -> None:
    waits = unscheduled(started(), "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
    early = plan(waits)
    assert warnings(early) == []
    assert early.again_after_seconds is not None
    late = plan(waits, now=NOW + timedelta(seconds=early.again_after_seconds))
    assert warnings(late) == ["VolumeNotFound"]


@pytest.mark.parametrize(
    ("why", "message", "reason", "says"),
    [
        ("ErrImagePull", "manifest unknown", "ImagePull", "manifest unknown"),
        ("ImagePullBackOff", 'Back-off pulling image "x"', "ImagePull", "imagePullSecrets"),
        ("InvalidImageName", "couldn't parse", "ImagePull", "check its name"),
        ("CreateContainerConfigError", 'secret "store" not found', "SecretNotFound", "no Secret store"),
        (
            "CreateContainerConfigError",
            "couldn't find key AWS_ACCESS_KEY_ID in Secret team/store",
            "SecretNotFound",
            "Secret store has no key AWS_ACCESS_KEY_ID",
        ),
        ("CreateContainerConfigError", 'configmap "tables" not found', "ConfigMapNotFound", "no ConfigMap tables"),
        (
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root",
            "PodSecurity",
            "don't run as root",
        ),
        ("CreateContainerError", "exec: llm-runner: not found", "Unexpected", "exec: llm-runner"),
    ],
)
def test_a_container_that_cannot_start_says_what_to_do(why: str, message: str, reason: str, says: str) -> None:
    _, found, words = condition(status_of(waiting(started(), why, message)), "Running")
    assert found == reason
    assert says in words


@pytest.mark.parametrize(
    ("message", "reason", "says"),
    [
        ('MountVolume.SetUp failed for volume "hugging-face" : secret "hf" not found', "SecretNotFound", "Secret hf"),
        (
            'MountVolume.SetUp failed for volume "hugging-face" : references non-existent secret key: token',
            "SecretNotFound",
            "no key token",
        ),
        ('MountVolume.SetUp failed for volume "data-train" : configmap "t" not found', "ConfigMapNotFound", "t in"),
        (
            'MountVolume.SetUp failed for volume "data-train" : references non-existent config key: a.csv',
            "ConfigMapNotFound",
            "no key a.csv",
        ),
        ("AttachVolume.Attach failed: volume is in use", "VolumeNotMounted", "is in use"),
    ],
)
def test_a_volume_that_cannot_be_mounted_says_which(message: str, reason: str, says: str) -> None:
    observed = started()
    observed = told(with_pods(observed, pod(observed)), "Pod", "FailedMount", message)
    _, found, words = condition(status_of(observed), "Running")
    assert found == reason
    assert says in words


def test_a_mount_that_is_complained_about_no_longer_is_no_obstacle() -> None:
    observed = started()
    observed = told(with_pods(observed, pod(observed)), "Pod", "FailedMount", 'secret "hf" not found')
    later = plan(observed, now=NOW + timedelta(minutes=5))
    assert later.status is None or condition(later.status, "Running")[1] == "Starting"


@pytest.mark.parametrize(
    ("message", "reason", "says"),
    [
        (
            'Error creating: pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1',
            "QuotaExceeded",
            "quota gpus",
        ),
        (
            'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": hostPort',
            "PodSecurity",
            "podTemplate",
        ),
        (
            'Error creating: pods "x" is forbidden: error looking up service account team/trainer: serviceaccount '
            '"trainer" not found',
            "ServiceAccountNotFound",
            "ServiceAccount trainer",
        ),
        ("Error creating: admission webhook said no", "Refused", "webhook said no"),
    ],
)
def test_pods_that_cannot_be_made_say_why(message: str, reason: str, says: str) -> None:
    _, found, words = condition(status_of(told(started(), "Job", "FailedCreate", message)), "Running")
    assert found == reason
    assert says in words


def test_what_the_cluster_refused_is_in_the_status() -> None:
    observed = replace(started(), jobs=[], refusals=[Refusal("Job", "bot-1", "exceeded quota: jobs, used: 5")])
    assert condition(status_of(observed), "Running")[1] == "QuotaExceeded"
