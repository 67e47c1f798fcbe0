import base64
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_operator.webhook import Certificate, review_admission

from tests.support.cluster.certificates import Authority
from tests.support.cluster.control_plane import ControlPlane
from tests.support.operator_process import OperatorProcess, run_operator, wait_until
from tests.support.repository import ROOT
from tests.support.world import World


def manifest(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "finetune.yaml").read_text())
    document["spec"]["config"].update(changes)
    return document


def review(document: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    return review_admission({"uid": "1", "object": document, "oldObject": before})


def test_a_good_manifest_is_let_through() -> None:
    assert review(manifest()) == {"uid": "1", "allowed": True}


def test_every_mistake_is_named_with_its_field() -> None:
    answer = review(manifest(trainer={"type": "finetune", "epochs": 0}, quantization={"bits": 3}))
    assert not answer["allowed"]
    fields = [cause["field"] for cause in answer["status"]["details"]["causes"]]
    assert fields == ["spec.config.quantization.bits", "spec.config.trainer.epochs"]
    assert answer["status"]["code"] == 422
    assert all(field in answer["status"]["message"] for field in fields)


def test_a_pod_template_is_looked_into() -> None:
    document = manifest()
    document["spec"]["compute"] = {"podTemplate": {"spec": {"nodeSelectr": {}}}}
    causes = review(document)["status"]["details"]["causes"]
    assert [cause["field"] for cause in causes] == ["spec.compute.podTemplate.spec.nodeSelectr"]


def test_a_pod_template_is_looked_into_though_the_config_is_wrong_too() -> None:
    document = manifest(quantization={"bits": 3})
    document["spec"]["compute"] = {"podTemplate": {"spec": {"nodeSelectr": {}}}}
    causes = review(document)["status"]["details"]["causes"]
    assert [cause["field"] for cause in causes] == [
        "spec.config.quantization.bits",
        "spec.compute.podTemplate.spec.nodeSelectr",
    ]


def test_what_is_only_odd_is_a_warning() -> None:
    odd = manifest(backend={"type": "local"})
    answer = review(odd)
    assert answer["allowed"]
    assert any("spec.config.backend is ignored" in warning for warning in answer["warnings"])


def test_an_old_resource_that_a_newer_operator_would_refuse_can_still_be_labelled_and_deleted() -> None:
    bad = manifest(quantization={"bits": 3})
    labelled = {**bad, "metadata": {**bad["metadata"], "labels": {"team": "a"}}}
    assert review(labelled, before=bad)["allowed"]
    going = {**manifest(quantization={"bits": 5})}
    going["metadata"] = {**going["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert review(going, before=bad)["allowed"]


def test_a_deletion_has_nothing_to_check() -> None:
    assert review_admission({"uid": "1", "object": None, "oldObject": manifest()})["allowed"]


def install(pair_folder: Path, authority: Authority, name: str) -> None:
    """As a kubelet updates a mounted Secret: all files at once, by a new link."""
    pair = authority.issue_server(name, ["127.0.0.1"])
    data = pair_folder / name
    data.mkdir(parents=True)
    (data / "tls.crt").write_bytes(pair.certificate_path.read_bytes())
    (data / "tls.key").write_bytes(pair.key_path.read_bytes())
    for file in ("tls.crt", "tls.key"):
        link = pair_folder / f"{file}.new"
        link.symlink_to(data / file)
        link.replace(pair_folder / file)


def test_a_certificate_that_was_renewed_is_used_for_new_connections(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    install(tmp_path / "tls", authority, "first")
    certificate = Certificate(tmp_path / "tls")
    first = served_certificate(certificate.context, authority)
    certificate.reload()
    assert served_certificate(certificate.context, authority) == first
    install(tmp_path / "tls", authority, "second")
    certificate.reload()
    assert served_certificate(certificate.context, authority) != first


def test_a_certificate_that_does_not_fit_its_key_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    install(tmp_path / "tls", authority, "first")
    certificate = Certificate(tmp_path / "tls")
    first = served_certificate(certificate.context, authority)
    (tmp_path / "tls" / "tls.crt").unlink()
    (tmp_path / "tls" / "tls.crt").write_text("nonsense")
    certificate.reload()
    assert served_certificate(certificate.context, authority) == first


class Guarded:
    """An operator whose webhook the API server asks about LLMFineTunes of one namespace."""

    def __init__(self, plane: ControlPlane, world: World, operator: OperatorProcess) -> None:
        self.world = world
        self.name = world.namespace
        authority = base64.b64encode(plane.authority.certificate_path.read_bytes()).decode()
        url = f"https://127.0.0.1:{operator.port('webhook')}/validate"
        label = {"kubernetes.io/metadata.name": world.namespace}
        rule = {
            "apiGroups": ["llmoperator.dev"],
            "apiVersions": ["v1alpha1"],
            "resources": ["llmfinetunes"],
            "operations": ["CREATE", "UPDATE"],
        }
        webhook = {
            "name": "validate.llmoperator.dev",
            "clientConfig": {"url": url, "caBundle": authority},
            "rules": [rule],
            "namespaceSelector": {"matchLabels": label},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "failurePolicy": "Fail",
        }
        plane.apply(
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingWebhookConfiguration",
                "metadata": {"name": self.name},
                "webhooks": [webhook],
            }
        )


@pytest.fixture
def guarded(plane: ControlPlane, world: World, tmp_path: Path) -> Iterator[Guarded]:
    install(tmp_path / "tls", plane.authority, f"webhook-{world.namespace}")
    flags = {"webhook_cert_dir": str(tmp_path / "tls"), "watch_namespaces": world.namespace}
    with run_operator(plane.kubeconfig, tmp_path, **flags) as operator:
        guarded = Guarded(plane, world, operator)
        yield guarded
        plane.kubectl("delete", "validatingwebhookconfiguration", guarded.name)


def test_kubectl_apply_says_every_mistake_that_only_the_operator_can_see(guarded: Guarded) -> None:
    trainer = {"type": "finetune", "batch_size": 8, "gradient_accumulation_steps": 1, "effective_batch_size": 7}
    text = json.dumps(manifest(prompt={"template": "Answer {question"}, trainer=trainer))

    def refusal() -> str:
        command = ["--namespace", guarded.world.namespace, "apply", "--dry-run=server", "-f", "-"]
        return guarded.world.plane.run_kubectl(*command, stdin=text).stderr

    # The API server takes a moment to learn of a webhook.
    wait_until(lambda: "is invalid" in refusal(), "the webhook asked")
    said = refusal()
    assert "* spec.config.prompt.template: the template's braces don't fit" in said
    assert "* spec.config.trainer.effective_batch_size: " in said


def served_certificate(context: ssl.SSLContext, authority: Authority) -> bytes | None:
    """What a client is shown, in memory."""
    client = ssl.create_default_context(cafile=str(authority.certificate_path))
    client.check_hostname = False
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = context.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server)
    for side in (client_side, server_side, client_side, server_side):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client_side.getpeercert(binary_form=True)
