"""Both images, built by buildah on a base made on the spot: small, without root and secrets, and working."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.build_images import INPUTS, Image, build_image, installer_secrets, package_files, run_buildah
from tests.support.cluster.images import BASE_IMAGE, build_base_image, load_image
from tests.support.repository import ROOT

USER = "65532:65532"
MEBIBYTE = 1024 * 1024
LIST_VERSIONS = """
import json, importlib.metadata
print(json.dumps({found.name: found.version for found in importlib.metadata.distributions()}))
"""
TRY_FOUR_BITS = """
import torch, bitsandbytes as bnb
layer = bnb.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32).to("cpu")
rows = torch.ones(2, 64, requires_grad=True)
layer(rows).sum().backward()
print(torch.cuda.is_available(), rows.grad.abs().sum().item() > 0)
"""


@pytest.fixture(scope="module")
def base() -> str:
    load_image(build_base_image())
    return BASE_IMAGE


@pytest.fixture(scope="module")
def operator_image(base: str) -> Image:
    return build_image("operator", base)


@pytest.fixture(scope="module")
def runner_image(base: str) -> Image:
    return build_image("runner", base, "cpu")


@pytest.fixture
def source_copy(tmp_path: Path) -> Path:
    """All that images are made from, where a test may change it."""
    for path in [*(ROOT / name for name in (*INPUTS, "Dockerfile.operator")), *package_files()]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path


@contextmanager
def container_of(image: Image) -> Iterator[str]:
    """From the archive, as that is what is handed on."""
    container = run_buildah("from", "--quiet", f"docker-archive:{image.archive_path}").strip()
    try:
        yield container
    finally:
        run_buildah("rm", container)


def run_in(container: str, *command: str) -> subprocess.CompletedProcess[str]:
    """As a pod would: with the image's own user."""
    line = ["buildah", "run", "--isolation", "chroot", container, "--", *command]
    return subprocess.run(line, capture_output=True, text=True)


def config_of(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_buildah("inspect", container))["OCIv1"]["config"]
    return found


@contextmanager
def files_of(container: str) -> Iterator[Path]:
    yield Path(run_buildah("mount", container).strip())
    run_buildah("umount", container)


def size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink() and path.is_file())


def test_the_operators_image_is_small_and_starts_the_operator_without_root(operator_image: Image) -> None:
    with container_of(operator_image) as container:
        config = config_of(container)
        assert config["User"] == USER
        assert config["Entrypoint"] == ["python", "-m", "llm_operator"]
        result = run_in(container, *config["Entrypoint"], "--help")
        assert "--runner-image" in result.stdout, result.stderr
        assert run_in(container, "id", "-u").stdout.strip() == USER.partition(":")[0]
        with files_of(container) as root:
            assert size_bytes(root) < 400 * MEBIBYTE


def test_the_operators_image_has_nothing_of_the_runners(operator_image: Image) -> None:
    with container_of(operator_image) as container:
        result = run_in(container, "python", "-c", "import llm_operator, llm_api, kopf; import torch")
        assert "No module named 'torch'" in result.stderr


def test_the_runners_image_has_the_command_that_pods_call(runner_image: Image) -> None:
    with container_of(runner_image) as container:
        config = config_of(container)
        assert config["User"] == USER
        assert run_in(container, "llm-runner", "train", "--help").stdout.startswith("usage: llm-runner train")
        failed = run_in(container, "llm-runner", "train", "missing.json")
        assert failed.returncode == 10, failed.stderr


def test_the_runner_computes_in_four_bits_without_cudas_libraries(runner_image: Image) -> None:
    with container_of(runner_image) as container:
        result = run_in(container, "python", "-c", TRY_FOUR_BITS)
        assert result.stdout == "False True\n", result.stderr
        with files_of(container) as root:
            assert size_bytes(root) < 3 * 1024 * MEBIBYTE


@pytest.mark.parametrize("name", ["operator", "runner"])
def test_the_images_hold_the_versions_that_were_tested(name: str, operator_image: Image, runner_image: Image) -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line)
    with container_of({"operator": operator_image, "runner": runner_image}[name]) as container:
        installed = json.loads(run_in(container, "python", "-c", LIST_VERSIONS).stdout)
    assert installed.pop("llm-operator") == "0.1.0"
    assert len(installed) > 15
    versions = {normal(name): version.partition("+")[0] for name, version in installed.items()}
    assert {name: version for name, version in versions.items() if pinned.get(name) != version} == {}


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


@pytest.mark.parametrize("name", ["operator", "runner"])
def test_nothing_in_an_image_can_be_changed_by_its_user(name: str, operator_image: Image, runner_image: Image) -> None:
    with container_of({"operator": operator_image, "runner": runner_image}[name]) as container:
        command = [
            "find",
            "/",
            "-xdev",
            "-writable",
            "!",
            "-type",
            "l",
            "-not",
            "-path",
            "/proc/*",
            "-not",
            "-path",
            "/dev/*",
        ]
        found = set(run_in(container, *command).stdout.split())
    assert found <= {"/tmp", "/var/tmp", "/run/lock"}


def test_settings_of_the_installers_do_not_stay_in_an_image(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "index-of-a-company"
    monkeypatch.setenv("PIP_TRUSTED_HOST", f"{secret}.example")
    monkeypatch.setenv("UV_INDEX_STRATEGY", "first-index")
    image = "localhost/llm-operator-secrets:test"
    with installer_secrets() as secrets:
        assert secret in Path(secrets[1].rpartition("src=")[2]).read_text()
        command = ["--no-cache", "--file", "Dockerfile.operator", "--build-arg", f"BASE_IMAGE={base}", "--tag", image]
        run_buildah("build", *command, *secrets, ".")
    try:
        assert secret not in run_buildah("inspect", "--type", "image", image)
        container = run_buildah("from", "--pull-never", image).strip()
        with files_of(container) as root:
            assert list((root / "run").rglob("secrets/*")) == []
            assert [path for path in root.rglob("*") if path.is_file() and holds(path, secret)] == []
        run_buildah("rm", container)
    finally:
        run_buildah("rmi", image)


def holds(path: Path, text: str) -> bool:
    return not path.is_symlink() and text.encode() in path.read_bytes()


def test_a_change_of_the_code_reaches_an_image_and_its_dependencies_are_not_installed_again(
    operator_image: Image, base: str, source_copy: Path
) -> None:
    marker = 'MARKER = "the code has changed"\n'
    with (source_copy / "operator" / "llm_operator" / "__init__.py").open("a") as file:
        file.write(marker)
    with (source_copy / "pyproject.toml").open("a") as file:
        file.write("# changed as well, but nothing that is installed\n")
    image = "localhost/llm-operator-changed:test"
    with installer_secrets() as secrets:
        options = ["--layers", "--file", "Dockerfile.operator", "--build-arg", f"BASE_IMAGE={base}", "--tag", image]
        steps = run_buildah("build", *options, *secrets, str(source_copy)).split("STEP ")
    installing = next(place for place, step in enumerate(steps) if "--requirement /opt/requirements/" in step)
    assert "--> Using cache" in steps[installing]
    container = run_buildah("from", "--pull-never", image).strip()
    try:
        result = run_in(container, "python", "-c", "import llm_operator; print(llm_operator.MARKER)")
        assert result.stdout == "the code has changed\n", result.stderr
    finally:
        run_buildah("rm", container)
        run_buildah("rmi", image)


def test_an_unknown_accelerator_is_named(base: str) -> None:
    with pytest.raises(RuntimeError, match="ACCELERATOR is 'tpu': write cuda or cpu"):
        build_image("runner", base, "tpu")  # type: ignore[arg-type]
