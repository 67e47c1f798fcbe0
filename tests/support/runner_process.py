"""The runner's command in a process of its own: its lines as they come, its signals, its last words."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import psutil

TIMEOUT_SECONDS = 240


class RunnerProcess:
    """``llm-runner ARGUMENTS`` in ``folder``; ended with the block, if it hasn't ended by then."""

    def __init__(self, folder: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> None:
        self._log_path = folder / "termination.json"
        self._log_path.unlink(missing_ok=True)
        command = [sys.executable, "-m", "llm_runner", *map(str, arguments), "--termination-log", str(self._log_path)]
        given = {} if environment is None else environment
        self._errors_path = folder / "stderr.txt"
        with self._errors_path.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONSAFEPATH": "1", "COLUMNS": "200", **given},
            )
        self.lines: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.lose()
        self._process.communicate()

    def wait_for(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Reads on until a line is wanted."""
        assert self._process.stdout is not None
        for text in self._process.stdout:
            self.lines.append(json.loads(text))
            if is_wanted(self.lines[-1]):
                return self.lines[-1]
        raise AssertionError(f"the process ended without that line; it said: {self.errors}")

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def lose(self) -> None:
        """Kills it with all processes that it has started, as a node that loses its power does."""
        for process in [*self.children(), psutil.Process(self._process.pid)]:
            process.kill()
        self._process.wait()

    def children(self) -> list[psutil.Process]:
        """Those that it has started by itself."""
        return psutil.Process(self._process.pid).children()

    def wait(self) -> int:
        """Reads to the end and gives the exit code."""
        output, _ = self._process.communicate(timeout=TIMEOUT_SECONDS)
        self.lines += [json.loads(text) for text in output.splitlines()]
        return self._process.returncode

    @property
    def errors(self) -> str:
        """What stands on standard error so far."""
        return self._errors_path.read_text()

    @property
    def outcome(self) -> dict[str, Any]:
        """The termination message."""
        outcome: dict[str, Any] = json.loads(self._log_path.read_text())
        return outcome


def call_runner(
    folder: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> tuple[int, str, dict[str, Any]]:
    """Runs to the end: exit code, standard error, outcome."""
    with RunnerProcess(folder, *arguments, environment=environment) as process:
        code = process.wait()
        return code, process.errors, process.outcome
