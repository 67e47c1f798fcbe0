"""Build the images of the operator and the runner with buildah, and save them as archives in the user's cache.

What nothing has changed for isn't built again: an archive's name holds a digest of all that its image is made from, and
buildah keeps the layer of dependencies for as long as pyproject.toml and constraints.txt stay as they are. Pip's and
uv's settings of this machine (index, proxy, certificates) are used by the build and stay out of the image.
"""

import argparse
import fcntl
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("operator", "runner")
INPUTS = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "scripts/stub_cuda.py", ".dockerignore")
PACKAGES = ("api/llm_api", "operator/llm_operator", "runner/llm_runner")
UV_CACHE = "/mnt/uv"
"""Where the build sees uv's cache of this machine, so that nothing is downloaded twice."""
KEPT_ARCHIVES = 3
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host")
PROXIES = ("http_proxy", "https_proxy", "no_proxy")

Accelerator = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Image:
    """An image that is built: its name for a container runtime, and the archive that holds it."""

    name: str
    archive_path: Path


def main() -> None:
    options = parse_arguments()
    for name in options.names or NAMES:
        started = time.monotonic()
        image = build_image(name, options.base, options.accelerator, options.version)
        sys.stdout.write(f"{image.name}  {image.archive_path}  ({time.monotonic() - started:.0f} s)\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build the project's images with buildah, as archives in the cache.")
    parser.add_argument("names", nargs="*", choices=[[], *NAMES], help="operator or runner; both by default")
    parser.add_argument("--base", default="docker.io/library/python:3.12-slim", help="image to build on")
    parser.add_argument("--accelerator", choices=("cuda", "cpu"), default="cuda", help="what the runner computes on")
    parser.add_argument("--version", help="tag of the images; by default the project's version")
    return parser.parse_args()


def build_image(name: str, base: str, accelerator: Accelerator = "cuda", version: str | None = None) -> Image:
    """The image of the operator or the runner on ``base``, which buildah has or can pull."""
    version = project_version() if version is None else version
    arguments = {"BASE_IMAGE": base}
    if name == "runner":
        arguments["ACCELERATOR"] = accelerator
    image = f"localhost/llm-{name}:{version}"
    family = "-".join([name, *list(arguments.values())[1:]])
    folder = cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / f"{family}.lock"):
        path = folder / f"{family}-{digest(name, image, {**arguments, 'BASE_IMAGE': image_id(base)})}.tar"
        if not path.is_file():
            replaced = known_id(image)
            build(name, image, arguments)
            remove_older(folder, family)
            remove_replaced(replaced, image)
            save(image, path)
    return Image(image, path)


def project_version() -> str:
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return version


def digest(name: str, image: str, arguments: Mapping[str, str]) -> str:
    """Of everything that an image is made from."""
    state = hashlib.sha256(repr((image, sorted(arguments.items()))).encode())
    for path in [ROOT / f"Dockerfile.{name}", *(ROOT / name for name in INPUTS), *package_files()]:
        state.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return state.hexdigest()[:12]


def package_files() -> list[Path]:
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return sorted(path for path in found if "__pycache__" not in path.parts)


def image_id(base: str) -> str:
    """The digest of an image that buildah has, pulled where it hasn't."""
    run_buildah("pull", "--quiet", "--policy", "missing", base)
    return run_buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", base).strip()


def known_id(image: str) -> str | None:
    """The id of the image that has this name now."""
    listed = run_buildah("images", "--quiet", "--no-trunc", "--filter", f"reference={image}").split()
    return listed[0] if listed else None


def build(name: str, image: str, arguments: Mapping[str, str]) -> None:
    command = ["build", "--layers", "--force-rm", "--tag", image, "--file", f"Dockerfile.{name}"]
    command += [option for pair in arguments.items() for option in ("--build-arg", "=".join(pair))]
    with installer_secrets() as secrets:
        run_buildah(*command, *secrets, *shared_uv_cache(), ".")


@contextmanager
def installer_secrets() -> Iterator[list[str]]:
    """Options that hand pip's and uv's settings of this machine to a build."""
    certificates = certificates_path(os.environ)
    options = [] if certificates is None else ["--secret", f"id=certificates,src={certificates}"]
    with tempfile.NamedTemporaryFile("w", prefix="installer-", suffix=".env") as file:
        settings = installer_settings(os.environ, read_pip_settings())
        file.writelines(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
        file.flush()
        yield ["--secret", f"id=installer,src={file.name}", *options]


def installer_settings(environ: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """Variables for the installers in a build; what names a path of this machine is left out."""
    settings = {f"PIP_{name.upper().replace('-', '_')}": pip[name] for name in PIP_SETTINGS if name in pip}
    if "index-url" in pip:
        settings["UV_DEFAULT_INDEX"] = pip["index-url"]
    settings |= {name: value for name, value in environ.items() if name.lower() in PROXIES}
    settings |= {name: value for name, value in environ.items() if name.startswith("UV_") and "INDEX" in name}
    return {**settings, "UV_CACHE_DIR": UV_CACHE} if shared_uv_cache() else settings


def read_pip_settings() -> dict[str, str]:
    """What pip is told by its files and the environment; the environment comes last, and wins."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    lines = (line.partition("=") for line in listing.splitlines() if "=" in line)
    return {name.rpartition(".")[2]: value.strip("'\"") for name, _, value in lines}


def certificates_path(environ: Mapping[str, str]) -> Path | None:
    """The bundle that this machine is told to trust, if it is told so."""
    named = (environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"))
    return next((Path(path) for path in named if path and Path(path).is_file()), None)


def shared_uv_cache() -> list[str]:
    """Options that let a build use uv's cache of this machine, where there is one."""
    home = os.environ.get("UV_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"
    return ["--volume", f"{home}:{UV_CACHE}"] if Path(home).is_dir() else []


def save(image: str, path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    run_buildah("push", "--quiet", image, f"docker-archive:{unfinished}:{image}")
    unfinished.rename(path)


def remove_older(folder: Path, family: str) -> None:
    """Archives are large: of a family only the newest few are kept, as others may still read those."""
    archives = sorted(folder.glob(f"{family}-*.tar"), key=lambda path: path.stat().st_mtime)
    for path in archives[: -KEPT_ARCHIVES + 1]:
        path.unlink()


def remove_replaced(replaced: str | None, image: str) -> None:
    """Frees what only the image before this one takes; layers that both share stay, as does what a container uses."""
    if replaced and replaced != known_id(image):
        with suppress(RuntimeError):
            run_buildah("rmi", replaced)


def run_buildah(*arguments: str) -> str:
    """Runs buildah in the way that works in containers and small virtual machines too."""
    environment = {"BUILDAH_ISOLATION": "chroot", **os.environ}
    result = subprocess.run(["buildah", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"buildah {arguments[0]} failed:\n{(result.stderr or result.stdout).strip()}")
    return result.stdout


def cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "llm-operator"


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds the file's lock; the system lets go of it if the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
