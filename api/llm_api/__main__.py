"""The command line of the contract: ``python -m llm_api validate FILE...``. Decides nothing about what is valid."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from llm_api.validate import Report, validate_files

EPILOG = """\
FILE is YAML or JSON: manifests, any number of documents a file, or a bare LLM config; - is standard input.
Objects of other kinds are counted and left alone.

exit codes:
  0  all is valid
  1  something is not, or a file can't be read or isn't YAML; every error is printed
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _build_parser().parse_args(arguments)
    report = validate_files(options.files, sys.stdin)
    write = _write_json if options.output == "json" else _write_text
    write(report)
    return report.exit_code


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm_api", description="Work with LLMFineTune and LLMInference.")
    commands = parser.add_subparsers(dest="command", required=True)
    validate = commands.add_parser(
        "validate",
        help="find every error of manifests and LLM configs",
        description="Find every error of manifests and LLM configs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    validate.add_argument("files", nargs="+", metavar="FILE")
    validate.add_argument("-o", "--output", choices=("text", "json"), default="text", help="text is the default")
    return parser


def _write_text(report: Report) -> None:
    for unreadable in report.unreadable:
        sys.stderr.write(f"{unreadable}\n")
    for line in (*report.findings, *report.warnings):
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{summarize(report)}\n")


def summarize(report: Report) -> str:
    """What was found, in a line."""
    broken = len({(finding.file, finding.subject) for finding in report.findings})
    verdict = f"{_count(len(report.findings), 'error')} in {broken}" if report.findings else "no errors"
    parts = [f"{_count(report.checked, 'document')} checked, {verdict}"]
    if report.warnings:
        parts.append(_count(len(report.warnings), "warning"))
    if report.ignored:
        parts.append(f"{_count(report.ignored, 'object')} of other kinds not checked")
    if report.unreadable:
        parts.append(f"{_count(len(report.unreadable), 'file')} not readable")
    return "; ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _write_json(report: Report) -> None:
    json.dump(to_json(report), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def to_json(report: Report) -> dict[str, Any]:
    """The report for programs; keys whose value isn't known are null."""
    return {
        "valid": report.exit_code == 0,
        "checked": report.checked,
        "ignored": report.ignored,
        "errors": [
            {
                "file": finding.file,
                "subject": finding.subject,
                "path": finding.issue.path,
                "message": finding.issue.message,
                "found": finding.issue.found,
                "hint": finding.issue.hint,
            }
            for finding in report.findings
        ],
        "warnings": [
            {"file": warned.file, "subject": warned.subject, "message": warned.message} for warned in report.warnings
        ],
        "unreadable": [
            {
                "file": unreadable.file,
                "line": unreadable.error.line,
                "column": unreadable.error.column,
                "message": unreadable.error.message,
            }
            for unreadable in report.unreadable
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
