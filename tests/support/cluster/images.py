"""Images for a test cluster, made on this machine and kept in the user's cache as archives: nothing is pulled.

The base image is a small Debian with Python. An image of the project itself is built on it by whoever needs one.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.cluster.build import build_program, cache_folder, lock
from tests.support.cluster.containerd import PAUSE_IMAGE
from tests.support.cluster.tools import provide_tools

BASE_IMAGE = "localhost/llm-operator-base:1"
RELEASE = "bookworm"
SPARE_BYTES = 2_000_000_000
"""What has to stay free besides, for what pods and the API server write."""
MIRROR = "http://deb.debian.org/debian"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
# For removed lists and caches: the image is for running programs, not for installing packages.
LEFT_OUT = ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man", "usr/share/locale")


def build_pause_image() -> Path:
    """The image that holds a pod's namespaces open, as an archive."""
    program = build_program("pause")
    path = archive_path("pause", program.parent.name)
    with lock(path.with_suffix(".lock")):
        if not path.is_file():
            with new_container("scratch") as container:
                buildah("copy", container, str(program), "/pause")
                buildah("config", "--entrypoint", '["/pause"]', "--user", "65535:65535", container)
                save_container(container, PAUSE_IMAGE, path)
    return path


def build_base_image() -> Path:
    """A Debian with Python and nothing else, as an archive; takes a minute or two once."""
    path = archive_path("base", "\n".join([BASE_IMAGE, RELEASE, *PACKAGES, *LEFT_OUT]))
    with lock(path.with_suffix(".lock")):
        if not path.is_file():
            with tempfile.TemporaryDirectory(dir=path.parent) as folder, new_container("scratch") as container:
                buildah("add", container, str(make_root(Path(folder) / "root")), "/")
                buildah("config", "--cmd", "python3", "--env", "PYTHONSAFEPATH=1", container)
                save_container(container, BASE_IMAGE, path)
    return path


def make_root(root: Path) -> Path:
    """Installs the distribution's packages into a folder."""
    packages = ",".join(PACKAGES)
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", RELEASE, str(root), MIRROR]
    run_tool(*command)
    for name in LEFT_OUT:
        for path in (root / name).iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return root


def load_image(archive: Path) -> None:
    """Makes an archive's image known to buildah, for Dockerfiles that build on it."""
    buildah("pull", "--quiet", f"docker-archive:{archive}")


def require_space(folder: Path, archive: Path) -> None:
    """Raises OSError unless the disk can hold the image on one more node, which keeps it packed and unpacked."""
    needed, free = 2 * archive.stat().st_size + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        found = f"{free / 1e9:.1f} GB are free there, {needed / 1e9:.1f} GB are needed"
        raise OSError(f"{folder}: no room for {archive.name} on a node: {found}; free some, or set TMPDIR")


def archive_path(name: str, content: str) -> Path:
    """Where the archive of an image with this content lies, or is to lie."""
    folder = cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.tar"


@contextmanager
def new_container(base: str) -> Iterator[str]:
    """A container of buildah's, to be filled and saved; it is removed in the end."""
    provide_tools()
    container = buildah("from", "--pull-never", base).strip()
    try:
        yield container
    finally:
        buildah("rm", container)


def save_container(container: str, image: str, path: Path) -> None:
    """Writes the container as an image with this name into an archive; the name stays known to buildah."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    buildah("commit", "--quiet", container, image)
    buildah("push", "--quiet", image, f"docker-archive:{unfinished}:{image}")
    unfinished.rename(path)


def buildah(*arguments: str) -> str:
    """Runs buildah in the way that works in containers and small virtual machines too."""
    return run_tool("buildah", *arguments)


def run_tool(*command: str) -> str:
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {(result.stderr or result.stdout).strip()}")
    return result.stdout
