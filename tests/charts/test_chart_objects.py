"""What the chart renders is what a real API server takes, and what the operator needs and no more."""

import json
from typing import Any

import pytest
from llm_operator.options import Options, load_all
from llm_operator.settings import PREFIX, Settings

from tests.support.charts import (
    EVERYTHING,
    NAMESPACE,
    RELEASE,
    Values,
    of_kind,
    operator_container,
    operator_env,
    render,
    the,
)
from tests.support.cluster.access import Access

FOREIGN_GROUPS = ("monitoring.coreos.com", "cert-manager.io")
EXISTING: Values = {
    "webhook": {"enabled": True, "certificate": {"source": "existing", "existingSecret": "mine", "caBundle": "Q0E="}}
}
CERT_MANAGER: Values = {"webhook": {"enabled": True, "certificate": {"source": "certManager"}}}
VARIANTS: dict[str, Values] = {
    "defaults": {},
    "everything": EVERYTHING,
    "some namespaces": {**EVERYTHING, "watchNamespaces": ["ml", "research"]},
    "certificate of one's own": EXISTING,
    "cert-manager": CERT_MANAGER,
    "no lease": {"leaderElection": {"enabled": False}},
    "no progress": {"progress": {"enabled": False}, "networkPolicy": {"enabled": True}},
}


@pytest.fixture(scope="module")
def namespaced(control_plane: Access) -> Access:
    """A control plane with the namespaces that the objects stand in."""
    names = [NAMESPACE, "ml", "research"]
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    control_plane.apply(
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}} for name in names)
    )
    # A controller makes this account, and there is none here.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": NAMESPACE}}
    control_plane.apply(account)
    return control_plane


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_api_server_takes_every_object_and_warns_of_none(namespaced: Access, variant: str) -> None:
    own = [one for one in render(VARIANTS[variant]) if not one["apiVersion"].startswith(FOREIGN_GROUPS)]
    items = json.dumps({"apiVersion": "v1", "kind": "List", "items": own})
    result = namespaced.run_kubectl(
        "create", "--dry-run=server", "--validate=strict", "--output=name", "-f", "-", stdin=items
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == len(own)
    assert result.stderr == ""


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_says_where_it_comes_from(variant: str) -> None:
    for manifest in render(VARIANTS[variant]):
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/name"] == "llm-operator"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_operator_understands_all_that_it_is_told(variant: str) -> None:
    container = operator_container(render(VARIANTS[variant]))
    names = {entry["name"].removeprefix(PREFIX).lower() for entry in container["env"] if PREFIX in entry["name"]}
    assert names - set(Options.model_fields) - set(Settings.__dataclass_fields__) == set()
    load_all(container.get("args", []), operator_env(render(VARIANTS[variant])))


def test_what_the_values_say_reaches_the_operator() -> None:
    values = {**EVERYTHING, "watchNamespaces": ["ml", "research"], "statusIntervalSeconds": 1.5, "extraArgs": []}
    options, settings = load_all([], operator_env(render(values)))
    assert settings == Settings(
        runner_image="llm-runner:0.1.0",
        runner_image_pull_secrets=("registry", "mirror"),
        vllm_image="vllm:1",
        watch_namespaces=("ml", "research"),
        progress_url=f"http://try-llm-operator.{NAMESPACE}.svc:8081/progress",
        status_interval_seconds=1.5,
    )
    assert options.leader_election
    assert options.lease_name == "try-llm-operator"
    assert str(options.webhook_cert_dir) == mount_path(render(values), "webhook-certificate")


def mount_path(manifests: list[dict[str, Any]], volume: str) -> str:
    mounts = operator_container(manifests)["volumeMounts"]
    return next(str(mount["mountPath"]) for mount in mounts if mount["name"] == volume)


def test_a_digest_counts_for_more_than_a_tag() -> None:
    digest = f"sha256:{'ab' * 32}"
    manifests = render({"image": {"repository": "registry.example/operator", "tag": "1", "digest": digest}})
    assert operator_container(manifests)["image"] == f"registry.example/operator@{digest}"


def test_the_ports_are_those_that_the_operator_listens_on() -> None:
    options, _ = load_all([], operator_env(render(EVERYTHING)))
    ports = {port["name"]: port["containerPort"] for port in operator_container(render(EVERYTHING))["ports"]}
    assert ports == {
        "status": options.status_port,
        "progress": options.progress_port,
        "webhook": options.webhook_port,
    }


def test_the_services_ports_lead_to_ports_of_the_operator() -> None:
    manifests = render(EVERYTHING)
    named = {port["name"] for port in operator_container(manifests)["ports"]}
    assert {port["targetPort"] for port in the(manifests, "Service")["spec"]["ports"]} == named


def test_without_a_lease_the_old_replica_ends_before_a_new_one_starts() -> None:
    manifests = render({"leaderElection": {"enabled": False}})
    assert the(manifests, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert [role for role in of_kind(manifests, "Role") if "leader" in role["metadata"]["name"]] == []


def test_the_webhook_is_asked_about_watched_namespaces_only() -> None:
    manifests = render({**CERT_MANAGER, "watchNamespaces": ["ml"]})
    (webhook,) = the(manifests, "ValidatingWebhookConfiguration")["webhooks"]
    (expression,) = webhook["namespaceSelector"]["matchExpressions"]
    assert expression == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["ml"]}
    assert webhook["failurePolicy"] == "Ignore"


def test_cert_manager_is_asked_for_the_name_that_the_api_server_calls() -> None:
    manifests = render(CERT_MANAGER)
    webhook = the(manifests, "ValidatingWebhookConfiguration")
    service = webhook["webhooks"][0]["clientConfig"]["service"]
    certificate = the(manifests, "Certificate")
    assert f"{service['name']}.{service['namespace']}.svc" in certificate["spec"]["dnsNames"]
    assert webhook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"] == (
        f"{NAMESPACE}/{certificate['metadata']['name']}"
    )
    volumes = the(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert certificate["spec"]["secretName"] in [volume.get("secret", {}).get("secretName") for volume in volumes]
