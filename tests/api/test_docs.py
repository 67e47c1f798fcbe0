"""docs/config.md: as generated, complete, and true of the tests that it names."""

import shutil
from pathlib import Path

import pytest
from llm_api.docs import FILE, build_page, find_differences, main
from llm_api.docs_keys import DERIVED, find_keys, find_sections
from llm_api.docs_open import OPEN
from llm_api.docs_proofs import Claim, find_proofs, find_unproven, kinds_of, parse_claim

from tests.support.repository import ROOT

KEYS = find_keys()
PROOFS = find_proofs(ROOT)
PROVEN = [proof.claim for proof in PROOFS]
OPENED = [parse_claim(text) for text in OPEN]
KINDS = {(key.path, kind) for key in KEYS for kind in kinds_of(key)}
TEST = """
import pytest

@pytest.mark.proves("adapter.r", "adapter.alpha[adalora]")
@pytest.mark.parametrize("r", [1, 2])
def test_a_rank_is_a_rank(r: int) -> None:
    ...

def test_nothing_at_all() -> None:
    ...
"""


def root_with(folder: Path, test: str) -> Path:
    (folder / "tests").mkdir()
    (folder / "tests" / "test_ranks.py").write_text(test)
    return folder


def claimed(claim: Claim) -> set[tuple[str, str]]:
    return {(path, kind) for path, kind in KINDS if claim.covers(path, kind)}


def test_the_page_is_what_the_models_and_the_tests_say() -> None:
    assert find_differences(ROOT) == []


def test_a_page_that_is_out_of_date_or_missing_fails_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = root_with(tmp_path, TEST)
    assert main(["--check", "--root", str(root)]) == 1
    assert main(["--root", str(root)]) == 0
    assert main(["--check", "--root", str(root)]) == 0
    page = root / FILE
    page.write_text(page.read_text().replace("Rank of the update.", "Something."))
    capsys.readouterr()
    assert main(["--check", "--root", str(root)]) == 1
    assert "+| `r` | lora, adalora | Rank of the update. |" in capsys.readouterr().out
    shutil.rmtree(page.parent)
    assert main(["--check", "--root", str(root)]) == 1


def test_a_key_shows_its_meaning_default_values_and_the_test_that_proves_it(tmp_path: Path) -> None:
    lines = build_page(root_with(tmp_path, TEST)).splitlines()
    assert (
        "| `r` | lora, adalora | Rank of the update. | `8` | integer ≥ 1 "
        "| [a rank is a rank](../tests/test_ranks.py) |" in lines
    )
    alpha = next(line for line in lines if line.startswith("| `alpha` | lora, adalora"))
    assert "| `2 * r` | number > 0 | [a rank is a rank](../tests/test_ranks.py); **open** with lora: " in alpha


def test_every_key_is_proven_by_a_test_or_listed_as_open() -> None:
    unproven = {(key.path, kind) for key in KEYS for kind in find_unproven(key, [*PROVEN, *OPENED])}
    assert unproven == set()


def test_what_is_proven_is_not_listed_as_open() -> None:
    proven = set().union(*map(claimed, PROVEN))
    assert {text for text in OPEN if claimed(parse_claim(text)) & proven} == set()


def test_markers_and_the_open_list_name_keys_that_there_are() -> None:
    claims = {*PROVEN, *OPENED}
    assert {claim for claim in claims if claim.path not in {path for path, _ in KINDS}} == set()
    assert {claim for claim in claims for kind in claim.kinds if (claim.path, kind) not in KINDS} == set()


def test_every_key_and_section_says_what_it_means() -> None:
    silent = [key.path for section in find_sections() for key in section.keys if not key.meaning]
    assert silent + [section.path for section in find_sections() if not section.meaning] == []


def test_a_value_that_is_worked_out_is_one_of_a_key_that_there_is() -> None:
    assert DERIVED.keys() - {key.path for key in KEYS} == set()


def test_the_page_leads_to_every_section() -> None:
    page = build_page(ROOT)
    headings = {f"#{section.path.replace('.', '')}" for section in find_sections() if section.path}
    assert {heading for heading in headings if f"]({heading})" not in page} == set()


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ("@pytest.mark.proves(KEY)\ndef test_a(): ...", r"tests/test_ranks\.py:1: write the key as a text"),
        ("@pytest.mark.proves('a[')\ndef test_a(): ...", r"'a\[' is not a key"),
    ],
)
def test_a_marker_that_can_not_be_read_is_told(test: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        find_proofs(root_with(tmp_path, test))
