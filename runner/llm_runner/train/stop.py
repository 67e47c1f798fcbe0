"""SIGTERM and Ctrl-C, heard where work can be saved and at once where there is none to lose."""

import os
import signal
from types import FrameType

from llm_runner.errors import Stopped

STDERR = 2


class StopRequest:
    """Whether the run was asked to stop, for whoever can save first; until somebody asks, nobody could."""

    def __init__(self) -> None:
        self._is_made = False
        self._has_listener = False

    def __call__(self) -> bool:
        self._has_listener = True
        return self._is_made

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """The first SIGTERM or Ctrl-C asks the run to save and stop; another Ctrl-C ends it at once."""
        if self._is_made:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self._is_made = True
        if not self._has_listener:
            raise Stopped("stopped before the first step; nothing is lost")
        os.write(STDERR, b"\nstopping: a checkpoint is saved first (Ctrl-C again: stop without it)\n")


def stop_on_signals() -> StopRequest:
    request = StopRequest()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request.handle)
    return request
