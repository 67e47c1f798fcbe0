"""A prompt template as parts: literal text, and fields that a row fills.

The config's own template, or ours where only a task is set. Fields name columns, never an attribute or an item of a
value. Knows no rows.
"""

import string
from dataclasses import dataclass

from llm_api.config import Prompt as PromptConfig
from llm_api.config.template import CONTEXT, SAMPLE, TASK

SPECIAL_FIELDS = frozenset({SAMPLE, TASK, CONTEXT})

TASK_TEMPLATE = "{__task__}\n\nInput:\n{__sample__}\nOutput:\n"
TASK_CONTEXT_TEMPLATE = "{__task__}\n\n{__context__}\n\nInput:\n{__sample__}\nOutput:\n"


@dataclass(frozen=True)
class Field:
    """A place that a column, or one of SPECIAL_FIELDS, fills."""

    name: str
    spec: str = ""


@dataclass(frozen=True)
class Template:
    """Text and fields in their order."""

    parts: tuple[str | Field, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(field.name for field in self._fields if field.name not in SPECIAL_FIELDS))

    @property
    def has_sample(self) -> bool:
        return any(field.name == SAMPLE for field in self._fields)

    @property
    def _fields(self) -> list[Field]:
        return [part for part in self.parts if isinstance(part, Field)]


def build_template(prompt: PromptConfig, input_column: str) -> Template:
    """The config's template; ours where it has only a task; the input column as it is where it has neither."""
    if prompt.template is not None:
        return split_template(prompt.template)
    if prompt.task is None:
        return Template((Field(input_column),))
    return split_template(TASK_TEMPLATE if prompt.retrieval.type is None else TASK_CONTEXT_TEMPLATE)


def split_template(text: str) -> Template:
    """The parts of a template that the config has accepted; conversions as in ``{name!r}`` are left out."""
    parts: list[str | Field] = []
    for literal, name, spec, _ in string.Formatter().parse(text):
        if literal:
            parts.append(literal)
        if name is not None:
            parts.append(Field(name, spec or ""))
    return Template(tuple(parts))
