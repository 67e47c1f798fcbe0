"""Whose an object of the same name is."""

from typing import Any

import pytest
from llm_operator.observed import ObservedFineTune
from llm_operator.reconcile.ownership import explain_taken

from tests.support.fine_tunes import fine_tune, finished, of_kind, plan
from tests.support.inferences import SERVES, observe
from tests.support.inferences import plan as plan_inference

SERVICE = of_kind(plan_inference(observe(SERVES)), "Service")


def owned(manifest: dict[str, Any], **owner: Any) -> dict[str, Any]:
    """The same, of another owner."""
    metadata = manifest["metadata"]
    return {**manifest, "metadata": {**metadata, "ownerReferences": [{**metadata["ownerReferences"][0], **owner}]}}


def cleanup() -> dict[str, Any]:
    observed = finished({"output": {"deletionPolicy": "Delete"}})
    observed.document["metadata"] |= {"deletionTimestamp": "2026-03-01T12:00:00Z"}
    return of_kind(plan(observed), "Job")


def test_what_was_made_for_the_resource_is_its_own() -> None:
    assert explain_taken(SERVICE, SERVICE) is None


def test_what_an_earlier_resource_of_the_name_left_is_taken_over() -> None:
    assert explain_taken(SERVICE, owned(SERVICE, uid="uid-of-before")) is None
    assert explain_taken(SERVICE, owned(SERVICE, apiVersion="llmoperator.dev/v1")) is None


def test_an_object_without_an_owner_is_somebody_elses_whatever_its_labels_say() -> None:
    found = {**SERVICE, "metadata": {key: SERVICE["metadata"][key] for key in ("name", "namespace", "labels")}}
    said = explain_taken(SERVICE, found)
    assert said is not None
    assert "there is a Service bot" in said
    assert "somebody else's" in said
    assert "give the LLMInference another name" in said


@pytest.mark.parametrize(
    "owner",
    [{"kind": "LLMFineTune"}, {"name": "chat"}, {"apiVersion": "serving.example.com/v1"}, {"controller": False}],
    ids=["kind", "name", "group", "not its controller"],
)
def test_an_object_of_another_owner_is_left_alone(owner: dict[str, Any]) -> None:
    assert explain_taken(SERVICE, owned(SERVICE, **owner)) is not None


def test_another_controller_is_named() -> None:
    said = explain_taken(SERVICE, owned(SERVICE, apiVersion="apps/v1", kind="ReplicaSet", name="web"))
    assert said is not None
    assert "which is ReplicaSet web's" in said


def test_the_job_that_deletes_artifacts_has_no_owner_and_is_known_by_its_labels() -> None:
    job = cleanup()
    assert explain_taken(job, job) is None
    other = {**job, "metadata": {**job["metadata"], "labels": {"app": "mine"}}}
    assert explain_taken(job, other) is not None
    assert explain_taken(job, of_kind(plan(ObservedFineTune(document=fine_tune())), "Job")) is not None
