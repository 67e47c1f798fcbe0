"""Every error of a document at once, each with its path, what was found, what to write, and the nearest known key.

pydantic finds wrong keys, types and ranges; rules between fields are then judged on what is left of the document, so
that one mistake doesn't hide another. Reads no files and prints nothing.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from llm_api.model import RULE_ERROR, TYPE_ERROR, Model, models_in
from llm_api.wording import UNKNOWN_TYPE, describe_errors

AnyModel = TypeVar("AnyModel", bound=Model)
Path = tuple[str | int, ...]

LONGEST_FOUND = 80
_OF_A_KEY = "[key]"
"""How pydantic says that it is the key of a mapping that is wrong, not what stands there."""


@dataclass(frozen=True)
class Issue:
    """One thing to mend."""

    path: str
    """``trainer.optimizer.betas[1]``; empty is the whole document."""
    message: str
    """What is wrong and what to write instead."""
    found: str | None = None
    """The value as JSON, cut to a readable length; None where nothing stands."""
    hint: str | None = None
    """The nearest known key, or where the key belongs."""

    def __str__(self) -> str:
        found = "" if self.found is None else f" (found {self.found})"
        hint = "" if self.hint is None else f"; {self.hint}"
        return f"{self.path or 'document'}: {self.message}{found}{hint}"


class InvalidConfig(ValueError):
    """A document can't be used; ``issues`` holds every reason."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__("\n".join(map(str, issues)))
        self.issues = tuple(issues)


def load(model: type[AnyModel], value: Any, *, prefix: str = "") -> AnyModel:
    """``value`` as ``model``. Raises InvalidConfig with all issues, their paths starting with ``prefix``."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = list(_issues_of_fields(model, value, error))
        bad = [path for path, _ in found]
        issues = [issue for _, issue in found] + list(_issues_of_rules(_salvage(model, value), (), bad))
    raise InvalidConfig([_with_prefix(issue, prefix) for issue in issues])


def _with_prefix(issue: Issue, prefix: str) -> Issue:
    if not prefix:
        return issue
    joined = f"{prefix}{issue.path}" if issue.path.startswith("[") or not issue.path else f"{prefix}.{issue.path}"
    return Issue(joined, issue.message, issue.found, issue.hint)


def to_text(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def _issues_of_fields(model: type[Model], value: Any, error: ValidationError) -> Iterator[tuple[Path, Issue]]:
    by_path: dict[Path, list[dict[str, Any]]] = {}
    for detail in error.errors(include_url=False):
        if detail["loc"][-1:] == (_OF_A_KEY,):
            path = _clean_path(value, detail["loc"][:-2], names_absent=False)
            yield path, Issue(to_text(path), _describe_key(detail["input"]), _shorten(detail["input"]))
        elif detail["type"] != RULE_ERROR:
            path = _clean_path(value, detail["loc"], names_absent=detail["type"] == "missing")
            by_path.setdefault(path, []).append(dict(detail))
    for path, details in by_path.items():
        if not any(_is_other_branch(details, path, deeper) for deeper in by_path):
            yield path, _to_issue(model, value, path, details)


def _describe_key(key: Any) -> str:
    """Of a mapping's key that is no text: YAML reads numbers and some words as something else."""
    words = "on, yes and true" if key is True else "off, no and false"
    return "a key here is text; put it in quotes" + (f", as {words} are no text" if isinstance(key, bool) else "")


def _is_other_branch(details: list[dict[str, Any]], path: Path, deeper: Path) -> bool:
    """Whether errors are those of a union's branches that weren't meant: one was, as its errors lie deeper."""
    is_inside = len(path) < len(deeper) and deeper[: len(path)] == path
    return is_inside and all(detail["type"].endswith("_type") for detail in details)


def _clean_path(value: Any, loc: Sequence[str | int], *, names_absent: bool) -> Path:
    """Without the names that pydantic adds for the branches of a union: those aren't in the document.

    ``names_absent``: the last part is a key that should be there.
    """
    path: list[str | int] = []
    for position, part in enumerate(loc):
        is_absent = names_absent and position == len(loc) - 1
        if is_absent or (isinstance(value, Mapping) and part in value):
            path.append(part)
            value = None if is_absent else value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
    return tuple(path)


def _to_issue(root: type[Model], value: Any, path: Path, details: list[dict[str, Any]]) -> Issue:
    holder = _model_at(root, value, path[:-1])
    key = path[-1] if path else ""
    present, found = _find(value, path)
    if details[0]["type"] in (TYPE_ERROR, *UNKNOWN_TYPE) and isinstance(found, Mapping):
        has_type, kind = _find(found, ("type",))
        options = "" if details[0]["type"] == TYPE_ERROR else f" {', '.join(map(repr, _types_at(root, value, path)))}"
        return Issue(to_text((*path, "type")), describe_errors(details) + options, _shorten(kind) if has_type else None)
    if details[0]["type"] == "extra_forbidden" and holder is not None:
        reason = holder.refused.get(str(key))
        message = "unknown key" if reason is None else f"not supported: {reason}"
        return Issue(to_text(path), message, _shorten(found), None if reason else _nearest(holder, str(key)))
    wording = describe_errors(details)
    hint = None if holder is None else _section_named(holder, str(key), found)
    return Issue(to_text(path), wording, _shorten(found) if present else None, hint)


def _types_at(root: type[Model], value: Any, path: Path) -> list[str]:
    """Those of the sections that may stand there, or in a list there."""
    place = path[:-1] if isinstance(path[-1], int) else path
    holder = _model_at(root, value, place[:-1])
    field = None if holder is None else _field_of(holder, str(place[-1]))
    options = [] if field is None else models_in(field.annotation)
    return [kind for option in options for kind in get_args(option.model_fields["type"].annotation)]


def _section_named(holder: type[Model], key: str, found: Any) -> str | None:
    """For a name where a section must stand: the section of that type."""
    field = _field_of(holder, key)
    options = [] if field is None else models_in(field.annotation)
    is_type = isinstance(found, str) and len(options) > 1 and choose_model(options, {"type": found}) is not None
    return f"did you mean {{type: {found}}}?" if is_type else None


def _nearest(holder: type[Model], key: str) -> str:
    known = field_names(holder)
    if key in holder.lookalikes:
        return f"did you mean {holder.lookalikes[key]}?"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6) or _longer(key, known)
    return f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"


def _longer(key: str, known: Sequence[str]) -> list[str]:
    """The one key that begins so."""
    longer = [name for name in known if name.startswith(f"{key}_")]
    return longer if len(longer) == 1 else []


def field_names(model: type[Model]) -> list[str]:
    """The keys as they are written in a document."""
    return [name if field.alias is None else field.alias for name, field in model.model_fields.items()]


def _find(value: Any, path: Path) -> tuple[bool, Any]:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False, None
    return True, value


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_FOUND else f"{text[: LONGEST_FOUND - 1]}…"


def _model_at(model: type[Model], value: Any, path: Path) -> type[Model] | None:
    """The class that describes the object at ``path``."""
    current: type[Model] | None = model
    options, is_keyed = [model], False
    for part in path:
        if isinstance(part, str) and not is_keyed:
            field = None if current is None else _field_of(current, part)
            options, is_keyed = ([], False) if field is None else (models_in(field.annotation), _is_keyed(field))
        else:
            is_keyed = False
        _, value = _find(value, (part,))
        current = None if is_keyed or isinstance(value, list) else choose_model(options, value)
    return current


def _is_keyed(field: FieldInfo) -> bool:
    """Whether the field is a mapping whose keys are the user's own."""
    return get_origin(field.annotation) is dict


def _field_of(model: type[Model], key: str) -> FieldInfo | None:
    return next((field for name, field in model.model_fields.items() if key in (name, field.alias)), None)


def choose_model(options: Sequence[type[Model]], value: Any) -> type[Model] | None:
    """The option whose ``type`` is the value's, or the only one."""
    if len(options) == 1:
        return options[0]
    wanted = value.get("type") if isinstance(value, Mapping) else None
    for option in options:
        kind = option.model_fields.get("type")
        if kind is not None and wanted in get_args(kind.annotation):
            return option
    return None


def _issues_of_rules(model: Model | None, at: Path, bad: Sequence[Path]) -> Iterator[Issue]:
    if model is None:
        return
    for rule in type(model).all_rules():
        needed = [(*at, *need.split(".")) for need in rule.needs]
        if not any(_overlap(path, need) for path in bad for need in needed) and not rule.holds(model):
            path = to_text((*at, *rule.path.split(".")) if rule.path else at)
            yield Issue(path, rule.message, None if rule.found is None else rule.found(model))
    for name, field in type(model).model_fields.items():
        key = name if field.alias is None else field.alias
        child = getattr(model, name, None)
        if isinstance(child, Model):
            yield from _issues_of_rules(child, (*at, key), bad)
        for part, item in _parts_of(child):
            yield from _issues_of_rules(item, (*at, key, part), bad)


def _parts_of(value: Any) -> Iterator[tuple[str | int, Model]]:
    """The objects in a list or mapping, each with the last part of its path."""
    if isinstance(value, dict):
        yield from ((key, item) for key, item in value.items() if isinstance(item, Model))
    elif isinstance(value, list):
        yield from ((index, item) for index, item in enumerate(value) if isinstance(item, Model))


def _overlap(one: Path, other: Path) -> bool:
    """Whether one of two paths leads to, or through, the other; list positions don't count."""
    left, right = ([part for part in path if isinstance(part, str)] for path in (one, other))
    shared = min(len(left), len(right))
    return left[:shared] == right[:shared]


def _salvage(model: type[Model], value: Any) -> Model | None:
    """What can be made of a document with errors: its good parts, and defaults where a part is bad."""
    if not isinstance(value, Mapping):
        return None
    document, values, written = model.normalize(value), {}, set()
    for name, field in model.model_fields.items():
        key = next((key for key in (field.alias, name) if key in document), None)
        if key is None:
            values[name] = None if field.is_required() else field.get_default(call_default_factory=True)
        else:
            values[name] = _salvage_field(field, document[key])
            written.add(name)
    return model.model_construct(_fields_set=written, **values)


def _salvage_field(field: FieldInfo, value: Any) -> Any:
    try:
        return TypeAdapter(field.rebuild_annotation()).validate_python(value)
    except ValidationError:
        options = models_in(field.annotation)
        if isinstance(value, list):
            return [_salvage_one(options, item) for item in value]
        if isinstance(value, Mapping) and _is_keyed(field):
            return {key: _salvage_one(options, item) for key, item in value.items()}
        rescued = _salvage_one(options, value)
        return rescued if rescued is not None or field.is_required() else field.get_default(call_default_factory=True)


def _salvage_one(options: Sequence[type[Model]], value: Any) -> Model | None:
    chosen = choose_model(options, value)
    return None if chosen is None else _salvage(chosen, value)
