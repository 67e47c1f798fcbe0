"""From answers to labels: by text, pattern and schema, in the order written, and in bounded time."""

import json
import time
from typing import Any

import pytest
from llm_api.config.features import CategoryOutputFeature
from llm_runner.errors import ConfigInvalid
from llm_runner.generate.categories import CategoryExtractor, PatternTooSlow, build_extractor


def extractor(match: dict[str, Any], *, fallback: str | None = None, **decoder: Any) -> CategoryExtractor:
    return build_extractor(
        CategoryOutputFeature.model_validate(
            {
                "name": "label",
                "type": "category",
                "preprocessing": {"fallback_label": next(iter(match)) if fallback is None else fallback},
                "decoder": {"match": match, **decoder},
            }
        )
    )


def contains(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "contains", "value": value, **more}


def pattern(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "regex", "value": value, **more}


MOODS = {"negative": contains("negative"), "neutral": contains("neutral"), "positive": contains("positive")}


@pytest.mark.proves(
    "output_features.decoder.match.type",
    "output_features.decoder.match.value",
    "output_features.preprocessing.fallback_label",
)
@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("positive", "positive"),
        ("  The mood is Negative.\n", "negative"),
        ("POSITIVE!", "positive"),
        ("I can't say", "neutral"),
        ("", "neutral"),
        ("positive, not negative", "negative"),
    ],
)
def test_the_first_label_in_the_written_order_that_stands_in_an_answer_is_its_label(answer: str, label: str) -> None:
    assert extractor(MOODS, fallback="neutral").extract(answer) == label


def test_no_match_is_told_apart_from_a_match_of_the_fallback() -> None:
    moods = extractor(MOODS, fallback="neutral")
    assert (moods.find("I can't say"), moods.find("neutral")) == (None, "neutral")


@pytest.mark.proves("output_features.decoder.match.type", "output_features.decoder.match.case_sensitive")
@pytest.mark.parametrize(
    ("match", "answers"),
    [
        (contains("US"), {"us": True, "US": True}),
        (contains("US", case_sensitive=True), {"us": False, "US": True}),
        (contains("(?-i)US"), {"us": False, "US": True}),
        (contains("straße"), {"STRASSE": True}),
        (pattern(r"\bus\b"), {"US": True, "bus": False}),
        (pattern(r"\bUS\b", case_sensitive=True), {"us": False, "US": True}),
        (pattern(r"(?-i:US)"), {"us": False, "US": True}),
        (pattern(r"^\s*(yes|y)\b"), {"Yes, sure": True, "oh yes": False}),
    ],
    ids=str,
)
def test_case_differs_only_where_it_is_written(match: dict[str, Any], answers: dict[str, bool]) -> None:
    found = extractor({"other": contains("never said"), "it": match})
    assert {answer: found.find(answer) == "it" for answer in answers} == answers


SCHEMA = {
    "type": "object",
    "required": ["mood"],
    "properties": {"mood": {"enum": ["good"]}, "code": {"type": "string", "pattern": "^(a+)+$"}},
}


@pytest.mark.proves("output_features.decoder.match.type", "output_features.decoder.match.value")
@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ('{"mood": "good"}', "good"),
        (' {"mood": "good", "code": "aa"}\n', "good"),
        ('{"mood": "bad"}', "other"),
        ('{"mood": "good"', "other"),
        ("good", "other"),
        ("[" * 100_000, "other"),
    ],
    ids=["fits", "fits too", "another value", "no JSON", "text", "nested without end"],
)
def test_a_schema_matches_answers_that_are_json_and_fit_it(answer: str, label: str) -> None:
    schema = {"type": "json_schema", "value": json.dumps(SCHEMA)}
    assert extractor({"other": contains("never said"), "good": schema}).extract(answer) == label


def test_a_schemas_own_pattern_comes_to_an_end_too() -> None:
    schema = {"type": "json_schema", "value": json.dumps(SCHEMA)}
    start = time.monotonic()
    answer = json.dumps({"mood": "good", "code": "a" * 5000 + "b"})
    assert extractor({"other": contains("never said"), "good": schema}).extract(answer) == "other"
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "nonsense"}, '"nonsense" is not valid'),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "may refer to nothing outside itself"),
        ({"type": "string", "pattern": "("}, '"(" is not a "regex"'),
    ],
    ids=["no type", "reference", "pattern"],
)
def test_a_schema_that_can_not_be_used_is_refused_with_its_label(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        extractor({"good": {"type": "json_schema", "value": json.dumps(schema)}})
    assert "output_features.0.decoder.match.good.value" in str(refused.value)
    assert told in str(refused.value)


def test_a_pattern_that_backtracks_without_end_is_broken_off_and_named() -> None:
    slow = extractor({"other": contains("never said"), "slow": pattern(r"^(a|aa)+$")})
    start = time.monotonic()
    with pytest.raises(
        PatternTooSlow, match=r"match\.slow\.value: .* took more than 1 s on an answer of 61 characters"
    ):
        slow.extract("a" * 60 + "b")
    assert time.monotonic() - start < 30
    assert slow.extract("aaa") == "slow"


@pytest.mark.proves("output_features.decoder.constrain_to_vocabulary")
def test_an_answer_that_can_only_be_a_labels_own_text_is_that_label() -> None:
    match = {"spam": contains("spam"), "not spam": contains("not spam"), "even": pattern(r"\d*[02468]")}
    assert extractor(match, constrain_to_vocabulary=True).extract(" not spam") == "not spam"
    assert extractor(match, constrain_to_vocabulary=True).extract("even") == "even"
    assert extractor(match).extract(" not spam") == "spam"
