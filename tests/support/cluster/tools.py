"""What a node needs of the machine it runs on: root, and programs that the distribution packages.

Missing packages are installed where that can be done without a question, by root on Debian and its children; elsewhere
the error names them. Nothing that a package brings is started as a service.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.cluster.containerd import find_plugins

PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "iptables": "iptables",
    "nsenter": "util-linux",
}
PLUGINS_PACKAGE = "containernetworking-plugins"
SERVICE_POLICY = Path("/usr/sbin/policy-rc.d")


def provide_tools() -> None:
    """Sees to it that a node can be started, or says what is missing."""
    if os.geteuid() != 0:
        raise PermissionError(
            "a test cluster with a node needs root. Run as root, or give the tests a cluster that is there, as "
            "CONTRIBUTING.md describes; tests of the control plane alone need neither."
        )
    missing = find_missing_packages()
    if missing and shutil.which("apt-get") is not None:
        install(missing)
        missing = find_missing_packages()
    if missing:
        raise RuntimeError(f"not on this machine, and needed for a node: {', '.join(missing)}")


def find_missing_packages() -> list[str]:
    missing = {package for command, package in PACKAGES.items() if shutil.which(command) is None}
    return sorted(missing if find_plugins() is not None else missing | {PLUGINS_PACKAGE})


def install(packages: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with services_left_alone():
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            result = subprocess.run(["apt-get", "-q", *command], env=environment, capture_output=True, text=True)
            if result.returncode != 0:
                raise RuntimeError(f"apt-get {' '.join(command)}: {result.stderr.strip()}")


@contextmanager
def services_left_alone() -> Iterator[None]:
    """Tells the distribution's installer to start nothing, by the file that it asks, unless there is one already."""
    if SERVICE_POLICY.exists():
        yield
        return
    SERVICE_POLICY.write_text("#!/bin/sh\nexit 101\n")
    SERVICE_POLICY.chmod(0o755)
    try:
        yield
    finally:
        SERVICE_POLICY.unlink()
