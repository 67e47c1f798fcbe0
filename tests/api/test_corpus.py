"""Agreement with the labelled configs beside the checkout: each is accepted or refused as its label says."""

import json
from functools import cache
from pathlib import Path

import pytest
import yaml
from llm_api.issues import Issue

from tests.support.documents import issues_of
from tests.support.repository import ROOT

CORPUS = Path("../shared/corpus")
MISSING = f"{CORPUS} is missing: put the labelled configs there, seen from the root of the checkout"
Label = dict[str, str]


@cache
def labels() -> list[Label]:
    """One that names no file where there is no corpus: its tests then fail rather than vanish."""
    index = ROOT / CORPUS / "index.jsonl"
    return [json.loads(line) for line in index.read_text().splitlines()] if index.is_file() else [{"id": "missing"}]


def issues_with(label: Label) -> list[Issue]:
    assert "file" in label, MISSING
    return issues_of(yaml.safe_load((ROOT / CORPUS / label["file"]).read_text()))


@pytest.mark.parametrize("label", labels(), ids=lambda label: label["id"])
def test_a_labelled_config_is_accepted_or_refused_as_its_label_says(label: Label) -> None:
    issues = issues_with(label)
    verdict = "reject" if issues else "accept"
    assert verdict == label["expect"], f"{label['rule']} ({label['basis']}); found {issues}"


@pytest.mark.parametrize("label", labels(), ids=lambda label: label["id"])
def test_every_refusal_of_a_labelled_config_says_in_a_line_where_and_what_to_do(label: Label) -> None:
    assert [issue for issue in issues_with(label) if not (issue.path and issue.message) or "\n" in str(issue)] == []


def test_the_corpus_has_labels_of_both_kinds() -> None:
    assert {label.get("expect", MISSING) for label in labels()} == {"accept", "reject"}
