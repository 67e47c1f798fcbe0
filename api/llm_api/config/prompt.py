"""The prompt: a template over the data's columns, a task, and examples retrieved for each row."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from llm_api.config.scalars import Count, Name, Text
from llm_api.config.template import CONTEXT, TASK, parse_template
from llm_api.model import Model, Rule

_SHOWN = "self.template.replace('{{', '')"
"""CEL: the template without doubled braces, so that every brace left opens a place to fill."""
_RETRIEVES = "(has(self.retrieval) && has(self.retrieval.type))"


class Retrieval(Model):
    """Rows of the training data that are shown in a prompt as examples."""

    lookalikes: ClassVar = {"top_k": "k", "num_samples": "k", "model": "model_name", "index": "index_name"}
    rules: ClassVar = (
        Rule(
            name="retrieval-k",
            message="retrieval needs k, the number of examples, of 1 or more",
            holds=lambda retrieval: retrieval.type is None or retrieval.k >= 1,
            cel="!has(self.type) || (has(self.k) && self.k >= 1)",
            path="k",
            needs=("type", "k"),
        ),
        Rule(
            name="retrieval-semantic-model",
            message="semantic retrieval needs model_name, the model that makes the embeddings",
            holds=lambda retrieval: retrieval.type != "semantic" or retrieval.model_name is not None,
            cel="!has(self.type) || self.type != 'semantic' || has(self.model_name)",
            path="model_name",
            needs=("type", "model_name"),
        ),
        Rule(
            name="retrieval-type",
            message="retrieval needs a type, random or semantic, or none of its other keys",
            holds=lambda it: it.type is not None or (it.k == 0 and it.model_name is None and it.index_name is None),
            cel="has(self.type) || ((!has(self.k) || self.k == 0) && !has(self.model_name) && !has(self.index_name))",
            path="type",
            needs=("type", "k", "model_name", "index_name"),
        ),
    )

    type: Literal["random", "semantic"] | None = None
    """How examples are chosen: at random, or by likeness of meaning. Null shows none."""
    index_name: Name | None = None
    """The name that the index of a semantic retrieval is stored under."""
    model_name: Name | None = None
    """The model that makes the embeddings of a semantic retrieval: a hub id or a path."""
    k: Count = 0
    """How many examples a prompt shows."""


def _check_template(text: str) -> str:
    """TemplateError is a ValueError: what it says is shown at the field."""
    parse_template(text)
    return text


def _variables(prompt: "Prompt") -> frozenset[str] | None:
    """None where there is no template."""
    return None if prompt.template is None else frozenset(parse_template(prompt.template).variables)


def _names(prompt: "Prompt", variable: str) -> bool:
    variables = _variables(prompt)
    return variables is None or variable in variables


class Prompt(Model):
    """What is put around and into the text that the model sees."""

    rules: ClassVar = (
        Rule(
            name="prompt-template-has-column",
            message="the template must show something of the row: name a column in braces, or {__sample__} for all",
            holds=lambda prompt: (found := _variables(prompt)) is None or bool(found - {TASK, CONTEXT}),
            cel=f"!has(self.template)"
            f" || {_SHOWN}.replace('{{{TASK}}}', '').replace('{{{CONTEXT}}}', '').contains('{{')",
            path="template",
            needs=("template",),
        ),
        Rule(
            name="prompt-template-has-task",
            message="with a task the template must say where it goes: add {__task__} to it",
            holds=lambda prompt: prompt.task is None or _names(prompt, TASK),
            cel=f"!has(self.task) || !has(self.template) || {_SHOWN}.contains('{{{TASK}}}')",
            path="template",
            needs=("template", "task"),
        ),
        Rule(
            name="prompt-task-for-template",
            message="the template has {__task__} but there is no task; write prompt.task, or take {__task__} out",
            holds=lambda prompt: prompt.task is not None or TASK not in (_variables(prompt) or ()),
            cel=f"has(self.task) || !has(self.template) || !{_SHOWN}.contains('{{{TASK}}}')",
            path="task",
            needs=("template", "task"),
        ),
        Rule(
            name="prompt-template-has-context",
            message="with retrieval the template must say where the examples go: add {__context__} to it",
            holds=lambda prompt: prompt.retrieval.type is None or _names(prompt, CONTEXT),
            cel=f"!{_RETRIEVES} || !has(self.template) || {_SHOWN}.contains('{{{CONTEXT}}}')",
            path="template",
            needs=("template", "retrieval.type"),
        ),
        Rule(
            name="prompt-context-for-template",
            message="the template has {__context__} but nothing is retrieved; write prompt.retrieval, or take it out",
            holds=lambda prompt: prompt.retrieval.type is not None or CONTEXT not in (_variables(prompt) or ()),
            cel=f"{_RETRIEVES} || !has(self.template) || !{_SHOWN}.contains('{{{CONTEXT}}}')",
            path="retrieval.type",
            needs=("template", "retrieval.type"),
        ),
        Rule(
            name="prompt-retrieval-needs-prompt",
            message="retrieval needs a task, or a template with {__context__}",
            holds=lambda prompt: prompt.retrieval.type is None or not (prompt.task is None and prompt.template is None),
            cel=f"!{_RETRIEVES} || has(self.task) || has(self.template)",
            path="task",
            needs=("template", "task", "retrieval.type"),
        ),
    )

    template: Annotated[Text, AfterValidator(_check_template)] | None = None
    """The prompt, with columns in braces as in {question}, or in a format as in {price:.2f} and {day:%d.%m.%Y};
    {__sample__}, {__task__} and {__context__} stand for the input's column, else the whole row, the task and the
    retrieved examples. Null: the input column as it is, or a template for the task."""
    task: Annotated[Text, Field(min_length=1)] | None = None
    """What the model is to do, in words; enough by itself, the template around it is then ours."""
    retrieval: Retrieval = Retrieval()
    """Examples from the training data."""

    @property
    def variables(self) -> frozenset[str]:
        """What the template names, special names included; none without a template."""
        return _variables(self) or frozenset()
