"""YAML and JSON as documents: several a file, lists, and what strictness adds."""

import pytest
from llm_api.documents import DocumentError, read_documents


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("a: 1", [{"a": 1}]),
        ("a: 1\n---\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ("---\n---\na: 1\n---\n# nothing\n", [{"a": 1}]),
        ('{"a": [1, null]}', [{"a": [1, None]}]),
        ("", []),
        ("# a comment alone", []),
        ("kind: List\nitems: [{a: 1}, {b: 2}]", [{"a": 1}, {"b": 2}]),
        ("kind: List\nitems: none", [{"kind": "List", "items": "none"}]),
        ("a: &x {b: 1}\nc: *x", [{"a": {"b": 1}, "c": {"b": 1}}]),
        ("base: &x {b: 1}\nc: {<<: *x, d: 2}", [{"base": {"b": 1}, "c": {"b": 1, "d": 2}}]),
    ],
)
def test_every_document_is_read_and_a_list_stands_for_its_items(text: str, documents: list[object]) -> None:
    assert read_documents(text) == documents


@pytest.mark.parametrize(
    ("text", "value"),
    [("on", True), ("off", False), ("null", None), ("~", None), ("1e-4", "1e-4"), ("1.0e-4", 1e-4), ("'on'", "on")],
)
def test_scalars_are_read_as_yaml_1_1_does(text: str, value: object) -> None:
    assert read_documents(f"a: {text}") == [{"a": value}]


@pytest.mark.parametrize(
    ("text", "line", "column", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, "the key 'a' stands twice"),
        ("a:\n  b: {c: 1, c: 2}", 2, 13, "the key 'c' stands twice"),
        ("a: 1\n---\nb: 1\nb: 2", 4, 1, "the key 'b' stands twice"),
        ("a: [1, 2", 1, 9, "flow sequence"),
        ("a: 'b", 1, 6, "quoted scalar"),
        ("a:\n\tb: 1", 2, 1, "token"),
        ("a: !!python/object:os.system {}", 1, 4, "constructor"),
        ("? {a: 1}\n: 2", 1, 3, "unhashable"),
    ],
)
def test_what_is_not_yaml_is_told_with_line_and_column(text: str, line: int, column: int, problem: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read_documents(text)
    error = caught.value
    assert (error.line, error.column) == (line, column)
    assert problem in error.message
    assert str(error).startswith(f"line {line}, column {column}: ")


@pytest.mark.parametrize("text", ["a: \x00", "[" * 5000 + "]" * 5000], ids=["control character", "too deep"])
def test_what_cannot_be_read_at_all_is_told_without_a_trace(text: str) -> None:
    with pytest.raises(DocumentError):
        read_documents(text)
