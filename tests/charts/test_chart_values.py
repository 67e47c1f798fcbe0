"""Every value of the chart is documented, checked by the schema, and changes what is rendered."""

import base64
import copy
import json
import re
from typing import Any

import pytest
import yaml
from cryptography.x509 import load_pem_x509_certificate

from scripts.build_images import project_version
from tests.support.charts import CHART, HelmError, render, run_helm

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
TOPOLOGY = [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]
WEBHOOK = {"webhook.enabled": True}
EXISTING = {
    **WEBHOOK,
    "webhook.certificate.source": "existing",
    "webhook.certificate.existingSecret": "mine",
    "webhook.certificate.caBundle": "Q0E=",
}
CERT_MANAGER = {**WEBHOOK, "webhook.certificate.source": "certManager"}
PEERS = [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]
RULES = [{"alert": "Mine", "expr": "up == 0"}]

# Value -> another than the default, and what must be switched on for it to matter.
OTHER: dict[str, tuple[Any, dict[str, Any]]] = {
    "nameOverride": ("other", {}),
    "fullnameOverride": ("other", {}),
    "commonLabels": ({"team": "ml"}, {}),
    "image.repository": ("registry.example/operator", {}),
    "image.tag": ("9", {}),
    "image.digest": (f"sha256:{'0' * 64}", {}),
    "image.pullPolicy": ("Always", {}),
    "imagePullSecrets": ([{"name": "registry"}], {}),
    "runner.image.repository": ("registry.example/runner", {}),
    "runner.image.tag": ("9", {}),
    "runner.image.digest": (f"sha256:{'0' * 64}", {}),
    "runner.image.pullPolicy": ("Never", {}),
    "runner.imagePullSecrets": ([{"name": "registry"}, {"name": "other"}], {}),
    "runner.gracePeriodSeconds": (60, {}),
    "vllm.image": ("registry.example/vllm:1", {}),
    "watchNamespaces": (["ml", "research"], {}),
    "clusterDomain": ("cluster.example", {}),
    "statusIntervalSeconds": (1.5, {}),
    "cleanupDeadlineSeconds": (60, {}),
    "workers": (4, {}),
    "resyncSeconds": (60, {}),
    "replicas": (2, {}),
    "leaderElection.enabled": (False, {}),
    "log.format": ("text", {}),
    "log.level": ("debug", {}),
    "extraArgs": (["--workers=2"], {}),
    "extraEnv": ([{"name": "HTTPS_PROXY", "value": "http://proxy.example"}], {}),
    "crds.install": (False, {}),
    "crds.keep": (False, {}),
    "rbac.create": (False, {}),
    "rbac.aggregateToUserRoles": (False, {}),
    "serviceAccount.create": (False, {}),
    "serviceAccount.name": ("mine", {}),
    "serviceAccount.annotations": ({"example.com/role": "x"}, {}),
    "resources": ({"requests": {"cpu": "1"}}, {}),
    "podAnnotations": ({"example.com/a": "b"}, {}),
    "podLabels": ({"example.com/a": "b"}, {}),
    "podSecurityContext": ({"runAsUser": 1234}, {}),
    "nodeSelector": ({"kubernetes.io/arch": "amd64"}, {}),
    "tolerations": ([{"operator": "Exists"}], {}),
    "affinity": ({"nodeAffinity": {}}, {}),
    "topologySpreadConstraints": (TOPOLOGY, {}),
    "priorityClassName": ("system-cluster-critical", {}),
    "terminationGracePeriodSeconds": (5, {}),
    "podDisruptionBudget.enabled": (True, {}),
    "podDisruptionBudget.maxUnavailable": ("50%", {"podDisruptionBudget.enabled": True}),
    "service.annotations": ({"example.com/a": "b"}, {}),
    "service.progressPort": (80, {}),
    "service.statusPort": (81, {}),
    "progress.enabled": (False, {}),
    "webhook.enabled": (True, {}),
    "webhook.failurePolicy": ("Fail", EXISTING),
    "webhook.timeoutSeconds": (9, EXISTING),
    "webhook.certificate.source": ("certManager", EXISTING),
    "webhook.certificate.validityDays": (7, WEBHOOK),
    "webhook.certificate.existingSecret": ("other", EXISTING),
    "webhook.certificate.caBundle": ("T3RoZXI=", EXISTING),
    "webhook.certificate.issuerRef": ({"name": "ca", "kind": "ClusterIssuer"}, CERT_MANAGER),
    "metrics.serviceMonitor.enabled": (True, {}),
    "metrics.serviceMonitor.labels": ({"release": "prometheus"}, {"metrics.serviceMonitor.enabled": True}),
    "metrics.serviceMonitor.interval": ("5s", {"metrics.serviceMonitor.enabled": True}),
    "metrics.podMonitor.enabled": (True, {}),
    "metrics.podMonitor.labels": ({"release": "prometheus"}, {"metrics.podMonitor.enabled": True}),
    "metrics.podMonitor.interval": ("5s", {"metrics.podMonitor.enabled": True}),
    "metrics.prometheusRule.enabled": (True, {}),
    "metrics.prometheusRule.labels": ({"release": "prometheus"}, {"metrics.prometheusRule.enabled": True}),
    "metrics.prometheusRule.disabled": (["LLMRunStuck"], {"metrics.prometheusRule.enabled": True}),
    "metrics.prometheusRule.additionalRules": (RULES, {"metrics.prometheusRule.enabled": True}),
    "metrics.dashboard.enabled": (True, {}),
    "metrics.dashboard.labels": ({"grafana": "yes"}, {"metrics.dashboard.enabled": True}),
    "metrics.dashboard.annotations": ({"grafana_folder": "ML"}, {"metrics.dashboard.enabled": True}),
    "networkPolicy.enabled": (True, {}),
    "networkPolicy.metricsFrom": (PEERS, {"networkPolicy.enabled": True}),
    "networkPolicy.webhookFrom": (PEERS, {**EXISTING, "networkPolicy.enabled": True}),
    "networkPolicy.egress.enabled": (False, {"networkPolicy.enabled": True}),
    "networkPolicy.egress.apiServerPorts": ([8443], {"networkPolicy.enabled": True}),
}


def leaves(values: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> list[str]:
    """Paths of the values that the schema does not divide any further."""
    found = []
    for name, value in values.items():
        below = resolve(schema["properties"][name])
        divided = isinstance(value, dict) and below.get("additionalProperties") is False and value
        found += leaves(value, below, f"{prefix}{name}.") if divided else [f"{prefix}{name}"]
    return found


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    found: dict[str, Any] = schema if reference is None else SCHEMA["$defs"][reference.rpartition("/")[2]]
    return found


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Values by path, as Helm takes them."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = copy.deepcopy(value)
    return nested


def test_the_table_of_other_values_names_each_value_of_the_chart() -> None:
    assert sorted(OTHER) == sorted(leaves(VALUES, SCHEMA))


@pytest.mark.parametrize("path", OTHER)
def test_a_value_changes_what_is_rendered(path: str) -> None:
    other, needed = OTHER[path]
    crds = path.startswith("crds.")
    before = render(nest(needed), crds=crds)
    after = render(nest({**needed, path: other}), crds=crds)
    assert [normal(one) for one in after] != [normal(one) for one in before]


def normal(manifest: dict[str, Any]) -> dict[str, Any]:
    """Without the random part of a certificate that the chart makes; how long it lives is kept."""
    if manifest["kind"] == "Secret":
        certificate = load_pem_x509_certificate(base64.b64decode(manifest["data"]["tls.crt"]))
        return {**manifest, "data": certificate.not_valid_after_utc - certificate.not_valid_before_utc}
    if manifest["kind"] == "ValidatingWebhookConfiguration":
        client = manifest["webhooks"][0]["clientConfig"]
        client["caBundle"] = client.get("caBundle", "")[:20]
    return manifest


def key_lines(node: yaml.MappingNode, prefix: str = "") -> dict[str, int]:
    """Path -> line of its key, of every mapping in a YAML document."""
    lines = {}
    for key, value in node.value:
        lines[prefix + key.value] = key.start_mark.line
        if isinstance(value, yaml.MappingNode):
            lines |= key_lines(value, f"{prefix}{key.value}.")
    return lines


def test_every_value_has_a_comment_of_its_own() -> None:
    text = (CHART / "values.yaml").read_text()
    lines = text.splitlines()
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    places = key_lines(root)
    assert [path for path in OTHER if not lines[places[path] - 1].strip().startswith("# -- ")] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("replica", 2),
        ("runner.image.tagg", "1"),
        ("webhook.certificate.issuer", {}),
        ("webhook.failurePolicy", "ignore"),
        ("log.level", "verbose"),
        ("image.digest", "sha256:abc"),
        ("watchNamespaces", ["Capital"]),
        ("imagePullSecrets", ["registry"]),
        ("metrics.serviceMonitor.interval", "30"),
        ("workers", 0),
        ("podDisruptionBudget.maxUnavailable", "half"),
    ],
)
def test_a_mistake_in_the_values_is_refused(path: str, value: Any) -> None:
    with pytest.raises(HelmError, match=re.escape(path.rpartition(".")[2])):
        render(nest({path: value}))


def test_the_chart_asks_for_the_images_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == project_version()


def test_two_replicas_without_a_lease_are_refused() -> None:
    with pytest.raises(HelmError, match="two operators would write at once"):
        render({"replicas": 2, "leaderElection": {"enabled": False}})


def test_an_existing_certificate_needs_the_authority_that_signed_it() -> None:
    with pytest.raises(HelmError, match=r"write webhook\.certificate\.existingSecret"):
        render({"webhook": {"enabled": True, "certificate": {"source": "existing", "existingSecret": "mine"}}})


def test_helm_finds_nothing_to_criticise() -> None:
    assert "0 chart(s) failed" in run_helm("lint", "--strict", str(CHART))
