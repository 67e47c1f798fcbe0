"""From an answer's text to a label (``category_extractor``): contains, regex and JSON schema, in the order written.

Patterns are run on a clock, since one that backtracks without end would hold up everything behind it, and schemas fetch
nothing. Knows no tokens.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs
import regex
from llm_api.config.features import CASE_SENSITIVE, CategoryOutputFeature, Match

from llm_runner.errors import ConfigInvalid
from llm_runner.generate.labels import plain_text

PATTERN_SECONDS = 1.0

Matcher = Callable[[str], bool]


class PatternTooSlow(ConfigInvalid):
    """A regular expression didn't come to an end on one answer; others may well pass."""


@dataclass(frozen=True)
class CategoryExtractor:
    """Finds the label of an answer."""

    matchers: Mapping[str, Matcher]
    """By label, in the order in which they are tried."""
    fallback_label: str
    label_of_text: Mapping[str, str] = field(default_factory=dict)
    """Answers that are a label's own text, where they can be nothing else."""

    @property
    def labels(self) -> list[str]:
        return list(self.matchers)

    def extract(self, answer: str) -> str:
        """The label, or the fallback. Raises PatternTooSlow."""
        found = self.find(answer)
        return self.fallback_label if found is None else found

    def find(self, answer: str) -> str | None:
        """The first label that matches, or None."""
        if (label := self.label_of_text.get(answer.strip())) is not None:
            return label
        return next((label for label, matches in self.matchers.items() if matches(answer)), None)


def build_extractor(feature: CategoryOutputFeature) -> CategoryExtractor:
    """Raises ConfigInvalid where a pattern or schema can't be used."""
    matches = feature.decoder.match
    texts = {plain_text(label, match): label for label, match in reversed(matches.items())}
    fallback = feature.effective_fallback_label
    if fallback is None:
        raise ConfigInvalid("output_features.0.preprocessing.fallback_label: a category output needs one")
    return CategoryExtractor(
        {label: _build_matcher(label, match) for label, match in matches.items()},
        fallback,
        texts if feature.decoder.constrain_to_vocabulary else {},
    )


def _build_matcher(label: str, match: Match) -> Matcher:
    path = f"output_features.0.decoder.match.{label}.value"
    if match.type == "json_schema":
        return _build_schema_matcher(path, json.loads(match.value))
    value = match.value.removeprefix(CASE_SENSITIVE)
    is_sensitive = match.case_sensitive or value != match.value
    if match.type == "regex":
        return _Pattern(path, value, is_sensitive)
    if is_sensitive:
        return lambda answer: value in answer
    folded = value.casefold()
    return lambda answer: folded in answer.casefold()


class _Pattern:
    """A regular expression with a time limit."""

    def __init__(self, path: str, pattern: str, is_sensitive: bool) -> None:
        self._path = path
        try:
            self._compiled = regex.compile(pattern, 0 if is_sensitive else regex.IGNORECASE)
        except regex.error as error:
            raise ConfigInvalid(f"{path}: {pattern!r} is no regular expression: {error}") from error

    def __call__(self, text: str) -> bool:
        try:
            return self._compiled.search(text, timeout=PATTERN_SECONDS) is not None
        except TimeoutError as error:
            raise PatternTooSlow(
                f"{self._path}: {self._compiled.pattern!r} took more than {PATTERN_SECONDS:g} s on an answer of "
                f"{len(text)} characters; write it without choices that overlap under a repeat, such as (a|aa)+"
            ) from error


def _build_schema_matcher(path: str, schema: dict[str, Any]) -> Matcher:
    """For answers that are JSON and fit ``schema``, whose own patterns can't backtrack without end either."""
    try:
        validator = jsonschema_rs.validator_for(schema, offline=True)
    except jsonschema_rs.ValidationError as error:
        raise ConfigInvalid(
            f"{path}: can't be used as a JSON schema: {error.message}; it may refer to nothing outside itself"
        ) from error

    def fits(answer: str) -> bool:
        try:
            return validator.is_valid(json.loads(answer))
        except (ValueError, RecursionError):
            return False

    return fits
