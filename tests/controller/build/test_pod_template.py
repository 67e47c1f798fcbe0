"""A user's pod template is merged as Kubernetes merges patches, and can't weaken what security rests on."""

from typing import Any

import pytest
from llm_api.compute import Compute
from llm_api.issues import load
from llm_api.sources import Credentials
from llm_operator.build.merge import merge_pod
from llm_operator.build.pod import Work, build_pod_template
from llm_operator.build.volumes import Volumes
from llm_operator.reconcile.podtemplate import check_pod_template

from tests.support.fine_tunes import SETTINGS


def compute(spec: dict[str, Any], **metadata: Any) -> Compute:
    return load(Compute, {"podTemplate": {"spec": spec, "metadata": metadata}})


def build(spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    volumes = Volumes()
    volumes.mount_scratch()
    work = Work("runner:1", ["train", "run.json"], volumes)
    return build_pod_template(work, compute(spec, **metadata), Credentials(), SETTINGS, {"ours": "label"})


@pytest.mark.parametrize(
    ("base", "patch", "merged"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"a": 1, "b": 2}, {"b": None}, {"a": 1}),
        ({"nodeSelector": {"x": "1"}}, {"nodeSelector": {"y": "2"}}, {"nodeSelector": {"x": "1", "y": "2"}}),
        (
            {"containers": [{"name": "runner", "image": "a"}]},
            {"containers": [{"name": "runner", "tty": True}, {"name": "proxy"}]},
            {"containers": [{"name": "runner", "image": "a", "tty": True}, {"name": "proxy"}]},
        ),
        (
            {"env": [{"name": "HOME", "value": "/work"}]},
            {"env": [{"name": "DEBUG", "value": "1"}]},
            {"env": [{"name": "HOME", "value": "/work"}, {"name": "DEBUG", "value": "1"}]},
        ),
        (
            {"volumeMounts": [{"name": "a", "mountPath": "/a"}]},
            {"volumeMounts": [{"name": "b", "mountPath": "/a"}]},
            {"volumeMounts": [{"name": "b", "mountPath": "/a"}]},
        ),
        (
            {"tolerations": [{"key": "a"}]},
            {"tolerations": [{"key": "a"}, {"key": "b"}]},
            {"tolerations": [{"key": "a"}, {"key": "b"}]},
        ),
        ({"args": ["a", "b"]}, {"args": ["c"]}, {"args": ["c"]}),
        ({"x": [1]}, {"x": {"y": 1}}, {"x": {"y": 1}}),
    ],
)
def test_lists_are_merged_by_the_key_that_kubernetes_merges_them_by(
    base: dict[str, Any], patch: dict[str, Any], merged: dict[str, Any]
) -> None:
    assert merge_pod(base, patch) == merged


def test_the_users_part_of_a_pod_goes_through() -> None:
    template = {
        "nodeSelector": {"gpu": "a100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "priorityClassName": "low",
        "terminationGracePeriodSeconds": 900,
    }
    spec = build(template)["spec"]
    assert {key: spec[key] for key in template} == template


def test_scratch_space_can_be_put_on_a_volume_of_the_users() -> None:
    claim = {"name": "work", "emptyDir": None, "persistentVolumeClaim": {"claimName": "scratch"}}
    volumes = {volume["name"]: volume for volume in build({"volumes": [claim]})["spec"]["volumes"]}
    assert volumes["work"] == {"name": "work", "persistentVolumeClaim": {"claimName": "scratch"}}


def test_labels_that_pods_are_found_by_stay_as_they_are() -> None:
    metadata = build({}, labels={"ours": "theirs", "team": "nlp"}, annotations={"note": "x"})["metadata"]
    assert metadata == {"labels": {"ours": "label", "team": "nlp"}, "annotations": {"note": "x"}}


def test_no_template_weakens_what_security_rests_on() -> None:
    weak = {
        "securityContext": {
            "runAsNonRoot": False,
            "seccompProfile": {"type": "Unconfined"},
            "sysctls": [],
            "fsGroup": 7,
        },
        "containers": [
            {
                "name": "runner",
                "securityContext": {
                    "privileged": True,
                    "allowPrivilegeEscalation": True,
                    "readOnlyRootFilesystem": False,
                    "runAsUser": 1234,
                    "capabilities": {"add": ["SYS_ADMIN"]},
                },
            },
            {"name": "proxy"},
        ],
        "initContainers": [{"name": "setup", "securityContext": {"privileged": True}}],
        "shareProcessNamespace": True,
    }
    spec = build(weak)["spec"]
    hardened = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    contexts = {one["name"]: one["securityContext"] for one in [*spec["containers"], *spec["initContainers"]]}
    assert contexts == {"runner": {**hardened, "runAsUser": 1234}, "proxy": hardened, "setup": hardened}
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["securityContext"]["fsGroup"] == 7
    assert not {"sysctls"} & spec["securityContext"].keys()
    assert spec["automountServiceAccountToken"] is False
    assert "shareProcessNamespace" not in spec


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"nodeSelektor": {}}, ".nodeSelektor"),
        ({"node_selector": {"a": "b"}}, ".node_selector"),
        ({"containers": [{"name": "runner", "imagePullPolcy": "Always"}]}, ".containers[0].imagePullPolcy"),
        ({"tolerations": "all"}, ".tolerations"),
        ({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, ".volumes[0].hostPath"),
        ({"volumes": [{"name": "x", "nfs": {"server": "s", "path": "/"}}]}, ".volumes[0].nfs"),
        (
            {"volumes": [{"name": "x", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]},
            ".volumes[0].projected.sources[0].serviceAccountToken",
        ),
        (
            {"containers": [{"name": "runner", "ports": [{"containerPort": 1, "hostPort": 1}]}]},
            ".containers[0].ports[0].hostPort",
        ),
        ({"securityContext": {"runAsUser": 0}}, ".securityContext.runAsUser"),
        (
            {"containers": [{"name": "x", "securityContext": {"runAsUser": 0}}]},
            ".containers[0].securityContext.runAsUser",
        ),
    ],
)
def test_what_cannot_be_mended_is_named_before_a_run_starts(spec: dict[str, Any], path: str) -> None:
    (issue,) = check_pod_template(compute(spec))
    assert issue.path == f"spec.compute.podTemplate.spec{path}"


def test_a_plain_template_has_nothing_wrong() -> None:
    assert check_pod_template(compute({"volumes": [{"name": "x", "emptyDir": {}}], "affinity": None})) == []
