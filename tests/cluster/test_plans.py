"""Plans meet a real API server: it takes every object and status that they hold, in a namespace of restricted pods."""

import json
from typing import Any

import pytest
import yaml
from llm_operator.observed import ObservedFineTune, ObservedInference
from llm_operator.reconcile.plan import Patch, Plan

from tests.support import fine_tunes, inferences
from tests.support.cluster.access import Access
from tests.support.fine_tunes import of_kind
from tests.support.repository import ROOT

EVERYTHING: dict[str, Any] = {
    "dataset": {
        "validation": {"volume": {"claimName": "data", "path": "held-out.csv"}},
        "test": {"configMap": {"name": "tables", "key": "test.csv"}},
    },
    "model": {"volume": {"claimName": "models"}, "cacheVolume": {"claimName": "cache"}},
    "output": {"uri": None, "volume": {"claimName": "results", "path": "bot"}},
    "credentials": {"huggingFace": {"secretRef": {"name": "hf"}}, "s3": {"secretRef": {"name": "store"}}},
    "compute": {
        "nodes": 2,
        "accelerators": {"count": 1},
        "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "4Gi"}},
        "podTemplate": {
            "metadata": {"labels": {"team": "nlp"}},
            "spec": {
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "volumes": [{"name": "work", "emptyDir": {"sizeLimit": "20Gi"}}],
            },
        },
    },
    "run": {"deadlineSeconds": 600},
}
SCALING = {"minReplicas": 1, "maxReplicas": 3, "target": {"metric": "queueDepth", "value": 4}}
EXAMPLES = [
    pytest.param(document, id=f"{path.stem}-{document['metadata']['name']}")
    for path in sorted((ROOT / "examples").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if document["kind"] == "LLMFineTune"
]


@pytest.fixture(scope="module")
def server(control_plane: Access) -> Access:
    control_plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    control_plane.kubectl("wait", "--for=condition=Established", "-f", str(ROOT / "crds"), "--timeout=30s")
    return control_plane


@pytest.fixture
def namespace(server: Access) -> str:
    return server.make_namespace("restricted")


def create(server: Access, namespace: str, document: dict[str, Any]) -> dict[str, Any]:
    """The resource as the API server stores it."""
    metadata = {"name": document["metadata"]["name"], "namespace": namespace}
    server.apply({**document, "metadata": metadata})
    return server.get(document["kind"], metadata["name"], namespace)


def carry_out(server: Access, plan: Plan) -> list[dict[str, Any]]:
    for manifest in plan.apply:
        server.apply(dict(manifest))
    return [server.get(one["kind"], one["metadata"]["name"], one["metadata"]["namespace"]) for one in plan.apply]


def write_status(server: Access, document: dict[str, Any], status: dict[str, Any] | None) -> dict[str, Any]:
    """The resource after the operator wrote its status as it does."""
    name, namespace = document["metadata"]["name"], document["metadata"]["namespace"]
    body = {
        "apiVersion": document["apiVersion"],
        "kind": document["kind"],
        "metadata": {"name": name, "namespace": namespace},
        "status": status,
    }
    server.kubectl("apply", "--server-side", "--subresource=status", "-f", "-", stdin=json.dumps(body))
    return server.get(document["kind"], name, namespace)


def check_pod(server: Access, owner: dict[str, Any]) -> None:
    """Admission judges a Job's pods only when they are made: so one is, on trial."""
    template = owner["spec"]["template"]
    namespace = owner["metadata"]["namespace"]
    metadata = {**template["metadata"], "name": "on-trial", "namespace": namespace}
    server.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}}
    )
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    server.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(pod))


@pytest.mark.parametrize("document", EXAMPLES)
def test_what_an_example_becomes_is_taken_and_its_pods_are_restricted(
    server: Access, namespace: str, document: dict[str, Any]
) -> None:
    observed = ObservedFineTune(document=create(server, namespace, document))
    planned = fine_tunes.plan(observed)
    carry_out(server, planned)
    check_pod(server, of_kind(planned, "Job"))


def test_a_fine_tune_with_everything_is_taken_and_settles(server: Access, namespace: str) -> None:
    document = create(server, namespace, fine_tunes.fine_tune(EVERYTHING))
    planned = fine_tunes.plan(ObservedFineTune(document=document))
    made = carry_out(server, planned)
    check_pod(server, of_kind(planned, "Job"))
    document = write_status(server, document, planned.status)
    assert document["status"] == planned.status
    again = fine_tunes.plan(
        ObservedFineTune(
            document=document,
            jobs=[one for one in made if one["kind"] == "Job"],
            config_maps=[one for one in made if one["kind"] == "ConfigMap"],
        )
    )
    assert (again.apply, again.patch, again.delete, again.status) == ((), (), (), None)


def test_applying_the_same_objects_again_changes_nothing(server: Access, namespace: str) -> None:
    document = create(server, namespace, fine_tunes.fine_tune(EVERYTHING))
    planned = fine_tunes.plan(ObservedFineTune(document=document))
    first, second = carry_out(server, planned), carry_out(server, planned)
    versions = [[one["metadata"]["resourceVersion"] for one in made] for made in (first, second)]
    assert versions[0] == versions[1]


def test_every_status_of_a_run_is_taken_by_the_schema(server: Access, namespace: str) -> None:
    document = create(server, namespace, fine_tunes.fine_tune())
    for observed in (
        fine_tunes.finished(),
        fine_tunes.failed(12, fine_tunes.SUCCEEDED.model_copy(update={"reason": "OutOfMemory"})),
    ):
        status = observed.document["status"]
        assert write_status(server, document, status)["status"] == status


def test_what_can_change_on_a_job_under_way_is_taken_as_a_patch(server: Access, namespace: str) -> None:
    document = create(server, namespace, fine_tunes.fine_tune())
    planned = fine_tunes.plan(ObservedFineTune(document=document))
    jobs = [one for one in carry_out(server, planned) if one["kind"] == "Job"]
    changes: list[dict[str, Any]] = [
        {"run": {"maxRetries": 9, "deadlineSeconds": 60}},
        {"run": {"suspend": True}},
        {"run": {"deadlineSeconds": None, "suspend": False}},
    ]
    for change in changes:
        edited = fine_tunes.edit(ObservedFineTune(document=document, jobs=jobs), change)
        (patch,) = fine_tunes.plan(edited).patch
        jobs = [patched(server, patch, namespace)]
        document = dict(edited.document)
        assert fine_tunes.plan(ObservedFineTune(document=document, jobs=jobs)).patch == ()
    assert "activeDeadlineSeconds" not in jobs[0]["spec"]


def patched(server: Access, patch: Patch, namespace: str) -> dict[str, Any]:
    name = patch.key.name
    server.kubectl("patch", "job", name, "-n", namespace, "--type=merge", "-p", json.dumps(patch.body))
    return server.get("job", name, namespace)


def test_the_cleanup_of_a_deleted_fine_tune_is_taken_and_restricted(server: Access, namespace: str) -> None:
    document = create(server, namespace, fine_tunes.fine_tune({**EVERYTHING, "output": {"deletionPolicy": "Delete"}}))
    document["metadata"] |= {
        "deletionTimestamp": "2026-03-01T12:00:00Z",
        "finalizers": ["llmoperator.dev/artifacts"],
    }
    document["status"] = {"run": {"name": "bot-12345678", "resultHash": "12345678"}}
    planned = fine_tunes.plan(ObservedFineTune(document=document))
    carry_out(server, planned)
    check_pod(server, of_kind(planned, "Job"))


@pytest.mark.parametrize(
    "spec",
    [
        inferences.SERVES,
        {**inferences.SERVES, "serve": {"engine": "vllm", "autoscaling": SCALING}},
        inferences.PREDICTS,
    ],
    ids=["transformers", "vllm", "batch"],
)
def test_an_inference_is_taken_and_settles(server: Access, namespace: str, spec: dict[str, Any]) -> None:
    document = create(server, namespace, inferences.inference(spec))
    observed = ObservedInference(document=document, fine_tune=inferences.tuned())
    planned = inferences.plan(observed)
    carry_out(server, planned)
    (owner,) = [one for one in planned.apply if one["kind"] in ("Deployment", "Job")]
    check_pod(server, dict(owner))
    stored = write_status(server, document, planned.status)
    assert stored["status"] == planned.status
