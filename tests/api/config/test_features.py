"""Input and output features: one text in, one text or label out."""

import pytest
from llm_api.config import CategoryOutputFeature, load_config

from tests.support.documents import build_config
from tests.support.verdicts import Accepted, Refused, assert_accepted, assert_refused, parametrize

INPUT = "input_features: [SECTION]"
OUTPUT = "output_features: [SECTION]"
CATEGORY = "output_features: [{name: label, type: category, preprocessing: {fallback_label: good}, decoder: SECTION}]"
RULE = CATEGORY.replace(
    "SECTION", "{type: category_extractor, match: {good: {type: contains, value: a}, bad: SECTION}}"
)
LABELS = "{good: {type: contains, value: good}, bad: {type: contains, value: bad}}"

ACCEPTED_INPUTS = [
    Accepted("{name: input, type: text}", "the page's example"),
    Accepted("{name: prompt, column: question, type: text}", "the column of another name"),
    Accepted("{name: input, type: text, preprocessing: null}", "a null section is one that was left out"),
    Accepted("{name: input, type: text, preprocessing: {max_sequence_length: 1}}", "a positive integer"),
    Accepted("{name: input, type: text, preprocessing: {max_sequence_length: 512}}", "a positive integer"),
    Accepted("{name: input, type: text, preprocessing: {max_sequence_length: null}}", "null is no limit"),
    Accepted("{name: input, type: text, preprocessing: {lowercase: true}}", "options true, false"),
    Accepted("{name: input, type: text, preprocessing: {tokenizer: hf_tokenizer}}", "the model's own tokenizer"),
    *(
        Accepted(f"{{name: input, type: text, preprocessing: {{missing_value_strategy: {option}}}}}", "an option")
        for option in ("fill_with_const", "fill_with_mode", "bfill", "ffill", "drop_row")
    ),
]

REFUSED_INPUTS = [
    *(
        Refused(f"{{name: input, type: {kind}}}", "input_features[0].type", "the input is of type text")
        for kind in ("category", "binary", "number", "image", "audio", "set", "vector", "Text", "null")
    ),
    Refused("{name: input}", "input_features[0].type", "a feature has a type"),
    Refused("{type: text}", "input_features[0].name", "the name is the column's"),
    Refused("{name: null, type: text}", "input_features[0].name", "the name is the column's"),
    Refused("{name: '', type: text}", "input_features[0].name", "the name is the column's"),
    Refused("{name: 5, type: text}", "input_features[0].name", "a name is text"),
    Refused("prompt", "input_features[0]", "a feature is a mapping"),
    Refused(
        "{name: input, type: text, encoder: {type: bert}}", "input_features[0].encoder", "means nothing for an LLM"
    ),
    Refused("{name: input, type: text, tied: other}", "input_features[0].tied", "means nothing for an LLM"),
    Refused("{name: input, type: text, preprocesing: {}}", "input_features[0].preprocesing", "a typo would be lost"),
    *(
        Refused(
            f"{{name: input, type: text, preprocessing: {{max_sequence_length: {length}}}}}",
            "input_features[0].preprocessing.max_sequence_length",
            "max_sequence_length is a positive integer or null",
        )
        for length in ("0", "-1", "'128'", "128.5", "128.0", "true", "1e3", "[128]")
    ),
    *(
        Refused(
            f"{{name: input, type: text, preprocessing: {{{key}: {value}}}}}",
            f"input_features[0].preprocessing.{key}",
            reason,
        )
        for key, value, reason in [
            ("max_seq_length", "128", "a typo leaves the length unlimited"),
            ("tokenizer", "space", "an LLM brings its own tokenizer"),
            ("vocab_file", "a.txt", "an LLM brings its own tokenizer"),
            ("most_common", "100", "an LLM brings its own tokenizer"),
            ("padding", "left", "an LLM brings its own tokenizer"),
            ("missing_value_strategy", "guess", "not one of the options"),
            ("lowercase", "1", "options true, false"),
            ("lowercase", "'true'", "options true, false"),
        ]
    ),
]

ACCEPTED_OUTPUTS = [
    Accepted("{name: response, type: text}", "the page's example"),
    Accepted("{name: response, type: text, preprocessing: {max_sequence_length: 64}}", "a positive integer"),
    Accepted("{name: response, type: text, decoder: {type: text_extractor}}", "the decoder of text"),
    Accepted("{name: response, type: text, decoder: {type: text_extractor, tokenizer: hf_tokenizer}}", "the default"),
    Accepted("{name: response, type: text, decoder: null}", "a null section is one that was left out"),
    Accepted(
        f"{{name: l, type: category, preprocessing: {{fallback_label: good}}, decoder: {{match: {LABELS}}}}}",
        "the page asks for match values and a fallback label, no more",
    ),
    Accepted(
        f"{{name: l, type: category, decoder: {{type: category_extractor, match: {LABELS}, fallback_label: bad}}}}",
        "the fallback where the implementation has it too",
    ),
]

REFUSED_OUTPUTS = [
    *(
        Refused(f"{{name: response, type: {kind}}}", "output_features[0].type", "text or category")
        for kind in ("number", "set", "binary", "vector", "TEXT", "null")
    ),
    Refused("{name: response}", "output_features[0].type", "a feature has a type"),
    Refused("{type: text}", "output_features[0].name", "the name is the column's"),
    Refused("{name: response, type: text, decoder: {type: generator}}", "output_features[0].decoder.type", "ECD's"),
    Refused("{name: response, type: text, loss: {}}", "output_features[0].loss", "means nothing for an LLM"),
    Refused("{name: response, type: text, preprocessing: {max_sequence_length: 0}}",
            "output_features[0].preprocessing.max_sequence_length", "a positive integer"),
    Refused("{name: response, type: text, preprocessing: {fallback_label: a}}",
            "output_features[0].preprocessing.fallback_label", "labels belong to categories"),
    Refused("{name: response, type: text, decoder: {type: text_extractor, match: {}}}",
            "output_features[0].decoder.match", "labels belong to categories"),
    Refused("{name: l, type: category, preprocessing: {fallback_label: good}}",
            "output_features[0].decoder", "match values must be provided"),
    Refused(f"{{name: l, type: category, decoder: {{type: category_extractor, match: {LABELS}}}}}",
            "output_features[0].preprocessing.fallback_label", "a fallback label must be provided"),
    Refused(f"{{name: l, type: category, preprocessing: {{fallback_label: 1}}, decoder: {{match: {LABELS}}}}}",
            "output_features[0].preprocessing.fallback_label", "a label is text"),
    Refused(f"{{name: l, type: category, preprocessing: {{fallback_label: ''}}, decoder: {{match: {LABELS}}}}}",
            "output_features[0].preprocessing.fallback_label", "a label is text"),
    Refused(f"{{name: l, type: category, preprocessing: {{fallback_label: ugly}}, decoder: {{match: {LABELS}}}}}",
            "output_features[0].preprocessing.fallback_label", "a label that is not matched"),
    Refused(f"{{name: l, type: category, preprocessing: {{fallback: good}}, decoder: {{match: {LABELS}, "
            "fallback_label: good}}", "output_features[0].preprocessing.fallback", "a typo would be lost"),
]  # fmt: skip

ACCEPTED_RULES = [
    Accepted("{type: contains, value: bad}", "the page's example"),
    Accepted("{type: regex, value: '(bad|poor)$'}", "a regular expression"),
    Accepted("{type: regex, value: bad, case_sensitive: true}", "upper and lower case"),
    Accepted("{type: regex, value: '(?-i)Bad'}", "upper and lower case, in the value"),
    Accepted('{type: json_schema, value: \'{"type": "object"}\'}', "a JSON schema"),
]

REFUSED_RULES = [
    Refused("{value: bad}", "type", "a match rule has type and value"),
    Refused("{type: contains}", "value", "a match rule has type and value"),
    Refused("{type: contains, value: null}", "value", "value is text"),
    Refused("{type: contains, value: 1}", "value", "value is text; a number crashes the substring test"),
    Refused("{type: contains, value: true}", "value", "value is text"),
    Refused("{type: contains, value: ''}", "value", "the empty text is in every answer"),
    Refused("{type: equals, value: bad}", "type", "not one of the options"),
    Refused("{type: regex, value: '(bad'}", "value", "an expression that doesn't compile"),
    Refused("{type: regex, value: '*'}", "value", "an expression that doesn't compile"),
    Refused("{type: regex, value: '(?-i)*'}", "value", "an expression that doesn't compile"),
    Refused("{type: contains, value: bad, flags: i}", "flags", "it would be lost"),
]

REFUSED_DECODERS = [
    Refused("null", "", "match values must be provided"),
    Refused("{match: null}", ".match", "match values must be provided"),
    Refused("{match: {}}", ".match", "match values must be provided"),
    Refused("{match: [good, bad]}", ".match", "labels with rules"),
    Refused("{match: {good: bad}}", ".match.good", "a rule is a mapping"),
    Refused(f"{{type: text_extractor, match: {LABELS}}}", ".type", "category needs the category_extractor"),
    Refused(f"{{type: classifier, match: {LABELS}}}", ".type", "an ECD decoder on an LLM output"),
    Refused(f"{{match: {LABELS}, matches: {LABELS}}}", ".matches", "a typo would be lost"),
    Refused(f"{{match: {LABELS}, str2idx: {{good: 0}}}}", ".str2idx", "means nothing here"),
    Refused(f"{{match: {LABELS}, tokenizer: space}}", ".tokenizer", "an LLM brings its own tokenizer"),
]


@parametrize(ACCEPTED_INPUTS)
def test_an_input_that_the_page_allows_is_accepted(case: Accepted) -> None:
    assert_accepted(INPUT, case)


@parametrize(REFUSED_INPUTS)
def test_an_input_that_the_page_does_not_allow_is_refused(case: Refused) -> None:
    assert_refused(INPUT, case)


@parametrize(ACCEPTED_OUTPUTS)
def test_an_output_that_the_page_allows_is_accepted(case: Accepted) -> None:
    assert_accepted(OUTPUT, case)


@parametrize(REFUSED_OUTPUTS)
def test_an_output_that_the_page_does_not_allow_is_refused(case: Refused) -> None:
    assert_refused(OUTPUT, case)


@parametrize(ACCEPTED_RULES)
def test_a_label_may_be_recognized_by_a_text_an_expression_or_a_schema(case: Accepted) -> None:
    assert_accepted(RULE, case)


@parametrize(REFUSED_RULES)
def test_a_label_that_could_never_be_recognized_is_refused(case: Refused) -> None:
    assert_refused(RULE, case._replace(path=f"output_features[0].decoder.match.bad.{case.path}"))


@parametrize(REFUSED_DECODERS)
def test_a_category_without_labels_to_look_for_is_refused(case: Refused) -> None:
    assert_refused(CATEGORY, case._replace(path=f"output_features[0].decoder{case.path}"))


@pytest.mark.proves("output_features.decoder.fallback_label")
def test_a_fallback_counts_wherever_it_is_written() -> None:
    config = load_config(build_config(OUTPUT.replace("SECTION", ACCEPTED_OUTPUTS[-1].yaml)))
    output = config.output_features[0]
    assert isinstance(output, CategoryOutputFeature)
    assert output.effective_fallback_label == "bad"


def test_labels_keep_the_order_in_which_they_are_written() -> None:
    text = OUTPUT.replace("SECTION", ACCEPTED_OUTPUTS[-2].yaml)
    decoder = load_config(build_config(text)).output_features[0].decoder
    assert list(decoder.model_dump()["match"]) == ["good", "bad"]


def test_a_row_without_an_answer_is_dropped_and_one_without_a_question_is_not_unless_it_is_said() -> None:
    config = load_config(build_config())
    assert config.input_features[0].preprocessing.missing_value_strategy == "fill_with_const"
    assert config.output_features[0].preprocessing.missing_value_strategy == "drop_row"
