"""What stands below each field, as its description: read from the source when a schema is made, and not before.

pydantic can do so by itself, but for every class that is defined, which takes a third of the time to import them.
"""

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from types import ModuleType

from pydantic import BaseModel


def describe_fields(model: type[BaseModel]) -> dict[str, str]:
    """Field -> its description, those of base classes included."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        module = inspect.getmodule(cls)
        if issubclass(cls, BaseModel) and cls is not BaseModel and module is not None:
            found |= _docstrings_in(module).get(cls.__name__, {})
    return {name: text for name, text in found.items() if name in model.model_fields}


@cache
def _docstrings_in(module: ModuleType) -> dict[str, dict[str, str]]:
    """Class -> attribute -> what stands below it."""
    tree = ast.parse(inspect.getsource(module))
    return {node.name: dict(_described(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _described(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(node.body, node.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)
