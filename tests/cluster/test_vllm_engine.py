"""A fine-tune's model handed to vLLM in a real pod. Its image isn't run here: another program stands in its place,
which shows what vLLM would be given."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.support.installation import S3_SECRET, Installation, build_secret
from tests.support.models import llama_config, save_model
from tests.support.tuning import Watched, build_fine_tune, build_questions
from tests.support.vllm import check_options, flatten_file, read_options

pytestmark = pytest.mark.timeout(1800)
"""The first of them waits for images to be built."""

MODEL = "for-vllm"
KEY_SECRET, KEY = "vllm-key", "only-for-tests"
SECONDS = 300
STAND_IN = """
import json, os, pathlib, sys, time, yaml
text = pathlib.Path(sys.argv[1 + sys.argv[1:].index("--config") + 1]).read_text()
settings = yaml.safe_load(text)
module = json.loads(settings["lora-modules"][0])
print(json.dumps({
    "settings": text, "arguments": sys.argv[1:], "has_key": "VLLM_API_KEY" in os.environ,
    "adapter": os.listdir(module["path"]), "base": os.listdir(settings["model"]),
}), flush=True)
time.sleep(3600)
"""


class Served(Watched):
    kind = "llminf"

    def log(self) -> str:
        """Of the server; empty while it isn't started."""
        selector = f"llmoperator.dev/inference={self.name}"
        return self._cluster.run_kubectl("logs", "-n", self.namespace, "-l", selector, "-c", "runner").stdout


def build_inference(installation: Installation, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    runner = {"name": "runner", "image": installation.images["runner"].name, "command": ["python3", "-c", STAND_IN]}
    s3 = {"secretRef": {"name": S3_SECRET}, "endpointUrl": installation.s3.endpoint_url, "region": "us-east-1"}
    return {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMInference",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "credentials": {"s3": s3},
            "compute": {
                "resources": {"requests": {"cpu": "100m"}},
                "podTemplate": {"spec": {"containers": [runner]}},
            },
            "serve": {"engine": "vllm", "apiKey": {"secretRef": {"name": KEY_SECRET, "key": "key"}}},
            **spec,
        },
    }


@pytest.fixture(scope="module")
def namespace(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> str:
    installation.add_model(MODEL, save_model(tmp_path_factory.mktemp("model") / MODEL, llama_config()))
    installation.put("datasets", "questions.jsonl", build_questions(40, words=2))
    namespace = installation.make_namespace()
    installation.cluster.apply({**build_secret(namespace, KEY_SECRET), "stringData": {"key": KEY}})
    adapters: Mapping[str, Any] = {"plain": {"type": "lora"}, "biased": {"type": "lora", "bias_type": "all"}}
    for name, adapter in adapters.items():
        config = {"base_model": MODEL, "adapter": adapter}
        installation.cluster.apply(build_fine_tune(installation, namespace, name, config=config))
        installation.cluster.apply(
            build_inference(installation, namespace, f"{name}-served", model={"fineTuneRef": {"name": name}})
        )
    return namespace


def test_the_server_finds_base_adapter_and_settings_in_its_pod(installation: Installation, namespace: str) -> None:
    served = Served(installation, namespace, "plain-served")
    served.wait_until(lambda _: served.condition("ModelReady").get("status") == "True", "its model is tuned", SECONDS)
    served.wait_until(lambda _: '"settings"' in served.log(), "handed its model", SECONDS)
    shown = json.loads(served.log().splitlines()[-1])
    settings = yaml.safe_load(shown["settings"])
    check_options(read_options(flatten_file(settings)))
    (module,) = map(json.loads, settings["lora-modules"])
    assert (module["name"], settings["served-model-name"]) == ("plain-served", MODEL)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(shown["adapter"])
    assert "model.safetensors" in shown["base"]
    assert shown["has_key"]
    assert KEY not in json.dumps(shown)
    check_options(read_options(shown["arguments"]))


def test_an_adapter_that_vllm_can_not_serve_is_told_in_the_condition(
    installation: Installation, namespace: str
) -> None:
    served = Served(installation, namespace, "biased-served")
    served.wait_until(
        lambda _: served.condition("Available").get("reason") == "ConfigInvalid", "refused with the reason", SECONDS
    )
    message = served.condition("Available")["message"]
    assert "it trains biases (bias: all)" in message
    assert "engine: transformers" in message
