"""Manifests and bare LLM configs, validated: every error of every document.

Looks at documents only: whether a Secret, a file or a model exists is found out when a run starts. Output is
``__main__``'s.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_api.config import LLMConfig, load_config
from llm_api.documents import DocumentError, read_documents
from llm_api.issues import InvalidConfig, Issue
from llm_api.load import is_ours, load_resource


@dataclass(frozen=True)
class Finding:
    """One error, and where it is."""

    file: str
    subject: str
    """LLMFineTune/NAME, config for a bare one, or empty where it is neither."""
    issue: Issue

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.subject, str(self.issue)) if part)


@dataclass(frozen=True)
class Warned:
    """Something that is valid but may not be what was meant."""

    file: str
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.subject}: warning: {self.message}"


@dataclass(frozen=True)
class Unreadable:
    """A file that isn't there, or isn't YAML."""

    file: str
    error: DocumentError

    def __str__(self) -> str:
        return f"{self.file}: {self.error}"


@dataclass(frozen=True)
class Report:
    """What was found in some documents."""

    findings: tuple[Finding, ...] = ()
    warnings: tuple[Warned, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    checked: int = 0
    """Resources and configs that were validated."""
    ignored: int = 0
    """Objects of other kinds."""

    @property
    def exit_code(self) -> int:
        """0 where all is valid, else 1: what could not be read is not valid either."""
        return 1 if self.findings or self.unreadable else 0


def validate_files(files: Sequence[str], stdin: Iterable[str] = ()) -> Report:
    """All documents of all files; ``-`` stands for ``stdin``."""
    return join_reports([_validate_file(file, stdin) for file in files])


def validate_documents(documents: Sequence[Any], file: str = "-") -> Report:
    """All of ``documents``, as YAML or JSON gives them; ``file`` is where they are said to be."""
    if not documents:
        return Report(findings=(Finding(file, "", Issue("", "nothing is in it; write a manifest")),))
    return join_reports([_validate_document(document, file) for document in documents])


def join_reports(reports: Sequence[Report]) -> Report:
    return Report(
        findings=tuple(finding for report in reports for finding in report.findings),
        warnings=tuple(warning for report in reports for warning in report.warnings),
        unreadable=tuple(unreadable for report in reports for unreadable in report.unreadable),
        checked=sum(report.checked for report in reports),
        ignored=sum(report.ignored for report in reports),
    )


def _validate_file(file: str, stdin: Iterable[str]) -> Report:
    try:
        text = "".join(stdin) if file == "-" else Path(file).read_text("utf-8")
        documents = read_documents(text)
    except DocumentError as error:
        return Report(unreadable=(Unreadable(file, error),))
    except OSError as error:
        return Report(unreadable=(Unreadable(file, DocumentError(f"can't be read: {error.strerror}")),))
    except UnicodeDecodeError as error:
        return Report(unreadable=(Unreadable(file, DocumentError(f"is not UTF-8 text: {error.reason}")),))
    return validate_documents(documents, file)


def _validate_document(document: Any, file: str) -> Report:
    if not isinstance(document, Mapping):
        issue = Issue("", "write a manifest, or the keys of an LLM config")
        return Report(findings=(Finding(file, "", issue),), checked=1)
    if is_ours(document):
        return _validate_resource(document, file)
    if "apiVersion" in document or "kind" in document:
        return Report(ignored=1)
    return _validate_config(document, file)


def _validate_resource(document: Mapping[str, Any], file: str) -> Report:
    subject = f"{document.get('kind')}/{_name_of(document)}"
    try:
        config = load_resource(document).spec.config
    except InvalidConfig as error:
        return _failed(error, file, subject)
    warnings = tuple(Warned(file, subject, f"spec.config.{warning}") for warning in config.warnings())
    return Report(warnings=warnings, checked=1)


def _validate_config(document: Mapping[str, Any], file: str) -> Report:
    try:
        config: LLMConfig = load_config(document)
    except InvalidConfig as error:
        return _failed(error, file, "config")
    return Report(warnings=tuple(Warned(file, "config", warning) for warning in config.warnings()), checked=1)


def _failed(error: InvalidConfig, file: str, subject: str) -> Report:
    return Report(findings=tuple(Finding(file, subject, issue) for issue in error.issues), checked=1)


def _name_of(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    names = metadata if isinstance(metadata, Mapping) else {}
    return str(names.get("name", names.get("generateName", "(no name)")))
