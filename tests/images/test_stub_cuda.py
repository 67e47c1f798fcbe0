"""The stand-ins for CUDA's libraries, tried on small libraries that a real compiler makes."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.stub_cuda import Needs, plan_stubs, read
from tests.support.repository import ROOT

VERSIONED, PLAIN = "libcublas.so.13", "libnccl.so.2"


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """A torch that is linked against two of NVIDIA's libraries, which then are taken away."""
    packages = tmp_path / "site-packages"
    folder = packages / "torch" / "lib"
    folder.mkdir(parents=True)
    compile_library(tmp_path / VERSIONED, "void cublasGemm(void) {}", version=VERSIONED)
    compile_library(tmp_path / PLAIN, "void ncclSend(void) {}")
    declared = "void cublasGemm(void); void ncclSend(void);"
    calls = f"{declared} int answer(int gpu) {{ if (gpu) {{ cublasGemm(); ncclSend(); }} return 42; }}"
    compile_library(folder / "libtorch_cuda.so", calls, "-L", str(tmp_path), f"-l:{VERSIONED}", f"-l:{PLAIN}")
    return packages


def compile_library(path: Path, code: str, *options: str, version: str | None = None) -> None:
    source = path.with_suffix(".c")
    source.write_text(code)
    if version is not None:
        script = path.with_suffix(".map")
        script.write_text(f"{version} {{ global: *; }};")
        options = (*options, f"-Wl,--version-script,{script}")
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        f"-Wl,-soname,{path.name}",
        "-Wl,-rpath,$ORIGIN",
        "-o",
        str(path),
        str(source),
    ]
    subprocess.run([*command, *options], check=True)


def stub(site_packages: Path) -> str:
    return read(sys.executable, str(ROOT / "scripts" / "stub_cuda.py"), str(site_packages))


def ask(site_packages: Path, gpu: int) -> subprocess.CompletedProcess[str]:
    """Opens the library as Python opens an extension, and calls it."""
    library = site_packages / "torch" / "lib" / "libtorch_cuda.so"
    code = f"import ctypes, os; print(ctypes.CDLL({str(library)!r}, mode=os.RTLD_NOW).answer({gpu}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_library_that_needs_cuda_opens_once_there_are_stand_ins(site_packages: Path) -> None:
    assert "cannot open shared object file" in ask(site_packages, gpu=0).stderr
    written = stub(site_packages)
    assert f"{VERSIONED}: a stand-in with 1 names" in written
    assert f"{PLAIN}: a stand-in with 1 names" in written
    result = ask(site_packages, gpu=0)
    assert (result.stdout, result.stderr) == ("42\n", "")


def test_a_call_of_a_stand_in_ends_the_program_instead_of_giving_nonsense(site_packages: Path) -> None:
    stub(site_packages)
    result = ask(site_packages, gpu=1)
    assert result.returncode < 0
    assert result.stdout == ""


def test_a_library_that_is_there_is_left_alone(site_packages: Path, tmp_path: Path) -> None:
    installed = site_packages / "nvidia" / "cu13" / "lib"
    installed.mkdir(parents=True)
    for name in (VERSIONED, PLAIN):
        (tmp_path / name).rename(installed / name)
    before = sorted(site_packages.rglob("*"))
    assert stub(site_packages) == ""
    assert sorted(site_packages.rglob("*")) == before


def test_the_driver_is_never_stood_in_for() -> None:
    assert plan_stubs(Needs(libraries={"libcuda.so.1"}), set()) == {}
