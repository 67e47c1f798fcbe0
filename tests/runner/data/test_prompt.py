"""Prompts: a row becomes the text that the config describes, and nothing else of the row is reachable."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import pytest
from llm_api.config import load_config
from llm_runner.data.columns import plan_columns
from llm_runner.data.prompt import Prompt, build_prompt
from llm_runner.data.read import Row
from llm_runner.data.retrieval import RandomRetriever
from llm_runner.errors import DataInvalid

COLUMNS = ["question", "topic", "answer"]
ROW = {"question": "Why?", "topic": "physics", "answer": "Because."}


def prompt_of(
    prompt: dict[str, Any] | None = None,
    *,
    feature: str = "question",
    column: str | None = None,
    columns: Any = COLUMNS,
) -> Prompt:
    given = {"name": feature, "type": "text"} | ({} if column is None else {"column": column})
    config = load_config(
        {
            "base_model": "tiny",
            "input_features": [given],
            "output_features": [{"name": "answer", "type": "text"}],
            **({} if prompt is None else {"prompt": prompt}),
        }
    )
    return build_prompt(config, plan_columns(config, columns), examples(config) if prompt_has_context(prompt) else None)


def prompt_has_context(prompt: dict[str, Any] | None) -> bool:
    return prompt is not None and "retrieval" in prompt


def examples(config: Any) -> RandomRetriever:
    pool: Sequence[Row] = [{"question": f"Q{number}", "topic": "t", "answer": f"A{number}"} for number in range(1)]
    return RandomRetriever(pool, ["question"], config.prompt.retrieval.k, seed=0)


@pytest.mark.proves("input_features.name")
def test_without_a_prompt_section_the_input_column_is_the_prompt() -> None:
    assert prompt_of().render_prompt(ROW) == "Why?"


@pytest.mark.proves("input_features.column")
def test_a_features_column_is_read_where_it_is_not_its_name() -> None:
    assert prompt_of(feature="anything", column="topic").render_prompt(ROW) == "physics"


@pytest.mark.proves("prompt.template")
def test_a_template_takes_columns_by_name_and_keeps_doubled_braces() -> None:
    prompt = prompt_of({"template": 'Q: {question} ({topic}) {{"json": true}}\n'}, feature="prompt")
    assert prompt.render_prompt(ROW) == 'Q: Why? (physics) {"json": true}\n'
    assert prompt.columns.inputs == ("question", "topic")


def test_braces_in_the_data_are_only_text() -> None:
    assert prompt_of({"template": "Q: {question}"}).render_prompt({"question": "{topic} {{x}}"}) == "Q: {topic} {{x}}"


def test_a_row_needs_no_answer() -> None:
    assert prompt_of({"template": "{question}"}).render_prompt({"question": "Why?"}) == "Why?"


def test_a_task_is_put_into_the_template() -> None:
    prompt = prompt_of({"task": "Answer.", "template": "{__task__} {question}"})
    assert prompt.render_prompt(ROW) == "Answer. Why?"


def test_the_sample_is_the_input_features_column_as_it_is() -> None:
    assert prompt_of({"template": "Classify: {__sample__}\nLabel:"}).render_prompt(ROW) == "Classify: Why?\nLabel:"


def test_the_sample_of_a_feature_that_is_no_column_is_a_line_for_each_but_the_answer() -> None:
    prompt = prompt_of({"template": "{__sample__}"}, feature="prompt")
    assert prompt.render_prompt(ROW) == "question: Why?\ntopic: physics"


@pytest.mark.proves("prompt.task")
def test_a_task_alone_has_a_template_of_its_own() -> None:
    text = prompt_of({"task": "Answer the question."}).render_prompt(ROW)
    assert text == "Answer the question.\n\nInput:\nWhy?\nOutput:\n"


def test_solved_examples_look_like_the_question() -> None:
    prompt = {"task": "Answer.", "retrieval": {"type": "random", "k": 1}}
    assert prompt_of(prompt).render_prompt(ROW) == "Answer.\n\nInput:\nQ0\nOutput:\nA0\n\nInput:\nWhy?\nOutput:\n"
    prompt = {"template": "{__context__}\n--\n{question}", "retrieval": {"type": "random", "k": 1}}
    assert prompt_of(prompt).render_prompt(ROW) == "Input:\nQ0\nOutput:\nA0\n--\nWhy?"


@pytest.mark.parametrize(
    ("template", "value", "expected"),
    [
        ("{x:.2f}", 3.14159, "3.14"),
        ("{x:.2f}", "3.14159", "3.14"),
        ("{x:03d}", "7", "007"),
        ("{x:>5}", "ab", "   ab"),
        ("{x:>6}|", True, "  true|"),
        ("{x:.2f}", None, ""),
        ("{x}", 3.0, "3.0"),
        ("{x}", False, "false"),
        ("{x}", None, ""),
        ("{x}", ["a", "ü"], '["a", "ü"]'),
        ("{x}", {"k": 1}, '{"k": 1}'),
        ("{x}", date(2024, 5, 31), "2024-05-31"),
        ("{x:%d.%m.%Y}", date(2024, 5, 31), "31.05.2024"),
        ("{x:%d.%m.%Y}", "2024-05-31", "31.05.2024"),
        ("{x:%d.%m. %H:%M}", datetime(2024, 5, 31, 7, 30), "31.05. 07:30"),
        ("{x:%d.%m. %H:%M}", "2024-05-31T07:30:00", "31.05. 07:30"),
        ("{x:%H:%M}", "07:30:00", "07:30"),
        ("{x:>12}|", date(2024, 5, 31), "  2024-05-31|"),
        ("{x:.0%}", "0.25", "25%"),
    ],
)
def test_values_of_every_kind_become_text(template: str, value: Any, expected: str) -> None:
    prompt = prompt_of({"template": template}, columns=["x", "answer"])
    assert prompt.render_prompt({"x": value}) == expected


def test_a_value_that_does_not_fit_its_format_is_shown() -> None:
    prompt = prompt_of({"template": "{x:.2f}"}, columns=["x", "answer"])
    with pytest.raises(DataInvalid, match=r"\{x:\.2f\} can't format 'many' of column 'x'"):
        prompt.render_prompt({"x": "many"})
    with pytest.raises(DataInvalid, match=r"\{x:%d\.%m\.\} can't format 'in May' of column 'x'"):
        prompt_of({"template": "{x:%d.%m.}"}, columns=["x", "answer"]).render_prompt({"x": "in May"})


def test_a_row_that_lacks_columns_is_told_which_it_has() -> None:
    with pytest.raises(DataInvalid, match="no 'question', 'topic'; the columns there are: 'q', 'answer'"):
        prompt_of({"template": "{question} {topic}"}).render_prompt({"q": "Why?", "answer": "x"})
