"""The objects of a manifest file, and which of them is to be run. Judges none of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_api.crd import KINDS
from llm_api.documents import DocumentError, read_documents
from llm_api.issues import Issue
from llm_api.validate import Finding

from llm_runner.errors import ConfigInvalid

Document = Mapping[str, Any]

RUNNABLE = ("LLMFineTune", "LLMInference")
"""Kinds of which one can be run."""


def read_manifest(manifest: Path) -> list[Document]:
    """All objects of a YAML or JSON file, in order. Raises ConfigInvalid."""
    try:
        documents = read_documents(manifest.read_text("utf-8"))
    except OSError as error:
        raise ConfigInvalid(f"{manifest}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"{manifest}: is not UTF-8 text: {error.reason}") from error
    except DocumentError as error:
        raise ConfigInvalid(f"{manifest}: {error}") from error
    if not documents:
        raise ConfigInvalid(f"{manifest}: nothing is in it; write an LLMFineTune or an LLMInference")
    if not all(isinstance(document, Mapping) and "kind" in document for document in documents):
        raise ConfigInvalid(
            f"{manifest}: not all of it are Kubernetes objects with apiVersion and kind; "
            "a config alone doesn't say what to train on: put it under spec.config of an LLMFineTune"
        )
    return documents


def describe_issues(file: Path, subject: str, issues: Sequence[Issue]) -> str:
    """One line for each, as ``python -m llm_api validate`` writes them."""
    return "\n".join(str(Finding(str(file), subject, issue)) for issue in issues)


def choose_resource(
    documents: Sequence[Document], name: str | None, manifest: Path, kinds: Sequence[str] = RUNNABLE
) -> Document:
    """The resource of that name, or the only one. Raises ConfigInvalid naming those that there are.

    Args:
        name: NAME or KIND/NAME, with the kind spelt as kubectl takes it.
    """
    name = None if name is None else _spell_out(name)
    found = [document for document in documents if document["kind"] in kinds]
    chosen = [document for document in found if name in (None, name_of(document), title_of(document))]
    titles = [title_of(document) for document in chosen]
    if len(chosen) == 1:
        return chosen[0]
    if len(set(titles)) > 1:
        raise ConfigInvalid(f"{manifest}: holds several that can be run; choose one with --name: {', '.join(titles)}")
    if chosen:
        raise ConfigInvalid(f"{manifest}: holds {titles[0]} {len(chosen)} times; keep one")
    raise ConfigInvalid(f"{manifest}: {_describe_lack(documents, found, name, kinds)}")


def find_named(documents: Sequence[Document], kind: str) -> dict[str, Document]:
    return {name_of(document): document for document in documents if document["kind"] == kind}


def name_of(document: Document) -> str:
    metadata = document.get("metadata")
    return str(metadata.get("name")) if isinstance(metadata, Mapping) else ""


def title_of(document: Document) -> str:
    return f"{document['kind']}/{name_of(document)}"


def _spell_out(name: str) -> str:
    kind, slash, rest = name.partition("/")
    known = {spelling: one.name for one in KINDS for spelling in (one.short_name, one.plural, one.name.lower())}
    return f"{known.get(kind.lower(), kind)}{slash}{rest}" if slash else name


def _describe_lack(
    documents: Sequence[Document], found: Sequence[Document], name: str | None, kinds: Sequence[str]
) -> str:
    lack = f"holds no {' or '.join(kinds)}" if name is None else f"holds no {' or '.join(kinds)} {name!r}"
    if found:
        return f"{lack}; there is: {', '.join(map(title_of, found))}"
    return f"{lack}, only {', '.join(sorted({str(document['kind']) for document in documents}))}"
