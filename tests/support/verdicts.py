"""Tables of sections that are accepted, and of sections that are refused at one place, for the tests of each section.

A line is the YAML of what stands in a section; the reason beside it is the page's, in a few words.
"""

from typing import NamedTuple

import pytest

from tests.support.documents import Document, build_config, issues_of, paths_of


class Accepted(NamedTuple):
    yaml: str
    reason: str


class Refused(NamedTuple):
    yaml: str
    path: str
    """Of the one error, from the root of the config."""
    reason: str


def parametrize(verdicts: list[Accepted] | list[Refused]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", verdicts, ids=[f"{case.yaml} ({case.reason})" for case in verdicts])


def within(frame: str, section: str) -> Document:
    """The least config with the YAML of a section at the place of SECTION in ``frame``."""
    return build_config(frame.replace("SECTION", section))


def assert_accepted(frame: str, case: Accepted) -> None:
    assert issues_of(within(frame, case.yaml)) == [], case.reason


def assert_refused(frame: str, case: Refused) -> None:
    assert paths_of(issues_of(within(frame, case.yaml))) == [case.path], case.reason
