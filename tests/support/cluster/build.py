"""The programs of a test cluster, each built once from its Go module and kept in the user's cache.

No registry and no release page is needed: Go's module proxy and its checksums are enough. A program's path holds a
digest of all that its build depends on, so another version is built beside the old one and never mistaken for it.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
KUBERNETES_VERSION = "k8s.io/component-base/version"
HELM_CAPABILITIES = "helm.sh/helm/v3/pkg/chartutil"


@dataclass(frozen=True)
class Program:
    """A main package of one of the modules in tests/tools."""

    module: str
    package: str


# In the order in which tests want them: a control plane first, then S3, then a node.
PROGRAMS = {
    "etcd": Program("etcd", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": Program("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kubectl": Program("kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    "versitygw": Program("s3", "github.com/versity/versitygw/cmd/versitygw"),
    "kube-controller-manager": Program("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kube-scheduler": Program("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    "kubelet": Program("kubernetes", "k8s.io/kubernetes/cmd/kubelet"),
    "kube-proxy": Program("kubernetes", "k8s.io/kubernetes/cmd/kube-proxy"),
    "pause": Program("pause", "."),
    "coredns": Program("coredns", "."),
    "helm": Program("helm", "helm.sh/helm/v3/cmd/helm"),
    "foreign-kinds": Program("foreign-kinds", "."),
    "kwok": Program("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the programs of the test cluster, unless they are there")
    parser.add_argument("names", nargs="*", choices=[[], *PROGRAMS], help="all of them by default")
    for name in parser.parse_args().names or PROGRAMS:
        started = time.monotonic()
        path = build_program(name)
        print(f"{time.monotonic() - started:5.0f} s  {path}", flush=True)  # noqa: T201


def build_program(name: str) -> Path:
    """The program's path; takes minutes the first time, and waits where another process builds it already."""
    path = program_path(name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_name(f".{name}.lock")):
            if not path.is_file():
                compile_program(PROGRAMS[name], path)
    return path


def program_path(name: str) -> Path:
    """Where the program is given, or lies once it is built."""
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        given = Path(assets) / name
        if given.is_file():
            return given
    return cache_folder() / "bin" / f"{PROGRAMS[name].module}-{digest(PROGRAMS[name])}" / name


def cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "llm-operator"


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds the file's lock; the system lets go of it if the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(program: Program) -> str:
    inputs = [path.read_bytes() for path in sorted((TOOLS / program.module).glob("*.*"))]
    return hashlib.sha256(b"\0".join([*inputs, linker_flags(program).encode()])).hexdigest()[:12]


def compile_program(program: Program, path: Path) -> None:
    if shutil.which("go") is None:
        raise RuntimeError(f"{path.name} is not built yet, and that needs Go 1.21 or newer on the PATH")
    unfinished = path.with_name(f".{path.name}.unfinished")
    command = ["go", "build", "-buildvcs=false", "-ldflags", linker_flags(program), "-o", str(unfinished)]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    result = subprocess.run(
        [*command, program.package], cwd=TOOLS / program.module, env=environment, capture_output=True, text=True
    )
    if result.returncode != 0:
        raise RuntimeError(f"{path.name} could not be built:\n{result.stderr}")
    unfinished.rename(path)


def linker_flags(program: Program) -> str:
    """Strips debug tables, and tells programs which version of Kubernetes they are or talk to."""
    major, minor = kubernetes_version().split(".")[:2]
    named = {
        "kubernetes": {
            f"{KUBERNETES_VERSION}.gitVersion": f"v{kubernetes_version()}",
            f"{KUBERNETES_VERSION}.gitMajor": major,
            f"{KUBERNETES_VERSION}.gitMinor": minor,
        },
        "helm": {f"{HELM_CAPABILITIES}.k8sVersionMajor": major, f"{HELM_CAPABILITIES}.k8sVersionMinor": minor},
    }
    return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in named.get(program.module, {}).items())])


def kubernetes_version() -> str:
    """As the module file pins it, such as 1.34.2."""
    path = TOOLS / "kubernetes" / "go.mod"
    found = re.search(r"^\s*k8s\.io/kubernetes v(\S+)", path.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{path} requires no k8s.io/kubernetes")
    return found[1]


if __name__ == "__main__":
    main()
