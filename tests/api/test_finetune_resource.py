"""LLMFineTune: all of the design's example, the bounds of its spec, and its status as it is stored."""

from typing import Any

import pytest
from llm_api.finetune import MAX_LOSS_POINTS, FineTuneCondition, FineTuneStatus, LLMFineTune
from llm_api.issues import InvalidConfig, load
from llm_api.load import load_resource

from tests.support.documents import build_manifest, issues_of_manifest, paths_of, read

WHOLE = """
apiVersion: llmoperator.dev/v1alpha1
kind: LLMFineTune
metadata: {name: support-bot, namespace: tuning, labels: {kueue.x-k8s.io/queue-name: team-a}}
spec:
  config:
    model_type: llm
    base_model: meta-llama/Llama-2-7b-hf
    input_features: [{name: prompt, type: text}]
    output_features: [{name: response, type: text}]
    prompt: {template: "[INST] {question} [/INST]"}
    adapter: {type: lora}
    quantization: {bits: 4}
    trainer: {type: finetune, learning_rate: 0.0001, batch_size: 1, gradient_accumulation_steps: 8, epochs: 3}
  dataset:
    train: {uri: s3://datasets/support/train.jsonl}
    validation: {configMap: {name: rows, key: validation.jsonl}}
    test: {volume: {claimName: data, path: test.jsonl}}
    format: auto
  output:
    uri: s3://models/support-bot
    hub: {repoId: acme/support-bot, private: true}
    deletionPolicy: Retain
  credentials:
    huggingFace: {secretRef: {name: hf, key: token}}
    s3: {secretRef: {name: s3}, endpointUrl: https://s3.acme.org, region: eu-west-1}
  model:
    cacheVolume: {claimName: hub-cache}
    volume: {claimName: models}
  compute:
    nodes: 1
    accelerators: {resource: nvidia.com/gpu, count: 1}
    resources: {requests: {cpu: "4", memory: 32Gi}, limits: {memory: 32Gi}}
    serviceAccountName: tuner
    podTemplate:
      metadata: {labels: {team: a}, annotations: {note: "any text"}}
      spec:
        nodeSelector: {gpu: a100}
        tolerations: [{key: gpu, operator: Exists}]
        affinity: {nodeAffinity: {}}
        priorityClassName: high
        runtimeClassName: nvidia
        imagePullSecrets: [{name: registry}]
  run:
    suspend: false
    maxRetries: 3
    deadlineSeconds: 3600
    ttlSecondsAfterFinished: 86400
    checkpoint: {everySteps: 200, keep: 2, uri: s3://models/checkpoints}
  gate: {metric: loss, max: 1.9}
"""

STATUS = """
observedGeneration: 2
phase: Training
conditions:
- {type: SpecValid, status: "True", lastTransitionTime: "2026-01-01T00:00:00Z", reason: Valid, message: ""}
progress: {step: 41, of: 100, epoch: 1.2, percent: 41%, loss: 1.2034, tokensPerSecond: 350.5, eta: 12m}
metrics: {eval.loss: 1.1, eval.perplexity: 3.0}
lossCurve: [{step: 1, loss: 3.2}, {step: 10, loss: 1.5, evalLoss: 1.6}]
attempts:
- {startedAt: "2026-01-01T00:00:00Z", endedAt: "2026-01-01T00:10:00Z", exitCode: 143, reason: Preempted}
- {startedAt: "2026-01-01T00:11:00Z", resumedFromStep: 20}
artifact:
  uri: s3://models/support-bot
  digest: sha256:abc
  sizeBytes: 1024
  baseModel: meta-llama/Llama-2-7b-hf
  baseModelRevision: 01c7f73
"""


def finetune_issues(spec: str) -> list[str]:
    return paths_of(issues_of_manifest(build_manifest("LLMFineTune", spec)))


def test_everything_that_the_design_shows_is_accepted() -> None:
    resource = load_resource(read(WHOLE))
    assert isinstance(resource, LLMFineTune)
    assert (resource.name, resource.namespace) == ("support-bot", "tuning")
    assert resource.metadata.labels == {"kueue.x-k8s.io/queue-name": "team-a"}


def test_the_defaults_of_a_spec_are_those_of_the_design() -> None:
    resource = load_resource(build_manifest("LLMFineTune"))
    assert isinstance(resource, LLMFineTune)
    spec = resource.spec
    assert (spec.run.suspend, spec.run.max_retries, spec.run.checkpoint.keep) == (False, 3, 2)
    assert (spec.compute.nodes, spec.compute.accelerators) == (1, None)
    assert (spec.output.deletion_policy, spec.dataset.format, spec.gate) == ("Retain", "auto", None)
    assert resource.namespace == "default"


@pytest.mark.parametrize("key", ["config", "dataset", "output"])
def test_a_spec_without_a_part_that_is_needed_is_refused(key: str) -> None:
    assert finetune_issues(f"{key}: (left out)") == [f"spec.{key}"]


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("run: {maxRetries: -1}", "run.maxRetries"),
        ("run: {maxRetries: 101}", "run.maxRetries"),
        ("run: {deadlineSeconds: 0}", "run.deadlineSeconds"),
        ("run: {ttlSecondsAfterFinished: -1}", "run.ttlSecondsAfterFinished"),
        ("run: {suspend: 'no'}", "run.suspend"),
        ("run: {checkpoint: {everySteps: 0}}", "run.checkpoint.everySteps"),
        ("run: {checkpoint: {keep: 0}}", "run.checkpoint.keep"),
        ("run: {checkpoint: {uri: /a}}", "run.checkpoint.uri"),
        ("compute: {nodes: 0}", "compute.nodes"),
        ("compute: {accelerators: {count: 0}}", "compute.accelerators.count"),
        ("compute: {accelerators: {resource: nvidia.com/gpu}}", "compute.accelerators.count"),
        ("compute: {accelerators: {resource: 'a b', count: 1}}", "compute.accelerators.resource"),
        ("compute: {resources: {requests: {memory: 32 GB}}}", "compute.resources.requests.memory"),
        ("compute: {resources: {requests: {cpu: 0.5}}}", "compute.resources.requests.cpu"),
        ("compute: {serviceAccountName: A}", "compute.serviceAccountName"),
        ("compute: {podTemplate: {metadata: {labels: {a: 'b c'}}}}", "compute.podTemplate.metadata.labels.a"),
        ("compute: {podTemplate: {spec: {hostPID: true}}}", "compute.podTemplate.spec"),
        ("compute: {podTemplate: {spec: {automountServiceAccountToken: true}}}", "compute.podTemplate.spec"),
        ("compute: {gpus: 1}", "compute.gpus"),
        ("gate: {metric: bleu, min: 1}", "gate.metric"),
        ("gate: {min: 1}", "gate.metric"),
        ("gate: {metric: loss, max: low}", "gate.max"),
        ("output: {uri: s3://a/b, hub: {repoId: bot}}", "output.hub.repoId"),
        ("output: {uri: s3://a/b, hub: {private: true}}", "output.hub.repoId"),
        ("output: {uri: s3://a/b, deletionPolicy: Keep}", "output.deletionPolicy"),
        ("model: {cacheVolume: {}}", "model.cacheVolume.claimName"),
        ("model: {volume: {claimName: models, path: a}}", "model.volume.path"),
        ("modle: {}", "modle"),
    ],
)
def test_a_key_that_is_out_of_its_bounds_is_told_by_its_path(spec: str, path: str) -> None:
    assert finetune_issues(spec) == [f"spec.{path}"]


@pytest.mark.parametrize("cpu", ["4", "'4'", "500m", "'0.5'"])
def test_an_amount_may_be_a_number_or_a_text(cpu: str) -> None:
    assert finetune_issues(f"compute: {{resources: {{requests: {{cpu: {cpu}}}}}}}") == []


@pytest.mark.parametrize(
    ("metadata", "paths"),
    [
        ({"name": "a" * 48}, []),
        ({"generateName": "bot-"}, []),
        ({"name": "bot", "uid": "x", "resourceVersion": "5", "managedFields": []}, []),
        ({"name": "a" * 49}, ["metadata.name"]),
        ({"name": "Bot"}, ["metadata.name"]),
        ({"name": "2bot"}, ["metadata.name"]),
        ({}, ["metadata.name"]),
    ],
)
def test_a_name_leaves_room_for_what_is_named_after_it(metadata: dict[str, Any], paths: list[str]) -> None:
    assert paths_of(issues_of_manifest({**build_manifest("LLMFineTune"), "metadata": metadata})) == paths


def test_a_status_is_stored_as_it_was_read() -> None:
    status = load(FineTuneStatus, read(STATUS))
    assert status.model_dump(mode="json", by_alias=True, exclude_unset=True) == read(STATUS)


def test_a_loss_curve_has_no_more_points_than_etcd_should_hold() -> None:
    points = [{"step": step, "loss": 1.0} for step in range(MAX_LOSS_POINTS + 1)]
    assert len(load(FineTuneStatus, {"lossCurve": points[:-1]}).loss_curve) == MAX_LOSS_POINTS == 64
    with pytest.raises(InvalidConfig):
        load(FineTuneStatus, {"lossCurve": points})


@pytest.mark.parametrize(
    "phase",
    ["Pending", "Queued", "Preparing", "Training", "Evaluating", "Storing", "Succeeded", "Failed", "Suspended"],
)
def test_the_phases_are_those_of_the_design(phase: str) -> None:
    assert load(FineTuneStatus, {"phase": phase}).phase == phase


def test_a_phase_of_another_name_is_refused() -> None:
    with pytest.raises(InvalidConfig):
        load(FineTuneStatus, {"phase": "Running"})


def test_the_conditions_are_those_of_the_design() -> None:
    assert [str(condition) for condition in FineTuneCondition] == [
        "SpecValid",
        "Running",
        "ArtifactsStored",
        "Succeeded",
    ]


def test_another_version_or_kind_is_not_taken_for_this_one() -> None:
    manifest = build_manifest("LLMFineTune")
    assert paths_of(issues_of_manifest({**manifest, "apiVersion": "llmoperator.dev/v1"})) == ["apiVersion"]
    assert paths_of(issues_of_manifest({**manifest, "kind": "LLMTune"})) == ["kind"]
    assert paths_of(issues_of_manifest({key: manifest[key] for key in manifest if key != "spec"})) == ["spec"]
