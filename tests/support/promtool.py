"""Prometheus' own tool for checking and trying out rules: from the PATH, or from the distribution's package.

The package is unpacked into the user's cache and not installed, as that would start a server.
"""

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.support.cluster.build import cache_folder, lock


class PromtoolError(Exception):
    """What promtool says when it refuses."""


@cache
def find_promtool() -> Path:
    if found := shutil.which("promtool"):
        return Path(found)
    path = cache_folder() / "bin" / "promtool"
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.with_name(".promtool.lock")):
        if not path.is_file():
            unpack(path)
    return path


def unpack(path: Path) -> None:
    if shutil.which("apt-get") is None:
        raise RuntimeError("promtool is not on the PATH, and there is no apt-get to fetch Debian's package with")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        download(folder)
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", str(package), folder], check=True, capture_output=True)
        (Path(folder) / "usr" / "bin" / "promtool").rename(path)


def download(folder: str) -> None:
    command = ["apt-get", "--quiet", "download", "prometheus"]
    if subprocess.run(command, cwd=folder, capture_output=True).returncode != 0:
        # A new machine has no list of packages yet, and an old one's may name what is gone.
        subprocess.run(["apt-get", "--quiet", "update"], check=True, capture_output=True)
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def run_promtool(*arguments: str) -> str:
    """Raises PromtoolError with what it says if it finds fault."""
    result = subprocess.run([str(find_promtool()), *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise PromtoolError(result.stdout + result.stderr)
    return result.stdout
