"""What decides whether an image is built again, and what of this machine a build is told."""

import shutil
from pathlib import Path

import pytest

from scripts import build_images
from scripts.build_images import INPUTS, PACKAGES, digest, installer_settings
from tests.support.repository import ROOT

ARGUMENTS = {"BASE_IMAGE": "base", "ACCELERATOR": "cpu"}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all that images are made from, which a test may change."""
    for name in (*INPUTS, "Dockerfile.operator", "Dockerfile.runner"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    monkeypatch.setattr(build_images, "ROOT", tmp_path)
    return tmp_path


def runner_digest(**changes: str) -> str:
    return digest("runner", "localhost/llm-runner:dev", {**ARGUMENTS, **changes})


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "constraints.txt", "Dockerfile.runner", "runner/llm_runner/errors.py"]
)
def test_a_change_of_what_an_image_is_made_from_builds_it_again(copy: Path, name: str) -> None:
    before = runner_digest()
    with (copy / name).open("a") as file:
        file.write("\n# changed\n")
    assert runner_digest() != before


def test_another_base_or_accelerator_builds_an_image_again(copy: Path) -> None:
    digests = {runner_digest(), runner_digest(BASE_IMAGE="other"), runner_digest(ACCELERATOR="cuda")}
    assert len(digests) == 3


def test_compiled_modules_and_other_files_build_nothing_again(copy: Path) -> None:
    before = runner_digest()
    cache = copy / "api" / "llm_api" / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "new.pyc").write_bytes(b"x")
    (copy / "NOTES").write_text("x")
    assert runner_digest() == before


def test_everything_that_a_dockerfile_copies_counts() -> None:
    ignored = (ROOT / ".dockerignore").read_text()
    kept = {line.removeprefix("!") for line in ignored.splitlines() if line.startswith("!")}
    assert kept == {*INPUTS, *PACKAGES} - {".dockerignore"}


def test_pips_index_is_given_to_both_installers() -> None:
    settings = installer_settings({}, {"index-url": "https://index.example/simple", "timeout": "3"})
    settings.pop("UV_CACHE_DIR", None)
    assert settings == {
        "PIP_INDEX_URL": "https://index.example/simple",
        "UV_DEFAULT_INDEX": "https://index.example/simple",
    }


def test_the_environments_own_word_to_uv_counts_for_more() -> None:
    environ = {"UV_DEFAULT_INDEX": "https://other.example", "HTTPS_PROXY": "http://proxy.example", "UV_PYTHON": "x"}
    settings = installer_settings(environ, {"index-url": "https://index.example/simple"})
    assert settings["UV_DEFAULT_INDEX"] == "https://other.example"
    assert settings["HTTPS_PROXY"] == "http://proxy.example"
    assert "UV_PYTHON" not in settings


def test_paths_of_this_machine_are_not_given_to_a_build() -> None:
    settings = installer_settings({"PIP_FIND_LINKS": "wheels"}, {"find-links": "wheels", "cert": "bundle.crt"})
    settings.pop("UV_CACHE_DIR", None)
    assert settings == {}
