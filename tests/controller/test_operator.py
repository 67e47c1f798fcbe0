"""The operator as a process against a real API server, where each test plays the controllers and the kubelet."""

import json
import time

from tests.support.operator_process import OperatorProcess, wait_until
from tests.support.world import World

OUTCOME = {
    "reason": "Succeeded",
    "lastStep": 30,
    "metrics": {"eval.loss": 0.5},
    "artifactUri": "/volumes/artifacts/support-tickets",
    "artifactDigest": "sha256:" + "a" * 64,
    "artifactSizeBytes": 1234,
}


def versions(world: World) -> dict[str, str]:
    """Of everything in the namespace that the operator could write to."""
    kinds = "llmfinetunes,jobs,configmaps,services,pods"
    return {
        item["kind"] + "/" + item["metadata"]["name"]: item["metadata"]["resourceVersion"]
        for item in world.found(kinds)
    }


def test_an_applied_example_becomes_a_job_with_its_run_file(operator: OperatorProcess, world: World) -> None:
    world.apply()
    run = world.run()
    owner = world.resource()["metadata"]["uid"]
    for kind in ("job", "configmap"):
        made = world.plane.get(kind, run.job_name, world.namespace)
        assert [reference["uid"] for reference in made["metadata"]["ownerReferences"]] == [owner]
    assert world.wait_phase("Pending")["run"]["name"] == run.job_name
    assert world.condition("SpecValid")["status"] == "True"


def test_a_run_is_shown_from_its_start_to_its_result(operator: OperatorProcess, world: World) -> None:
    world.apply()
    run = world.run()
    run.start()
    world.wait_phase("Preparing")
    run.end(0, OUTCOME)
    world.kubectl("wait", "--for=condition=Succeeded", "llmft/support-tickets", "--timeout=30s")
    status = world.status()
    assert status["artifact"]["digest"] == OUTCOME["artifactDigest"]
    header, line = world.kubectl("get", "llmft").splitlines()
    assert header.split() == ["NAME", "PHASE", "MODEL", "PROGRESS", "LOSS", "ETA", "AGE"]
    assert line.split()[:3] == ["support-tickets", "Succeeded", "SmolLM2-135M-Instruct"]


def test_each_phase_is_told_by_one_event(operator: OperatorProcess, world: World) -> None:
    world.apply()
    run = world.run()
    world.wait_phase("Pending")
    run.start()
    world.wait_phase("Preparing")
    run.end(0, OUTCOME)
    world.wait_phase("Succeeded")
    wait_until(lambda: ("Normal", "Succeeded") in world.events(), "an event for the end")
    time.sleep(2)
    assert world.events() == [("Normal", "Pending"), ("Normal", "Preparing"), ("Normal", "Succeeded")]
    assert "Succeeded" in world.kubectl("describe", "llmft", "support-tickets")


def test_a_failure_is_named_and_counted_once(operator: OperatorProcess, world: World) -> None:
    series = 'llm_operator_runs_total{kind="LLMFineTune",reason="DataInvalid"}'
    world.apply()
    run = world.run()
    run.start()
    world.wait_phase("Preparing")
    run.end(10, {"reason": "DataInvalid", "message": "column question is not in the table"})
    world.wait_phase("Failed")
    succeeded = world.condition("Succeeded")
    assert (succeeded["status"], succeeded["reason"]) == ("False", "DataInvalid")
    assert "column question" in succeeded["message"]
    wait_until(lambda: ("Warning", "DataInvalid") in world.events(), "a warning")
    assert f"{series} 1.0" in operator.get("/metrics")[1]


def test_what_a_kubelet_says_about_a_pod_that_can_not_start_is_shown_within_seconds(
    operator: OperatorProcess, world: World
) -> None:
    world.apply()
    run = world.run()
    run.make_pod()
    run.warn("FailedMount", 'MountVolume.SetUp failed for volume "s3" : secret "s3-keys" not found')
    wait_until(lambda: world.condition("Running").get("reason") == "SecretNotFound", "the missing Secret", 10)
    assert "s3-keys" in world.condition("Running")["message"]


def test_an_edit_starts_a_new_run_and_a_finished_run_is_never_repeated(operator: OperatorProcess, world: World) -> None:
    world.apply()
    first = world.run()
    first.start()
    first.end(0, OUTCOME)
    world.wait_phase("Succeeded")
    world.kubectl("annotate", "llmft", "support-tickets", "note=changed")
    time.sleep(2)
    assert world.jobs_of() == [first.job_name]
    edit = '{"spec": {"config": {"trainer": {"epochs": 4}}}}'
    world.kubectl("patch", "llmft", "support-tickets", "--type=merge", f"--patch={edit}")
    wait_until(lambda: world.status().get("run", {}).get("name") != first.job_name, "a new run")
    assert world.run().job_name != first.job_name


def test_a_suspended_run_suspends_its_job_and_goes_on_when_told_to(operator: OperatorProcess, world: World) -> None:
    world.apply()
    run = world.run()
    run.start()
    world.wait_phase("Preparing")
    suspend = '{"spec": {"run": {"suspend": %s}}}'
    world.kubectl("patch", "llmft", "support-tickets", "--type=merge", f"--patch={suspend % 'true'}")
    wait_until(
        lambda: world.plane.get("job", run.job_name, world.namespace)["spec"].get("suspend") is True, "suspended"
    )
    world.kubectl("delete", "pod", run.pod_name, "--grace-period=0", "--force")
    world.wait_phase("Suspended")
    world.kubectl("patch", "llmft", "support-tickets", "--type=merge", f"--patch={suspend % 'false'}")
    wait_until(lambda: world.plane.get("job", run.job_name, world.namespace)["spec"].get("suspend") is False, "resumed")


def test_a_mistake_that_the_schema_can_not_see_is_told_before_anything_is_made(
    operator: OperatorProcess, world: World
) -> None:
    compute = {"podTemplate": {"spec": {"nodeSelectr": {"gpu": "yes"}}}}
    world.apply(compute=compute)
    world.wait_phase("Failed")
    valid = world.condition("SpecValid")
    assert (valid["status"], valid["reason"]) == ("False", "Invalid")
    assert "nodeSelectr" in valid["message"]
    assert world.names("jobs") == []


def test_what_admission_refuses_is_shown_and_tried_again(operator: OperatorProcess, world: World) -> None:
    world.kubectl("create", "quota", "tight", "--hard=count/jobs.batch=0")
    used = '{"status": {"hard": {"count/jobs.batch": "0"}, "used": {"count/jobs.batch": "0"}}}'
    world.kubectl("patch", "quota", "tight", "--subresource=status", "--type=merge", f"--patch={used}")
    world.apply()
    wait_until(lambda: world.condition("Running").get("reason") == "QuotaExceeded", "the quota named")
    assert "tight" in world.condition("Running")["message"]
    world.kubectl("delete", "quota", "tight")
    world.run()
    wait_until(lambda: world.condition("Running").get("reason") != "QuotaExceeded", "the quota forgotten")


def test_a_deleted_resource_is_gone_at_once_when_nothing_of_it_is_to_be_deleted(
    operator: OperatorProcess, world: World
) -> None:
    world.apply()
    world.run()
    assert "finalizers" not in world.resource()["metadata"]
    world.kubectl("delete", "llmft", "support-tickets", "--timeout=10s")
    assert world.names("llmft") == []


def test_an_inference_waits_for_its_fine_tune_and_then_serves_it(operator: OperatorProcess, world: World) -> None:
    inference = {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMInference",
        "metadata": {"name": "chat", "namespace": world.namespace},
        "spec": {"model": {"fineTuneRef": {"name": "support-tickets"}}, "serve": {"replicas": 1}},
    }
    world.plane.apply(inference)

    def phase() -> str | None:
        found: str | None = world.plane.get("llminf", "chat", world.namespace).get("status", {}).get("phase")
        return found

    wait_until(lambda: phase() == "WaitingForModel", "the inference waiting")
    assert world.names("deployments") == []
    world.apply()
    run = world.run()
    run.start()
    run.end(0, OUTCOME)
    wait_until(lambda: world.names("deployments") != [], "a Deployment")
    wait_until(lambda: phase() == "Starting", "the server starting")
    assert world.names("services") == ["chat"]
    world.kubectl("delete", "deployment", "--all")
    wait_until(lambda: world.names("deployments") != [], "the Deployment again")


def test_nothing_is_written_while_nothing_changes(operator: OperatorProcess, world: World) -> None:
    world.apply("idle")
    world.apply("working")
    world.run("working").start()
    world.wait_phase("Preparing", "working")
    world.wait_phase("Pending", "idle")
    time.sleep(2)
    before = versions(world)
    time.sleep(16)  # a whole slow round and more
    assert versions(world) == before


def test_an_object_that_somebody_deleted_is_made_again(operator: OperatorProcess, world: World) -> None:
    world.apply()
    run = world.run()
    world.kubectl("delete", "configmap", run.job_name)
    wait_until(lambda: run.job_name in world.names("configmaps"), "the run file again")


def test_every_field_can_be_explained(world: World) -> None:
    assert "Rank" in world.kubectl("explain", "llmft.spec.config.adapter.r") or "rank" in world.kubectl(
        "explain", "llmft.spec.config.adapter.r"
    )


def test_probes_are_answered_and_metrics_have_the_queue_and_the_phases(operator: OperatorProcess, world: World) -> None:
    world.apply()
    world.wait_phase("Pending")
    assert operator.get("/healthz") == (200, "ok")
    assert operator.get("/readyz") == (200, "ok")
    text = operator.get("/metrics")[1]
    assert 'llm_operator_resources{kind="LLMFineTune",phase="Pending"}' in text
    assert "llm_operator_queue_depth" in text
    assert "llm_operator_leading 1.0" in text


def test_an_inference_is_scaled_as_a_deployment_is(operator: OperatorProcess, world: World) -> None:
    """By kubectl as by any autoscaler, through the subresource."""
    inference = {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMInference",
        "metadata": {"name": "chat", "namespace": world.namespace},
        "spec": {"model": {"uri": "s3://models/chat"}, "serve": {"replicas": 1}},
    }
    world.plane.apply(inference)
    wait_until(lambda: world.names("deployments") == ["chat"], "a Deployment")
    world.kubectl("scale", "llminf/chat", "--current-replicas=1", "--replicas=3")
    assert world.plane.get("llminf", "chat", world.namespace)["spec"]["serve"]["replicas"] == 3
    wait_until(lambda: world.plane.get("deploy", "chat", world.namespace)["spec"]["replicas"] == 3, "three servers")
    path = f"/apis/llmoperator.dev/v1alpha1/namespaces/{world.namespace}/llminferences/chat/scale"
    scale = json.loads(world.kubectl("get", "--raw", path))
    labels = world.plane.get("deploy", "chat", world.namespace)["spec"]["selector"]["matchLabels"]
    assert dict(pair.split("=") for pair in scale["status"]["selector"].split(",")) == labels
