"""Reports as JSON, one object a line, for logs that machines read. Keeps steps down to about one line a second."""

import json
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from llm_api.report import Outcome, Progress

from llm_runner.report.json_value import to_json_value
from llm_runner.report.sink import Evaluated, Level, Sink

SECONDS_BETWEEN_STEPS = 1.0


class JsonLines(Sink):
    """``{"time": …, "event": "phase" | "step" | "evaluated" | "info" | "warning" | "outcome", …}``.

    Keys are in snake_case, as in metrics.json; the first and the last step of a stretch are always there.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._held: Progress | None = None
        self._last_step_at = -math.inf

    def phase(self, progress: Progress) -> None:
        self._write_held()
        self._write("phase", {"phase": progress.phase})

    def step(self, progress: Progress) -> None:
        self._held = progress
        if self._clock() - self._last_step_at >= SECONDS_BETWEEN_STEPS:
            self._write_held()

    def evaluated(self, evaluated: Evaluated) -> None:
        self._write_held()
        self._write("evaluated", {key: value for key, value in vars(evaluated).items() if value is not None})

    def message(self, level: Level, text: str) -> None:
        self._write(level, {"message": text})

    def outcome(self, outcome: Outcome) -> None:
        self._write_held()
        self._write("outcome", outcome.model_dump(exclude_none=True))

    def close(self) -> None:
        self._write_held()

    def _write_held(self) -> None:
        """The newest step, if it was not written yet."""
        if self._held is None:
            return
        progress, self._held = self._held, None
        self._last_step_at = self._clock()
        self._write("step", {**progress.model_dump(exclude_none=True), "percent": progress.percent})

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = to_json_value({"time": now, "event": event, **fields})
        self._stream.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._stream.flush()
