"""Stand-ins for CUDA's libraries, so that the torch that PyPI serves starts where no GPU will ever be.

That torch is linked against some 3 GB of NVIDIA's libraries and won't be imported without them, though on a CPU it
calls none. For each one that is missing this writes a library of a few kilobytes with the same names in it; whoever
does call one of them is stopped at once. It needs a C compiler and binutils, and no package of Python's. It changes
nothing where the libraries, or a torch that doesn't want them, are there.
"""

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

NVIDIA_LIBRARY = re.compile(r"\(NEEDED\).*\[(lib(?:cu|nv|nccl)[^\]]+)\]")
DRIVER = "libcuda.so.1"
"""Comes with the machine, never with a package; torch opens it only if it is there."""
UNVERSIONED = ""


@dataclass
class Needs:
    """What the libraries of one folder expect from others."""

    libraries: set[str] = field(default_factory=set)
    versions: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Library -> the symbol versions that are expected of it."""
    symbols: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Symbol version -> names."""


def observe_needs(folder: Path) -> Needs:
    needs = Needs()
    for library in sorted(folder.glob("*.so")):
        needs.libraries |= set(NVIDIA_LIBRARY.findall(read("readelf", "-dW", str(library))))
        for name, version in parse_versions(read("readelf", "-VW", str(library))):
            needs.versions[name].add(version)
        for line in read("nm", "-D", "--undefined-only", str(library)).splitlines():
            symbol, _, version = line.split()[-1].partition("@")
            needs.symbols[version.lstrip("@")].add(symbol)
    return needs


def parse_versions(listing: str) -> Iterator[tuple[str, str]]:
    """Pairs of library and symbol version, from what readelf says of the versions that are needed."""
    library = None
    for line in listing.splitlines():
        if found := re.search(r"File: (\S+)", line):
            library = found[1]
        elif library is not None and (found := re.search(r"Name: (\S+)\s+Flags", line)):
            yield library, found[1]


def read(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def plan_stubs(needs: Needs, there: set[str]) -> dict[str, dict[str, set[str]]]:
    """Missing library -> symbol version -> names that its stand-in must have."""
    missing = sorted(needs.libraries - there - {DRIVER})
    return {library: plan_symbols(library, needs) for library in missing}


def plan_symbols(library: str, needs: Needs) -> dict[str, set[str]]:
    if library in needs.versions:
        return {version: needs.symbols[version] for version in needs.versions[library]}
    prefix = re.split(r"[_.]", library.removeprefix("lib"))[0]
    return {UNVERSIONED: {symbol for symbol in needs.symbols[UNVERSIONED] if symbol.startswith(prefix)}}


def write_stub(path: Path, symbols: dict[str, set[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder, "stub.c"), Path(folder, "versions")
        source.write_text(build_source(set().union(*symbols.values())))
        script.write_text(build_version_script(symbols))
        linking = [f"-Wl,-soname,{path.name}", f"-Wl,--version-script,{script}"]
        subprocess.run(
            ["gcc", "-shared", "-nostdlib", "-fno-builtin", "-w", *linking, "-o", str(path), str(source)], check=True
        )


def build_source(symbols: set[str]) -> str:
    return "".join(f"void {symbol}(void) {{ __builtin_trap(); }}\n" for symbol in sorted(symbols))


def build_version_script(symbols: dict[str, set[str]]) -> str:
    return "".join(
        f"{version} {{ global: {' '.join(f'{name};' for name in names)} }};\n" if version else "{ global: *; };\n"
        for version, names in symbols.items()
        if names
    )


def main(site_packages: str) -> None:
    packages = Path(site_packages)
    folder = packages / "torch" / "lib"
    there = {path.name for path in [*folder.iterdir(), *packages.glob("nvidia/*/lib/*")]}
    for library, symbols in plan_stubs(observe_needs(folder), there).items():
        write_stub(folder / library, symbols)
        sys.stdout.write(f"{library}: a stand-in with {sum(map(len, symbols.values()))} names\n")


if __name__ == "__main__":
    main(sys.argv[1])
