"""The webhook's certificate, as the chart makes it, is one that the API server trusts under the name that it calls."""

import base64
import json
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from llm_operator.webhook import Certificate

from tests.support.charts import NAMESPACE, Manifest, render, the

HOST = f"try-llm-operator.{NAMESPACE}.svc"


@pytest.fixture(scope="module")
def manifests() -> list[Manifest]:
    return render({"webhook": {"enabled": True}})


@pytest.fixture
def server_context(manifests: list[Manifest], tmp_path: Path) -> ssl.SSLContext:
    """As the operator loads what is mounted of the Secret."""
    secret, deployment = the(manifests, "Secret"), the(manifests, "Deployment")
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    (mounted,) = (volume["secret"] for volume in volumes if "secret" in volume)
    assert mounted["secretName"] == secret["metadata"]["name"]
    for item in mounted["items"]:
        (tmp_path / item["path"]).write_bytes(base64.b64decode(secret["data"][item["key"]]))
    return Certificate(tmp_path).context


def client_context(manifests: list[Manifest]) -> ssl.SSLContext:
    """As the API server trusts: the webhook's bundle and nothing else."""
    bundle = the(manifests, "ValidatingWebhookConfiguration")["webhooks"][0]["clientConfig"]["caBundle"]
    return ssl.create_default_context(cadata=base64.b64decode(bundle).decode())


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> dict[str, Any]:
    """What the client sees of the server's certificate; raises SSLError if it doesn't trust it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=answer, args=(server, theirs))
        thread.start()
        try:
            with client.wrap_socket(ours, server_hostname=host) as connection:
                seen: dict[str, Any] = dict(connection.getpeercert() or {})
        finally:
            thread.join()
    return seen


def answer(context: ssl.SSLContext, connection: socket.socket) -> None:
    try:
        context.wrap_socket(connection, server_side=True).close()
    except OSError:
        connection.close()


@pytest.mark.parametrize("host", [HOST, f"{HOST}.cluster.local"])
def test_the_certificate_is_trusted_under_the_services_name(
    manifests: list[Manifest], server_context: ssl.SSLContext, host: str
) -> None:
    seen = shake_hands(server_context, client_context(manifests), host)
    assert ("DNS", HOST) in seen["subjectAltName"]


def test_the_certificate_is_not_trusted_under_another_name(
    manifests: list[Manifest], server_context: ssl.SSLContext
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server_context, client_context(manifests), "another.svc")


def test_the_key_of_the_authority_is_kept_nowhere(manifests: list[Manifest]) -> None:
    secret = the(manifests, "Secret")
    assert secret["data"].keys() == {"ca.crt", "tls.crt", "tls.key"}
    key = base64.b64decode(secret["data"]["tls.key"]).decode()
    others = json.dumps([one for one in manifests if one["kind"] != "Secret"])
    assert "PRIVATE KEY" in key
    assert "PRIVATE KEY" not in others
