"""Importing the contract is quick and brings nothing heavy along, whichever part of it is imported."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.repository import ROOT

SECONDS = 0.5
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "numpy",
    "kubernetes",
    "kopf",
    "boto3",
    "requests",
    "llm_runner",
    "llm_operator",
}
MODULES = sorted(
    ".".join(path.relative_to(ROOT / "api").with_suffix("").parts)
    for path in (ROOT / "api" / "llm_api").rglob("*.py")
    if not path.stem.startswith("__")
)


def run_python(code: str, cache: Path) -> str:
    """In a process of its own, which finds the bytecode that an earlier one has left."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(cache)
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_all_of_the_contract_is_imported_in_less_than_half_a_second_of_processor_time(tmp_path: Path) -> None:
    code = f"import time; import {', '.join(MODULES)}; print(time.process_time())"
    run_python(code, tmp_path)
    assert min(float(run_python(code, tmp_path)) for _ in range(5)) < SECONDS


def test_no_part_of_the_contract_brings_a_heavy_library_along(tmp_path: Path) -> None:
    code = f"import sys; import {', '.join(MODULES)}; print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in run_python(code, tmp_path).split()}
    assert loaded & HEAVY == set()
    assert {"llm_api", "pydantic", "yaml"} <= loaded
