"""`make cluster-up` and `make cluster-down`, as a contributor meets them, and the tests' way to such a cluster."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster.build import cache_folder
from tests.support.cluster.existing import ASKED_FOR, ExistingCluster
from tests.support.cluster.images import build_base_image
from tests.support.cluster.workloads import build_job
from tests.support.repository import ROOT


class Shell:
    """A shell whose cache folder is its own, but for the programs and images that are built already."""

    def __init__(self, folder: Path) -> None:
        home = folder / "llm-operator"
        home.mkdir()
        for name in ("bin", "images"):
            (home / name).symlink_to(cache_folder() / name)
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
        self.exports = home / "cluster" / "exports.sh"
        self.pid_path = home / "cluster" / "pid"

    def run(self, action: str) -> str:
        command = [sys.executable, str(ROOT / "scripts" / "cluster.py"), action]
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def exported(self) -> dict[str, str]:
        """The environment after the lines that `up` tells one to run."""
        command = ["bash", "-c", f"source {self.exports} && env -0"]
        output = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout
        return dict(entry.split("=", 1) for entry in output.rstrip("\0").split("\0"))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("shell"))
    yield shell
    shell.run("down")


def test_up_starts_a_cluster_that_outlives_it_and_says_how_to_use_it(shell: Shell) -> None:
    output = shell.run("up")
    assert shell.exports.read_text() in output
    command = ["bash", "-c", "kubectl get nodes -o name"]
    assert subprocess.check_output(command, env=shell.exported(), text=True) == "node/node-1\n"


def test_up_a_second_time_finds_it_up(shell: Shell) -> None:
    shell.run("up")
    before = shell.pid_path.read_text()
    output = shell.run("up")
    assert "Starting" not in output
    assert shell.pid_path.read_text() == before


def test_tests_can_use_it_instead_of_starting_one(shell: Shell) -> None:
    shell.run("up")
    environment = shell.exported()
    assert environment[ASKED_FOR] == "true"
    existing = ExistingCluster(environment)
    existing.import_image(build_base_image())
    existing.apply(build_job("here", "print('here')"))
    existing.wait_for("condition=Complete", "job/here")


def test_down_removes_it_and_does_nothing_more_when_there_is_none(shell: Shell) -> None:
    shell.run("up")
    assert "is gone" in shell.run("down")
    assert not shell.exports.exists()
    assert "No cluster is up" in shell.run("down")


def test_an_existing_cluster_says_what_it_must_be_told() -> None:
    with pytest.raises(RuntimeError, match="LLM_OPERATOR_HOST_ADDRESS"):
        ExistingCluster({ASKED_FOR: "true", "KUBECONFIG": "config"})
