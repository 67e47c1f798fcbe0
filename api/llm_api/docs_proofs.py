"""Which test proves the effect of which key: read from the markers in the test files, without running anything.

A test says so with ``@pytest.mark.proves("trainer.epochs", "adapter.alpha[lora]")``; types in brackets narrow it down.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llm_api.docs_keys import Key, Kinds

MARKER = "proves"
_NAMED = re.compile(r"(?P<path>[^\[\]]+)(\[(?P<kinds>[^\[\]]+)\])?")


@dataclass(frozen=True)
class Claim:
    """A key, of some types or of all that have it."""

    path: str
    kinds: Kinds = ()

    def covers(self, path: str, kind: str) -> bool:
        return self.path == path and (not self.kinds or kind in self.kinds)


@dataclass(frozen=True)
class Proof:
    """One test, and what it proves."""

    claim: Claim
    file: str
    """From the repository's root."""
    test: str


def parse_claim(text: str) -> Claim:
    """Raises ValueError for what is no key with or without types behind it."""
    found = _NAMED.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a key, or a key with types in brackets behind it")
    kinds = found["kinds"]
    return Claim(found["path"], () if kinds is None else tuple(kind.strip() for kind in kinds.split(",")))


def find_proofs(root: Path) -> list[Proof]:
    """All of them under ``root``/tests, by file and place. Raises ValueError for a marker that can't be read."""
    files = sorted((root / "tests").rglob("test_*.py"))
    return [proof for path in files for proof in _proofs_in(path, path.relative_to(root).as_posix())]


def _proofs_in(path: Path, file: str) -> Iterator[Proof]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for text in _marked(node, file):
                yield Proof(parse_claim(text), file, node.name)


def _marked(node: ast.FunctionDef | ast.AsyncFunctionDef, file: str) -> Iterator[str]:
    for decorator in node.decorator_list:
        if not isinstance(decorator, ast.Call) or not ast.unparse(decorator.func).endswith(f"mark.{MARKER}"):
            continue
        for argument in decorator.args:
            if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                raise ValueError(f"{file}:{argument.lineno}: write the key as a text")
            yield argument.value


def kinds_of(key: Key) -> Kinds:
    """The types to prove it with; one without a name where there are none to choose from."""
    return key.kinds if key.kinds else ("",)


def find_covering(key: Key, proofs: Iterable[Proof]) -> list[Proof]:
    return [proof for proof in proofs if any(proof.claim.covers(key.path, kind) for kind in kinds_of(key))]


def find_unproven(key: Key, claims: Iterable[Claim]) -> Kinds:
    """The types of ``key`` that nothing is claimed of."""
    known = list(claims)
    return tuple(kind for kind in kinds_of(key) if not any(claim.covers(key.path, kind) for claim in known))
