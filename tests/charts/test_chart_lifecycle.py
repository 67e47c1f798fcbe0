"""Helm installs, upgrades and uninstalls the chart on a real API server, and what users made outlives all of it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.charts import CHART, NAMESPACE, RELEASE, HelmError, Values, run_helm
from tests.support.cluster.access import Access
from tests.support.cluster.control_plane import run_control_plane
from tests.support.repository import ROOT

CRD = "llmfinetunes.llmoperator.dev"
BOTH = (CRD, "llminferences.llmoperator.dev")
SECRET = "try-llm-operator-webhook"
FINE_TUNE = ROOT / "examples" / "finetune.yaml"
MAX_RELEASE_BYTES = 1024 * 1024
"""What a Secret holds at most, and so a release of Helm's."""


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Access]:
    """A new API server for each test: CRDs are of the whole cluster."""
    with run_control_plane(tmp_path / "plane") as plane:
        yield plane


def install(plane: Access, values: Values | None = None, *options: str, chart: Path = CHART) -> None:
    """Installs or upgrades; nobody runs the pods here, so they are not waited for."""
    command = ["upgrade", "--install", RELEASE, str(chart), "--namespace", NAMESPACE, "--create-namespace"]
    stdin = json.dumps(values or {})
    run_helm(*command, "--values", "-", *options, kubeconfig=plane.kubeconfig, stdin=stdin)
    if (values or {}).get("crds", {}).get("install", True):
        plane.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in BOTH), "--timeout=30s")


def uninstall(plane: Access) -> str:
    return run_helm("uninstall", RELEASE, "--namespace", NAMESPACE, kubeconfig=plane.kubeconfig)


def apply_fine_tune(plane: Access) -> dict[str, Any]:
    plane.kubectl("apply", "--server-side", "-f", str(FINE_TUNE))
    return fine_tunes(plane)[0]


def fine_tunes(plane: Access) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(plane.kubectl("get", "llmft", "-o", "json"))["items"]
    return found


def copy_as_next_version(folder: Path) -> Path:
    """The chart as a later version might be: another number, and CRDs that say something new."""
    chart = shutil.copytree(CHART, folder / "llm-operator")
    described = chart / "Chart.yaml"
    described.write_text(described.read_text().replace("version: 0.1.0", "version: 0.2.0"))
    for crd in (chart / "files" / "crds").iterdir():
        crd.write_text(crd.read_text().replace("description: What is wanted.", "description: What is wanted, now."))
    return chart


def description(plane: Access) -> str:
    schema = plane.get("crd", CRD)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return str(schema["properties"]["spec"]["description"])


def test_an_upgrade_brings_new_crds_and_keeps_resources_and_certificate(plane: Access, tmp_path: Path) -> None:
    values: Values = {"webhook": {"enabled": True}}
    install(plane, values)
    before, secret = apply_fine_tune(plane), plane.get("secret", SECRET, NAMESPACE)
    assert description(plane) == "What is wanted."
    install(plane, values, chart=copy_as_next_version(tmp_path))
    (after,) = fine_tunes(plane)
    assert description(plane) == "What is wanted, now."
    assert (after["metadata"]["uid"], after["spec"]) == (before["metadata"]["uid"], before["spec"])
    assert plane.get("secret", SECRET, NAMESPACE)["data"] == secret["data"]
    webhook = plane.get("validatingwebhookconfiguration", "try-llm-operator")["webhooks"][0]
    assert webhook["clientConfig"]["caBundle"] == secret["data"]["ca.crt"]


def test_resources_outlive_the_release_and_are_found_by_the_next(plane: Access) -> None:
    install(plane)
    before = apply_fine_tune(plane)
    assert CRD in uninstall(plane)  # Helm says what it kept.
    assert fine_tunes(plane) == [before]
    assert plane.kubectl("get", "deployments,services", "--namespace", NAMESPACE, "-o", "name") == ""
    install(plane)
    assert fine_tunes(plane) == [before]


def test_no_longer_installing_the_crds_does_not_delete_them(plane: Access) -> None:
    install(plane)
    before = apply_fine_tune(plane)
    install(plane, {"crds": {"install": False}})
    assert fine_tunes(plane) == [before]


def test_crds_that_are_not_to_be_kept_go_with_the_release(plane: Access) -> None:
    install(plane, {"crds": {"keep": False}})
    uninstall(plane)
    plane.kubectl("wait", "--for=delete", f"crd/{CRD}", "--timeout=30s")


def test_crds_that_were_applied_by_hand_are_taken_over_when_asked(plane: Access) -> None:
    plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    plane.kubectl("wait", "--for=condition=Established", f"crd/{CRD}", "--timeout=30s")
    before = apply_fine_tune(plane)
    with pytest.raises(HelmError, match="cannot be imported into the current release"):
        install(plane)
    install(plane, None, "--take-ownership")
    assert fine_tunes(plane) == [before]


def test_a_release_has_room_to_grow(plane: Access) -> None:
    install(plane)
    release = plane.get("secret", f"sh.helm.release.v1.{RELEASE}.v1", NAMESPACE)
    assert len(release["data"]["release"]) < MAX_RELEASE_BYTES / 2


def test_installing_twice_changes_nothing(plane: Access) -> None:
    values: Values = {"webhook": {"enabled": True}}
    install(plane, values)
    before = versions(plane)
    install(plane, values)
    assert versions(plane) == before


def versions(plane: Access) -> dict[str, str]:
    """Resource versions of all that the chart made."""
    kinds = "deployments,services,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,crds,secrets"
    whole = json.loads(
        plane.kubectl("get", kinds, "--all-namespaces", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "json")
    )
    found = {f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["resourceVersion"] for one in whole["items"]}
    assert len(found) > 10
    return found
