"""The grammar of prompt templates: Python's format strings with plain names only. Renders nothing."""

from dataclasses import dataclass
from string import Formatter

SAMPLE, TASK, CONTEXT = "__sample__", "__task__", "__context__"
SPECIAL = frozenset({SAMPLE, TASK, CONTEXT})


class TemplateError(ValueError):
    """The template can't be read; says where and what to write."""


@dataclass(frozen=True)
class Template:
    """A template's parts."""

    variables: tuple[str, ...]
    """Columns and special names in order of first use."""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name in self.variables if name not in SPECIAL)


def parse_template(text: str) -> Template:
    """Raises TemplateError for unbalanced braces, nameless placeholders, and access to attributes or items."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise TemplateError(
            f"the template's braces don't fit: {error}; write {{{{ and }}}} for braces in text"
        ) from error
    fields = [(name, spec or "", conversion) for _, name, spec, conversion in parts if name is not None]
    for name, spec, conversion in fields:
        _check_name(name)
        _check_format(name, spec, conversion)
    return Template(tuple(dict.fromkeys(name for name, _, _ in fields)))


def _check_format(name: str, spec: str, conversion: str | None) -> None:
    if conversion:
        raise TemplateError(f"{{{name}!{conversion}}} has a conversion; write {{{name}}}, or a format after a colon")
    if "{" in spec:
        raise TemplateError(f"the format of {{{name}}} may not hold braces itself")
    if spec and name in SPECIAL:
        raise TemplateError(f"{{{name}:{spec}}} has a format, which only columns can have; write {{{name}}}")


def _check_name(name: str) -> None:
    if not name.strip():
        raise TemplateError("{} names no column; write the column's name between the braces")
    if name.strip() in SPECIAL and name != name.strip():
        raise TemplateError(f"{{{name}}} has spaces; write {{{name.strip()}}}")
    if name[0] in "\"'{[" or "\n" in name:
        raise TemplateError(f"{{{name}...}} looks like JSON; double the braces that are text: {{{{ and }}}}")
    if name.isdecimal():
        raise TemplateError(f"{{{name}}} is a position, not a column's name")
    if "." in name or "[" in name:
        raise TemplateError(f"{{{name}}} reaches into a value; only whole columns can be named")
