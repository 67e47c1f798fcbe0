"""What the runner can't do yet is said in SpecValid before anything is started, by path and with what to write."""

from typing import Any

import pytest
from llm_operator.observed import ObservedFineTune, ObservedInference
from llm_operator.reconcile.inference import plan_inference
from llm_operator.settings import Settings

from tests.support.fine_tunes import NOW, condition, fine_tune, of_kind, plan
from tests.support.inferences import PREDICTS, SERVES, inference, tuned

SETTINGS = Settings(runner_image="runner")


def spec_valid_of_inference(spec: dict[str, Any]) -> tuple[str, str]:
    planned = plan_inference(ObservedInference(document=inference(spec), fine_tune=tuned()), SETTINGS, NOW)
    status, _, message = condition(planned.status, "SpecValid")
    assert bool(planned.apply) == (status == "True")
    return status, message


def test_a_run_is_given_as_many_nodes_and_accelerators_as_it_asks_for() -> None:
    planned = plan(ObservedFineTune(document=fine_tune({"compute": {"nodes": 2, "accelerators": {"count": 8}}})))
    assert condition(planned.status, "SpecValid")[0] == "True"
    job = of_kind(planned, "Job")["spec"]
    assert (job["completions"], job["parallelism"]) == (2, 2)


@pytest.mark.parametrize(
    ("spec", "path", "instead"),
    [
        ({**SERVES, "compute": {"nodes": 2}}, "spec.compute.nodes", "spec.serve.replicas"),
        ({**PREDICTS, "compute": {"nodes": 2}}, "spec.compute.nodes", "spec.batch.shards"),
        ({**SERVES, "compute": {"accelerators": {"count": 2}}}, "spec.compute.accelerators.count", "engine: vllm"),
        ({**PREDICTS, "compute": {"accelerators": {"count": 2}}}, "spec.compute.accelerators.count", "shards"),
    ],
)
def test_an_inference_is_told_what_to_use_instead(spec: dict[str, Any], path: str, instead: str) -> None:
    status, message = spec_valid_of_inference(spec)
    assert status == "False"
    assert message.startswith(f"{path}: ")
    assert instead in message


def test_vllm_uses_as_many_accelerators_as_it_is_given() -> None:
    spec = {**SERVES, "serve": {"engine": "vllm"}, "compute": {"accelerators": {"count": 4}}}
    assert spec_valid_of_inference(spec)[0] == "True"


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"quantization": {"bits": 8}}, "quantization.bits"),
        ({"generation": {"num_beams": 4}}, "generation.num_beams"),
        ({"prompt": {"template": "{question}"}}, "prompt"),
        ({"adapter": {"type": "ia3", "pretrained_adapter_weights": "a/b"}}, "adapter.type"),
    ],
)
def test_what_vllm_can_not_do_is_refused_before_a_pod_is_started(config: dict[str, Any], path: str) -> None:
    status, message = spec_valid_of_inference({**SERVES, "config": config, "serve": {"engine": "vllm"}})
    assert status == "False"
    assert message.startswith(f"spec.config.{path}: ")
    assert "or write engine: transformers in spec.serve" in message


def test_a_run_under_way_is_left_alone_when_its_spec_asks_for_what_can_not_be() -> None:
    """Eight rows can't be shared out evenly over three nodes."""
    document = fine_tune({"compute": {"nodes": 3}, "config": {"trainer": {"batch_size": 8}}})
    document["status"] = {"phase": "Training", "run": {"name": "bot-12345678", "resultHash": "12345678"}}
    planned = plan(ObservedFineTune(document=document))
    assert (planned.apply, planned.delete, planned.patch) == ((), (), ())
    assert planned.status is not None
    assert planned.status["phase"] == "Training"
    assert "8 rows for 3 devices; 9 would do" in condition(planned.status, "SpecValid")[2]
