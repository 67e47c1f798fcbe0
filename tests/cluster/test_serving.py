"""A fine-tune's model behind an endpoint in pods, asked by OpenAI's own client from another pod."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Clients
from tests.support.installation import S3_SECRET, Installation, build_secret
from tests.support.servers import save_chat_model
from tests.support.tuning import Watched, build_fine_tune, build_questions

pytestmark = pytest.mark.timeout(1800)
"""The first of them waits for images to be built."""

CHAT = "chat"
"""A model of random weights that can be chatted with."""
READY_SECONDS = 300
KEY_SECRET, KEY = "endpoint-key", "only-for-tests"
CONNECT = f"""
import json, time
from openai import OpenAI
client = OpenAI(base_url="http://answers:8000/v1", api_key="{KEY}", max_retries=0, timeout=60)
"""
ASK = """
names = [model.id for model in client.models.list()]
turn = [{"role": "user", "content": "what comes after 3?"}]
whole = client.chat.completions.create(model="answers", messages=turn, max_tokens=8, temperature=0)
stream = client.chat.completions.create(model="answers", messages=turn, max_tokens=8, temperature=0, stream=True)
pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
text = client.completions.create(model="answers", prompt="what", max_tokens=4)
print(json.dumps({"names": names, "whole": whole.choices[0].message.content, "streamed": "".join(pieces),
                  "tokens": text.usage.completion_tokens}))
"""
LOAD = """
import signal, threading
answered, failures, enough = [], [], threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: enough.set())
def ask():
    while not enough.is_set():
        try:
            client.completions.create(model="answers", prompt="what comes", max_tokens=4)
            answered.append(1)
        except Exception as error:
            failures.append(repr(error))
threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps({"answered": len(answered), "failures": failures[:5]}))
"""
STOP_LOAD = "import os, signal; os.kill(1, signal.SIGUSR1)"
SERVERS = 2


def build_inference(installation: Installation, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    s3 = {"secretRef": {"name": S3_SECRET}, "endpointUrl": installation.s3.endpoint_url, "region": "us-east-1"}
    return {
        "apiVersion": "llmoperator.dev/v1alpha1",
        "kind": "LLMInference",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"fineTuneRef": {"name": "bot"}},
            "credentials": {"s3": s3},
            "compute": {"resources": {"requests": {"cpu": "200m"}}},
            **spec,
        },
    }


class Served(Watched):
    kind = "llminf"

    def wait_for_new_servers(self, before: Mapping[str, Any]) -> None:
        """Ready again, with other servers than those of ``before``."""
        self.wait_until(
            lambda status: (
                self.digest_of(status) != self.digest_of(before) and self.condition("Ready").get("status") == "True"
            ),
            "served anew",
            READY_SECONDS,
        )

    @staticmethod
    def digest_of(status: Mapping[str, Any]) -> Any:
        return status.get("artifact", {}).get("digest")


@pytest.fixture(scope="module")
def namespace(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = save_chat_model(tmp_path_factory.mktemp("model") / CHAT)
    installation.add_model(CHAT, folder)
    installation.put("datasets", "questions.jsonl", build_questions(40, words=2))
    namespace = installation.make_namespace()
    key = build_secret(namespace, KEY_SECRET)
    installation.cluster.apply({**key, "stringData": {"key": KEY}})
    return namespace


@pytest.fixture(scope="module")
def clients(installation: Installation, namespace: str) -> Clients:
    return Clients(installation.cluster, namespace)


@pytest.fixture(scope="module")
def served(installation: Installation, namespace: str) -> Served:
    """Applied before its model is there, as GitOps tools do."""
    serve = {"replicas": SERVERS, "apiKey": {"secretRef": {"name": KEY_SECRET, "key": "key"}}}
    tune = build_fine_tune(installation, namespace, "bot", config={"base_model": CHAT})
    installation.cluster.apply(build_inference(installation, namespace, "answers", serve=serve))
    served = Served(installation, namespace, "answers")
    served.wait_until(
        lambda _: served.condition("ModelReady").get("reason") == "FineTuneNotFound", "waiting for its fine-tune", 60
    )
    installation.cluster.apply(tune)
    served.wait_until(
        lambda _: served.condition("ModelReady").get("reason") == "FineTuneNotFinished", "waiting for its model", 60
    )
    served.wait_for("Ready", READY_SECONDS)
    return served


def test_the_openai_client_in_another_pod_is_answered(served: Served, clients: Clients) -> None:
    clients.start("asks", CONNECT + ASK)
    said = json.loads(clients.finish("asks"))
    assert said["names"] == ["answers", CHAT]
    assert said["whole"] == said["streamed"]
    assert said["tokens"] == 4


def test_people_see_where_it_answers(installation: Installation, served: Served) -> None:
    header, row = installation.cluster.kubectl("get", "llminf", "-n", served.namespace).splitlines()
    assert header.split() == ["NAME", "PHASE", "MODEL", "READY", "URL", "AGE"]
    assert row.split()[:5] == [
        "answers", "Serving", "bot", f"{SERVERS}/{SERVERS}", f"http://answers.{served.namespace}.svc:8000"
    ]  # fmt: skip


def test_a_new_artifact_is_rolled_out_to_all_servers_without_a_failed_request(
    installation: Installation, namespace: str, served: Served, clients: Clients
) -> None:
    before = served.status
    clients.start("load", CONNECT + LOAD)
    Watched(installation, namespace, "bot").patch({"config": {"trainer": {"learning_rate": 0.002}}})
    served.wait_for_new_servers(before)
    installation.cluster.kubectl("exec", "load", "-n", namespace, "--", "python3", "-c", STOP_LOAD)
    said = json.loads(clients.finish("load"))
    assert said["failures"] == []
    assert said["answered"] > 50


def test_it_is_scaled_to_none_and_back(installation: Installation, served: Served) -> None:
    scale = ("scale", "llminf/answers", "-n", served.namespace)
    installation.cluster.kubectl(*scale, "--replicas=0")
    served.wait_until(lambda status: status["phase"] == "Suspended", "without servers", 120)
    installation.cluster.kubectl(*scale, f"--replicas={SERVERS}")
    served.wait_for("Ready", READY_SECONDS)
