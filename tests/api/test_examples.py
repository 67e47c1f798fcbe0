"""Every manifest that this repository shows to users is valid, by the command that they would use."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT, repository_files

FOLDERS = (Path("examples"), Path("examples/page"))
EXAMPLES = [path for path in repository_files(".yaml") if path.parent in FOLDERS]
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN = {
    f"{path} #{number}": block
    for path in repository_files(".md")
    for number, block in enumerate(YAML_BLOCK.findall((ROOT / path).read_text()))
    if "kind: LLM" in block
}


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llm_api", "validate", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_is_valid(example: Path) -> None:
    result = validate(example)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("shown", SHOWN)
def test_a_manifest_in_a_document_is_valid(shown: str, tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(SHOWN[shown])
    result = validate(tmp_path / "shown.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_misspelt_key_in_an_example_would_be_found(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "finetune.yaml").read_text().replace("adapter:", "adaptor:")
    (tmp_path / "misspelt.yaml").write_text(text)
    result = validate(tmp_path / "misspelt.yaml")
    assert result.returncode == 1
    assert "adaptor" in result.stdout + result.stderr
    assert "adapter" in result.stdout + result.stderr
