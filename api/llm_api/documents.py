"""The documents of a YAML or JSON text, read more strictly than YAML asks for: a key that stands twice is a mistake.

Knows nothing of what the documents mean.
"""

from collections.abc import Hashable
from typing import Any

import yaml


class DocumentError(ValueError):
    """A text isn't YAML. Line and column count from 1; None where they aren't known."""

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}, column {column}: {message}")
        self.message = message
        self.line = line
        self.column = column


def read_documents(text: str) -> list[Any]:
    """Every document that isn't empty, in order; the items of a List stand for themselves. Raises DocumentError."""
    try:
        documents = [document for document in yaml.load_all(text, Loader=_StrictLoader) if document is not None]
    except yaml.MarkedYAMLError as error:
        raise _to_error(error) from error
    except yaml.YAMLError as error:
        raise DocumentError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise DocumentError("the document contains itself, or is nested too deeply") from error
    return [item for document in documents for item in _items(document)]


def _items(document: Any) -> list[Any]:
    is_list = isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list)
    return list(document["items"]) if is_list else [document]


def _to_error(error: yaml.MarkedYAMLError) -> DocumentError:
    message = ": ".join(part for part in (error.context, error.problem) if part)
    mark = error.context_mark if error.problem_mark is None else error.problem_mark
    return DocumentError(message) if mark is None else DocumentError(message, mark.line + 1, mark.column + 1)


_MERGE_TAG = "tag:yaml.org,2002:merge"


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE_TAG:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue
            if key in seen:
                problem = f"the key {key!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
