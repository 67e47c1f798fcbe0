"""The last words of a run: its Outcome where Kubernetes looks for it. Decides no exit code."""

from pathlib import Path

from llm_api.report import Outcome

DEFAULT_TERMINATION_LOG = Path("/dev/termination-log")
"""Kubernetes mounts this file into each container; elsewhere there is none."""


def save_outcome(outcome: Outcome, termination_log: Path | None) -> None:
    """Writes the termination message; None means the default place, if this machine has it.

    Raises OSError where it can't be written.
    """
    if termination_log is None:
        if not DEFAULT_TERMINATION_LOG.is_file():
            return
        termination_log = DEFAULT_TERMINATION_LOG
    termination_log.write_text(outcome.to_termination_message(), encoding="utf-8")
