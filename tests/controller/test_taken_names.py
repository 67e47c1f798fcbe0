"""Objects of other people that have the name of one of ours: they stay as they are, and a condition says so."""

import json
from typing import Any

import pytest

from tests.support.operator_process import OperatorProcess, wait_until
from tests.support.world import World

SELECTOR = {"app": "shop"}
POD = {"restartPolicy": "Always", "containers": [{"name": "shop", "image": "shop:1"}]}
TEMPLATE = {"metadata": {"labels": SELECTOR}, "spec": POD}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "chat"},
    "spec": {"selector": SELECTOR, "ports": [{"port": 80}]},
}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "chat"},
    "spec": {"replicas": 3, "selector": {"matchLabels": SELECTOR}, "template": TEMPLATE},
}
JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {},
    "spec": {"template": {**TEMPLATE, "spec": {**POD, "restartPolicy": "Never"}}},
}
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": {"colour": "blue"}}


def make(world: World, manifest: dict[str, Any], **metadata: str) -> dict[str, Any]:
    """As its user makes it."""
    manifest = {**manifest, "metadata": {**manifest["metadata"], **metadata, "namespace": world.namespace}}
    world.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    return world.plane.get(manifest["kind"], manifest["metadata"]["name"], world.namespace)


def serve(world: World) -> None:
    world.plane.apply(
        {
            "apiVersion": "llmoperator.dev/v1alpha1",
            "kind": "LLMInference",
            "metadata": {"name": "chat", "namespace": world.namespace},
            "spec": {"model": {"uri": "s3://models/chat"}, "serve": {}},
        }
    )


def ready(world: World) -> dict[str, Any]:
    status = world.plane.get("llminf", "chat", world.namespace).get("status", {})
    return next((one for one in status.get("conditions", []) if one["type"] == "Ready"), {})


@pytest.mark.parametrize("theirs", [SERVICE, DEPLOYMENT], ids=["Service", "Deployment"])
def test_what_others_named_like_an_inference_is_left_alone_until_it_goes(
    operator: OperatorProcess, world: World, theirs: dict[str, Any]
) -> None:
    before = make(world, theirs)
    serve(world)
    wait_until(lambda: ready(world).get("reason") == "NameTaken", "the name taken")
    assert f"there is a {theirs['kind']} chat" in ready(world)["message"]
    assert world.plane.get(theirs["kind"], "chat", world.namespace) == before
    world.kubectl("delete", theirs["kind"], "chat")

    def is_ours() -> bool:
        found = [one for one in world.found(theirs["kind"]) if one["metadata"]["name"] == "chat"]
        return [one["metadata"]["ownerReferences"][0]["kind"] for one in found] == ["LLMInference"]

    wait_until(is_ours, "the operator's own in its place")
    wait_until(lambda: ready(world).get("reason") != "NameTaken", "the name free")


@pytest.mark.parametrize("theirs", [CONFIG_MAP, JOB], ids=["ConfigMap", "Job"])
def test_what_others_named_like_a_run_is_left_alone_until_it_goes(
    operator: OperatorProcess, world: World, theirs: dict[str, Any]
) -> None:
    world.apply(run={"suspend": True})
    name = world.wait_phase("Suspended")["run"]["name"]
    before = make(world, theirs, name=name)
    world.kubectl("patch", "llmft", "support-tickets", "--type=merge", '--patch={"spec": {"run": {"suspend": false}}}')
    wait_until(lambda: world.condition("Running").get("reason") == "NameTaken", "the name taken")
    assert f"there is a {theirs['kind']} {name}" in world.condition("Running")["message"]
    assert world.plane.get(theirs["kind"], name, world.namespace) == before
    wait_until(lambda: ("Warning", "NameTaken") in world.events(), "a warning")
    world.kubectl("delete", theirs["kind"], name)
    wait_until(lambda: name in world.names("jobs"), "the operator's own Job")
    wait_until(lambda: world.condition("Running").get("reason") == "Starting", "the name free")


def test_a_job_of_its_own_that_lost_its_labels_gets_them_back(operator: OperatorProcess, world: World) -> None:
    world.apply()
    name = world.run().job_name
    uid = world.plane.get("job", name, world.namespace)["metadata"]["uid"]
    world.kubectl("label", "job", name, "app.kubernetes.io/managed-by-")

    def is_marked() -> bool:
        found = world.plane.get("job", name, world.namespace)["metadata"]
        return (found["uid"], found["labels"].get("app.kubernetes.io/managed-by")) == (uid, "llm-operator")

    wait_until(is_marked, "the label again")
