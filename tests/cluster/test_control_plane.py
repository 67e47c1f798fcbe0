"""The API server that tests use is a real one: it starts anew, stands beside others, and takes what we ship."""

import json
import re
from pathlib import Path

import pytest

from tests.support.cluster.access import Access
from tests.support.cluster.control_plane import ControlPlane, Settings, run_control_plane
from tests.support.documents import build_config, build_manifest, issues_of_manifest
from tests.support.repository import ROOT, repository_files

CRDS = [path for path in repository_files(".yaml") if path.parts[0] == "crds"]
FOLDERS = (Path("examples"), Path("examples/page"))
EXAMPLES = [path for path in repository_files(".yaml") if path.parent in FOLDERS]


@pytest.fixture(scope="module")
def with_crds(control_plane: Access) -> Access:
    control_plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    control_plane.kubectl("wait", "--for=condition=Established", "-f", str(ROOT / "crds"), "--timeout=30s")
    return control_plane


@pytest.mark.parametrize("path", CRDS, ids=str)
def test_the_api_server_finds_nothing_wrong_with_a_crd(with_crds: Access, path: Path) -> None:
    name = ".".join(reversed(path.stem.split("_")))
    found = with_crds.get("crd", name)["status"]["conditions"]
    assert {condition["type"]: condition["status"] for condition in found} == {
        "NamesAccepted": "True",
        "Established": "True",
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=str)
def test_an_example_can_be_applied_as_it_is(with_crds: Access, path: Path) -> None:
    with_crds.kubectl("apply", "--server-side", "-f", str(ROOT / path))
    assert "kind: LLM" in with_crds.kubectl("get", "-f", str(ROOT / path), "-o", "yaml")


def test_a_mistake_is_refused_at_apply(with_crds: Access) -> None:
    manifest = (ROOT / "examples" / "finetune.yaml").read_text().replace("bits: 4", "bits: 3")
    result = with_crds.run_kubectl("apply", "-f", "-", stdin=manifest)
    assert result.returncode != 0
    assert "quantization.bits" in result.stderr


TUNED = "adapter: {type: lora}, trainer: {type: finetune, batch_size: 8}"
AT_LEAST_1 = "(greater than or equal to|at least) 1"
SHARED = "a multiple of nodes times accelerators.count"
WRONG_NUMBERS = [
    ("{}", "{compute: {nodes: 0}}", "compute.nodes", AT_LEAST_1),
    ("{}", "{compute: {accelerators: {count: 0}}}", "compute.accelerators.count", AT_LEAST_1),
    ("{}", "{run: {startTimeoutSeconds: 0}}", "run.startTimeoutSeconds", AT_LEAST_1),
    (
        f"{{{TUNED}}}",
        "{compute: {accelerators: {count: 3}}}",
        "compute",
        "a multiple of nodes times accelerators.count",
    ),
    (f"{{{TUNED}}}", "{compute: {nodes: 16}}", "compute", SHARED),
    ("{trainer: {type: none}}", "{compute: {nodes: 2}}", "compute", "write one node and one accelerator"),
    (
        f"{{{TUNED}, quantization: {{bits: 8}}}}",
        "{compute: {nodes: 2, parallelism: fsdp}}",
        "compute.parallelism",
        r"write quantization: \{bits: 4\}, or parallelism: ddp",
    ),
]
"""Sections of a config, parts of a spec, where they are told of, and what is said, as a pattern."""


@pytest.mark.parametrize(("sections", "spec", "path", "says"), WRONG_NUMBERS)
def test_a_number_that_can_not_be_is_refused_at_apply_and_by_validate_alike(
    with_crds: Access, sections: str, spec: str, path: str, says: str
) -> None:
    manifest = build_manifest("LLMFineTune", spec, build_config(sections))
    apply = ("apply", "--server-side", "--dry-run=server", "-f", "-")
    refused = with_crds.run_kubectl(*apply, stdin=json.dumps(manifest))
    assert refused.returncode != 0
    assert f"spec.{path}: " in refused.stderr
    assert re.search(says, refused.stderr)
    (issue,) = issues_of_manifest(manifest)
    assert issue.path == f"spec.{path}"
    assert re.search(says, issue.message)
    del manifest["spec"][spec[1:].partition(":")[0]]
    with_crds.kubectl(*apply, stdin=json.dumps(manifest))


def test_a_stopped_api_server_comes_back_with_all_that_it_was_told(tmp_path: Path) -> None:
    with run_control_plane(tmp_path) as plane:
        plane.kubectl("create", "configmap", "remembered")
        plane.api_server.kill()
        assert not plane.is_ready()
        assert plane.run_kubectl("get", "configmaps").returncode != 0
        plane.start_api_server()
        assert plane.get("configmap", "remembered")["metadata"]["name"] == "remembered"


def test_two_control_planes_stand_side_by_side_and_trust_only_their_own_users(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    with run_control_plane(tmp_path) as other:
        other.kubectl("create", "configmap", "only-here")
        assert control_plane.run_kubectl("get", "configmap", "only-here").returncode != 0
        stranger = ["--server", other.server, "--insecure-skip-tls-verify"]
        assert "must be logged in" in control_plane.run_kubectl("get", "pods", *stranger).stderr


def test_controllers_act_on_what_is_applied_if_they_are_asked_for(tmp_path: Path) -> None:
    with run_control_plane(tmp_path, Settings(has_controllers=True)) as plane:
        plane.kubectl("create", "job", "one", "--image=none")
        plane.kubectl("wait", "--for=create", "pod", "--selector=job-name=one", "--timeout=30s")
        assert plane.get("job", "one")["status"]["active"] == 1


def test_nothing_runs_on_when_a_control_plane_was_stopped(tmp_path: Path) -> None:
    with run_control_plane(tmp_path) as plane:
        processes = [Path("/proc", str(process.pid)) for process in (plane.etcd, plane.api_server)]
        assert all(path.exists() for path in processes)
    assert not any(path.exists() for path in processes)
