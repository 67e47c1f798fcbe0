"""The prompt: templates with every kind of brace, tasks, and what is retrieved."""

import pytest
from llm_api.config import TemplateError, parse_template

from tests.support.verdicts import Accepted, Refused, assert_accepted, assert_refused, parametrize

PROMPT = "prompt: {SECTION}"
CONTEXT = "template: '{__context__} {review}'"

ACCEPTED = [
    Accepted("template: null, task: null, retrieval: {type: null, index_name: null, model_name: null, k: 0}",
             "the page's printed defaults"),
    Accepted("retrieval: null", "a null section is one that was left out"),
    Accepted("template: 'Review: {review}'", "a column in braces"),
    Accepted("template: 'The {color} {animal} jumped over the {size} {object}'", "the page's example"),
    Accepted("template: '{__sample__}'", "the current feature"),
    Accepted("template: '{user message 1}'", "a column's name may have spaces"),
    Accepted("template: '{prix_é}'", "a column's name may have letters of any language"),
    Accepted("template: '{review:.40}'", "a format"),
    Accepted("template: 'Return {{\"label\": 1}} for {review}'", "doubled braces are text"),
    Accepted("template: '{{{review}}}'", "a column in braces that are text"),
    Accepted("task: Classify the review.", "a task is enough"),
    Accepted("task: Classify., template: '{__task__} {review}'", "with a task the template has __task__"),
    Accepted(f"{CONTEXT}, retrieval: {{type: random, k: 2}}", "with retrieval the template has __context__"),
    Accepted("task: Classify., retrieval: {type: random, k: 2}", "the template is a default then"),
    Accepted("task: C., template: '{__task__}{__context__}{review}', retrieval: {type: random, k: 1}", "all three"),
    Accepted("task: Classify., retrieval: {type: semantic, model_name: a/b, k: 3}", "an embedding model"),
    Accepted("task: C., retrieval: {type: semantic, model_name: a/b, index_name: mine, k: 3}", "an index by name"),
]  # fmt: skip

REFUSED = [
    *(
        Refused(f"template: {template}", "prompt.template", reason)
        for template, reason in [
            ("Classify.", "must contain at least one of the columns"),
            ("''", "must contain at least one of the columns"),
            ("'{{review}}'", "doubled braces are text, so no column is left"),
            ("5", "a template is text"),
            ("['{review}']", "a template is text"),
            ("'JSON: {\"a\": {review}'", "a brace that isn't closed"),
            ("'{review'", "a brace that isn't closed"),
            ("'review} {review}'", "a brace that isn't opened"),
            ("'Return {\"label\": 1} for {review}'", "JSON braces name a variable"),
            ("\"{'label': 1} {review}\"", "JSON braces name a variable"),
            ("'{} {review}'", "nameless"),
            ("'{0} {review}'", "a position"),
            ("'{review.text}'", "no attribute access"),
            ("'{review[0]}'", "no item access"),
            ("'{review!r}'", "a conversion would be lost"),
            ("'{review:{width}}'", "a format of a column"),
            ("'{ } {review}'", "nameless"),
            ("'{review} => {answer}'", "the answer must not be in the prompt"),
        ]
    ),
    Refused("template: '{__task__} {review}'", "prompt.task", "the task that the template names is missing"),
    Refused("template: '{__context__} {review}'", "prompt.retrieval.type", "nothing is retrieved"),
    Refused("task: C., template: '{__task__}'", "prompt.template", "the same prompt for every row"),
    Refused("task: C., template: '{review}'", "prompt.template", "with a task the template has __task__"),
    Refused("task: 5", "prompt.task", "a task is text"),
    Refused("task: ''", "prompt.task", "a task says something"),
    Refused("task: [a]", "prompt.task", "a task is text"),
    Refused("tempalte: '{review}'", "prompt.tempalte", "a typo would send the raw input"),
    Refused("system: You are kind.", "prompt.system", "it would be lost"),
    Refused("template: '{review}', retrieval: {type: random, k: 2}", "prompt.template", "__context__ is missing"),
    Refused("retrieval: {type: random, k: 2}", "prompt.task", "without a template a task must be set"),
    Refused("task: C., retrieval: random", "prompt.retrieval", "a section"),
    Refused("task: C., retrieval: [random]", "prompt.retrieval", "a section"),
    *(
        Refused(f"task: C., retrieval: {{{keys}}}", f"prompt.retrieval.{key}", reason)
        for keys, key, reason in [
            ("type: nearest, k: 2", "type", "random or semantic"),
            ("type: Random, k: 2", "type", "random or semantic"),
            ("type: true, k: 2", "type", "random or semantic"),
            ("type: random", "k", "no samples would be retrieved"),
            ("type: random, k: 0", "k", "no samples would be retrieved"),
            ("type: random, k: -1", "k", "a number of samples"),
            ("type: random, k: 2.5", "k", "a number of samples"),
            ("type: random, k: '2'", "k", "a number of samples"),
            ("type: random, k: true", "k", "a number of samples"),
            ("type: random, k: null", "k", "a number of samples"),
            ("k: 3", "type", "samples are wanted but not said how"),
            ("type: semantic, k: 2", "model_name", "an embedding model is needed"),
            ("type: semantic, k: 2, model_name: ''", "model_name", "an embedding model is needed"),
            ("type: semantic, k: 2, model_name: 5", "model_name", "a name is text"),
            ("type: semantic, k: 2, model_name: a, index_name: 5", "index_name", "a name is text"),
            ("type: random, k: 2, top_k: 3", "top_k", "a typo for k"),
        ]
    ),
]


@parametrize(ACCEPTED)
def test_a_prompt_that_the_page_allows_is_accepted(case: Accepted) -> None:
    assert_accepted(PROMPT, case)


@parametrize(REFUSED)
def test_a_prompt_that_would_not_say_what_was_meant_is_refused(case: Refused) -> None:
    assert_refused(PROMPT, case)


def test_a_template_lists_its_variables_once_and_its_columns_apart_from_special_names() -> None:
    template = parse_template("{b} {__task__} {a} {b:>4} {{c}} {__sample__}")
    assert template.variables == ("b", "__task__", "a", "__sample__")
    assert template.columns == ("b", "a")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("{review", "write {{ and }} for braces in text"),
        ('{"label": 1}', "double the braces that are text"),
        ("{}", "write the column's name between the braces"),
        ("{0}", "is a position"),
        ("{a.b}", "only whole columns can be named"),
        ("{a[0]}", "only whole columns can be named"),
        ("{a!r}", "write {a}"),
        ("{a:{b}}", "may not hold braces"),
        ("{__task__:>9}", "only columns can have"),
        ("{ __task__ }", "write {__task__}"),
    ],
)
def test_a_template_that_cannot_be_read_says_what_to_write(text: str, advice: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template(text)
    assert advice in str(caught.value)
