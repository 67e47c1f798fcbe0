"""LLMInference: serving and batches as the design shows them, their bounds, and the status as it is stored."""

import pytest
from llm_api.inference import InferenceCondition, InferenceStatus, LLMInference
from llm_api.issues import InvalidConfig, load
from llm_api.load import load_resource

from tests.support.documents import build_manifest, issues_of_manifest, paths_of, read

SERVE = """
model: {fineTuneRef: {name: support-bot}}
config:
  prompt: {template: "{question}"}
  generation: {max_new_tokens: 64, temperature: 0}
  quantization: {bits: 8}
  output_features: [{name: response, type: text}]
credentials: {s3: {secretRef: {name: s3}}}
compute: {accelerators: {count: 1}}
serve:
  replicas: 2
  engine: transformers
  maxConcurrency: 16
  apiKey: {secretRef: {name: keys, key: serving}}
  autoscaling: {minReplicas: 1, maxReplicas: 4, target: {metric: queueDepth, value: 8}}
"""

BATCH = """
serve: null
model: {uri: s3://models/support-bot}
config: {generation: {num_beams: 4}}
batch:
  dataset: {uri: s3://data/questions.jsonl}
  output: {uri: s3://data/predictions.parquet}
  shards: 4
"""

STATUS = """
observedGeneration: 1
phase: Serving
conditions:
- {type: Ready, status: "True", lastTransitionTime: "2026-01-01T00:00:00Z", reason: Running, message: ""}
model: support-bot
replicas: 1
readyReplicas: 1
ready: 1/1
selector: app=support-bot
url: http://support-bot.default.svc:8000
artifact: {uri: s3://models/support-bot, digest: sha256:abc}
progress: {rows: 40, of: 100, percent: 40%, shardsSucceeded: 1, eta: 5m}
"""


def inference_issues(spec: str) -> list[str]:
    return paths_of(issues_of_manifest(build_manifest("LLMInference", spec)))


@pytest.mark.parametrize("spec", [SERVE, BATCH], ids=["serve", "batch"])
def test_everything_that_the_design_shows_is_accepted(spec: str) -> None:
    assert isinstance(load_resource(build_manifest("LLMInference", spec)), LLMInference)


def test_the_defaults_of_a_server_are_those_of_the_design() -> None:
    resource = load_resource(build_manifest("LLMInference"))
    assert isinstance(resource, LLMInference)
    serve = resource.spec.serve
    assert serve is not None
    assert (serve.replicas, serve.engine, serve.api_key, serve.autoscaling) == (1, "transformers", None, None)


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        ("config: {base_model: acme/small}", []),
        ("config: (left out)\nmodel: {fineTuneRef: {name: bot}}", []),
        ("config: null\nmodel: {uri: hf://acme/bot}", []),
        ("config: {}", ["spec.model"]),
        ("config: {}\nmodel: null", ["spec.model"]),
        ("model: {fineTuneRef: {}}", ["spec.model.fineTuneRef.name"]),
        ("model: {fineTuneRef: support-bot}", ["spec.model.fineTuneRef"]),
        ("model: {uri: acme/bot}", ["spec.model.uri"]),
        ("model: {uri: https://acme.org/bot}", ["spec.model.uri"]),
    ],
)
def test_some_model_answers_by_reference_address_or_name(spec: str, paths: list[str]) -> None:
    assert inference_issues(spec) == paths


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("serve: {replicas: -1}", "serve.replicas"),
        ("serve: {engine: tgi}", "serve.engine"),
        ("serve: {maxConcurrency: 0}", "serve.maxConcurrency"),
        ("serve: {apiKey: {secretRef: {}}}", "serve.apiKey.secretRef.name"),
        ("serve: {apiKey: secret}", "serve.apiKey"),
        (
            "serve: {autoscaling: {maxReplicas: 0, target: {metric: queueDepth, value: 1}}}",
            "serve.autoscaling.maxReplicas",
        ),
        ("serve: {autoscaling: {maxReplicas: 2, target: {metric: cpu, value: 1}}}", "serve.autoscaling.target.metric"),
        ("serve: {autoscaling: {maxReplicas: 2}}", "serve.autoscaling.target"),
        ("serve: {port: 80}", "serve.port"),
    ],
)
def test_a_server_key_that_is_out_of_its_bounds_is_told_by_its_path(spec: str, path: str) -> None:
    assert inference_issues(spec) == [f"spec.{path}"]


@pytest.mark.parametrize(
    ("batch", "path"),
    [
        ("{output: {uri: s3://a/b.csv}}", ".dataset"),
        ("{dataset: {uri: s3://a/b}}", ".output"),
        ("{dataset: {}, output: {uri: s3://a/b.csv}}", ".dataset"),
        ("{dataset: {uri: s3://a/b}, output: {uri: s3://a/b.xlsx}}", ".output"),
        ("{dataset: {uri: s3://a/b}, output: {uri: s3://a/b.csv}, shards: 0}", ".shards"),
        ("{dataset: {uri: s3://a/b}, output: {uri: s3://a/b.csv}, shards: 1001}", ".shards"),
    ],
)
def test_a_batch_key_that_is_out_of_its_bounds_is_told_by_its_path(batch: str, path: str) -> None:
    assert inference_issues(f"serve: null\nbatch: {batch}") == [f"spec.batch{path}"]


def test_no_replicas_is_a_number_of_replicas() -> None:
    assert inference_issues("serve: {replicas: 0}") == []


def test_a_status_is_stored_as_it_was_read() -> None:
    status = load(InferenceStatus, read(STATUS))
    assert status.model_dump(mode="json", by_alias=True, exclude_unset=True) == read(STATUS)


def test_a_phase_of_another_name_is_refused() -> None:
    with pytest.raises(InvalidConfig):
        load(InferenceStatus, {"phase": "Up"})


def test_the_conditions_of_the_design_are_there() -> None:
    assert {"SpecValid", "ModelReady", "Available", "Ready"} <= {str(condition) for condition in InferenceCondition}
