"""What the documents promise is there: their links, the make targets and the commands that they show."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.repository import ROOT, repository_files

LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
MAKE_TARGET = re.compile(r"`make ([a-z-]+)|^make ([a-z-]+)", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
DOCUMENTS = repository_files(".md")


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    targets = LINK.findall((ROOT / document).read_text())
    assert [target for target in targets if not (ROOT / document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    named = {"".join(pair) for pair in MAKE_TARGET.findall((ROOT / document).read_text())}
    assert named - make_targets() == set()


def test_make_alone_lists_the_targets_with_what_they_do() -> None:
    result = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True)
    lines = [COLOUR.sub("", line).split(maxsplit=1) for line in result.stdout.splitlines()]
    assert {"demo", "test", "lint", "crds", "model", "bench", "clean"} <= {line[0] for line in lines}
    assert [line for line in lines if len(line) < 2] == []


def test_every_example_is_named_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    examples = [path.as_posix() for path in repository_files(".yaml") if path.parent == Path("examples")]
    assert examples
    assert [example for example in examples if example not in readme] == []
