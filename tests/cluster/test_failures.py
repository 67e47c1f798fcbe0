"""What stands in a run's way, or ends it, is named on the resource: each provoked for real, all side by side.

The messages are for people: each says what was found and what to do about it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, add_volume, build_secret
from tests.support.models import llama_config, save_model
from tests.support.tuning import TINY, Watched, build_fine_tune, build_questions

pytestmark = pytest.mark.timeout(1800)
"""The first of them waits for images to be built."""

RESULTS = "results"
BLOCKED_SECONDS = 120
ENDED_SECONDS = 420
EVENT_SECONDS = 60


@dataclass(frozen=True)
class Trouble:
    """A spec, and what is said of it."""

    spec: Mapping[str, Any]
    condition: str
    reason: str
    says: tuple[str, ...]
    """Words that help, in the condition's message."""
    objects: tuple[dict[str, Any], ...] = field(default=())
    """What is there besides, without a namespace."""


def with_secret(name: str) -> dict[str, Any]:
    return {"credentials": {"s3": {"secretRef": {"name": name}}}}


def with_trainer(**keys: Any) -> dict[str, Any]:
    return {"config": {"trainer": keys}}


EMPTY_SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "no-keys"}, "stringData": {"other": "x"}}
WRONG_IMAGE = {"spec": {"containers": [{"name": "runner", "image": "localhost/nowhere:1"}]}}

BLOCKED: dict[str, Trouble] = {
    "accelerator": Trouble(
        {"compute": {"accelerators": {"count": 1}}}, "Running", "Unschedulable", ("nvidia.com/gpu", "ask for less")
    ),
    "memory": Trouble(
        {"compute": {"resources": {"requests": {"memory": "900Gi"}}}}, "Running", "Unschedulable", ("memory",)
    ),
    "node-selector": Trouble(
        {"compute": {"podTemplate": {"spec": {"nodeSelector": {"pool": "gpu"}}}}},
        "Running",
        "Unschedulable",
        ("nodeSelector",),
    ),
    "image": Trouble({"compute": {"podTemplate": WRONG_IMAGE}}, "Running", "ImagePull", ("localhost/nowhere:1",)),
    "secret": Trouble(with_secret("nobody"), "Running", "SecretNotFound", ("nobody", "create it")),
    "secret-key": Trouble(
        with_secret("no-keys"), "Running", "SecretNotFound", ("AWS_ACCESS_KEY_ID", "no-keys"), (EMPTY_SECRET,)
    ),
    "volume": Trouble(
        {"model": {"volume": {"claimName": "nowhere"}}}, "Running", "VolumeNotFound", ("nowhere", "create it")
    ),
    "config-map": Trouble(
        {"dataset": {"train": {"uri": None, "configMap": {"name": "rows", "key": "rows.csv"}}}},
        "Running",
        "ConfigMapNotFound",
        ("rows", "create it"),
    ),
    "deep-config": Trouble(
        {"config": {"prompt": {"template": "{question"}}},
        "SpecValid",
        "Invalid",
        ("spec.config.prompt.template",),
    ),
}
ENDED: dict[str, Trouble] = {
    "column": Trouble(
        {"config": {"input_features": [{"name": "inquiry", "type": "text"}]}},
        "Succeeded",
        "DataInvalid",
        ("inquiry", "question"),
    ),
    "no-file": Trouble(
        {"dataset": {"train": {"uri": "s3://datasets/nothing.jsonl"}}}, "Succeeded", "DataInvalid", ("nothing.jsonl",)
    ),
    "base-model": Trouble(
        {"config": {"base_model": "s3://models/nothing-here"}}, "Succeeded", "ModelNotFound", ("nothing-here",)
    ),
    "base-model-access": Trouble(
        {
            "config": {"base_model": "s3://models/closed"},
            "dataset": {"train": {"uri": None, "configMap": {"name": "questions", "key": "questions.jsonl"}}},
            "output": {"uri": None, "volume": {"claimName": RESULTS, "path": "closed"}},
            **with_secret("wrong"),
        },
        "Succeeded",
        "ModelAccessDenied",
        ("s3://models/closed", "credentials.s3"),
        (
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "questions"},
                "data": {"questions.jsonl": build_questions(8).decode()},
            },
        ),
    ),
    "targets": Trouble(
        {"config": {"adapter": {"target_modules": ["wq"]}}}, "Succeeded", "TargetModulesNotFound", ("wq", "q_proj")
    ),
    "wrong-key": Trouble(
        with_secret("wrong"),
        "Succeeded",
        "OutputNotWritable",
        ("s3://models/", "credentials.s3"),
        (build_secret("", "wrong", AWS_SECRET_ACCESS_KEY="not-it"),),
    ),
    "diverges": Trouble(
        {"config": {"trainer": {"learning_rate": 1.0, "train_steps": 60, "optimizer": {"type": "sgd"},
                                "gradient_clipping": {"clipglobalnorm": None}},
                    "adapter": {"alpha": 1_000_000}}},
        "Succeeded",
        "Diverged",
        ("learning_rate",),
    ),
    "gate": Trouble({"gate": {"metric": "loss", "max": 0.0001}}, "Succeeded", "GateNotMet", ("0.0001",)),
    "host-memory": Trouble(
        {"compute": {"resources": {"limits": {"memory": "96Mi"}}}, "run": {"maxRetries": 0}},
        "Succeeded",
        "OutOfMemory",
        ("memory",),
    ),
    "estimated-memory": Trouble(
        {"compute": {"resources": {"limits": {"memory": "850Mi"}}}}, "Succeeded", "OutOfMemory", ("needs about", "Try")
    ),
    "deadline": Trouble(
        {**with_trainer(train_steps=100_000), "run": {"deadlineSeconds": 45}},
        "Succeeded",
        "DeadlineExceeded",
        ("deadlineSeconds",),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def namespace(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> str:
    """All troubles at once."""
    folder: Path = save_model(tmp_path_factory.mktemp("model") / TINY, llama_config())
    installation.add_model(TINY, folder)
    installation.put("datasets", "questions.jsonl", build_questions(40))
    namespace = installation.make_namespace()
    results: Path = tmp_path_factory.mktemp("results")
    results.chmod(0o777)
    add_volume(installation.cluster, namespace, results, RESULTS, "ReadWriteMany")
    for name, trouble in {**BLOCKED, **ENDED}.items():
        for one in trouble.objects:
            installation.cluster.apply({**one, "metadata": {**one["metadata"], "namespace": namespace}})
        installation.cluster.apply(build_fine_tune(installation, namespace, name, **trouble.spec))
    return namespace


@pytest.mark.parametrize("name", [*BLOCKED, *ENDED])
def test_a_trouble_is_named_with_what_to_do_about_it(installation: Installation, namespace: str, name: str) -> None:
    trouble = {**BLOCKED, **ENDED}[name]
    watched = Watched(installation, namespace, name)
    seconds = BLOCKED_SECONDS if name in BLOCKED else ENDED_SECONDS
    watched.wait_until(
        lambda _status: is_false_for(watched.condition(trouble.condition), trouble.reason),
        f"{trouble.condition} for reason {trouble.reason}",
        seconds,
    )
    condition = watched.condition(trouble.condition)
    assert [word for word in trouble.says if word not in condition["message"]] == []
    # An event follows the status that it is about.
    watched.wait_until(lambda _status: is_told(watched, trouble.reason), f"told: {trouble.reason}", EVENT_SECONDS)


def is_told(watched: Watched, reason: str) -> bool:
    return any(reason in event or reason in message for event, message in watched.events())


def is_false_for(condition: Mapping[str, Any], reason: str) -> bool:
    return (condition.get("status"), condition.get("reason")) == ("False", reason)


def test_a_users_mistake_is_tried_once(installation: Installation, namespace: str) -> None:
    """After the others: by then those that end have ended."""
    ended = {name: Watched(installation, namespace, name) for name in ("column", "base-model", "targets", "gate")}
    assert {name: len(one.status["attempts"]) for name, one in ended.items()} == dict.fromkeys(ended, 1)


def test_what_was_in_the_way_can_be_mended_and_the_run_goes_on(installation: Installation, namespace: str) -> None:
    installation.cluster.apply(build_secret(namespace, "nobody"))
    Watched(installation, namespace, "secret").wait_for("Succeeded", ENDED_SECONDS)


def test_a_quota_that_is_used_up_is_named(installation: Installation) -> None:
    namespace = installation.make_namespace()
    quota = {"metadata": {"name": "small", "namespace": namespace}, "spec": {"hard": {"pods": "0"}}}
    installation.cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    installation.cluster.apply(build_fine_tune(installation, namespace, "bounded"))
    watched = Watched(installation, namespace, "bounded")
    watched.wait_until(
        lambda _status: watched.condition("Running").get("reason") == "QuotaExceeded", "QuotaExceeded", BLOCKED_SECONDS
    )
    assert "small" in watched.condition("Running")["message"]


def test_a_broken_rule_is_refused_at_apply_with_its_message(installation: Installation) -> None:
    namespace = installation.make_namespace()
    manifest = build_fine_tune(installation, namespace, "refused", output={"volume": {"claimName": "too"}})
    refused = installation.cluster.run_kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    assert refused.returncode == 1
    assert "write exactly one of uri and volume" in refused.stderr
