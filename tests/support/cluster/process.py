"""A program of the test cluster that runs in the background and ends with the process that started it."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

START_SECONDS = 60
STOP_SECONDS = 30
LOG_LINES = 15

# The kernel kills the program when its parent dies, so that no crash of a test leaves a cluster behind.
BOUND_TO_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")


class Process:
    """One program, which can be stopped, killed, paused and started again; its output goes to LOG_PATH."""

    def __init__(self, command: Sequence[str], log_path: Path, environment: Mapping[str, str] | None = None) -> None:
        self.command = [str(part) for part in command]
        self.log_path = log_path
        self.environment = dict(environment or {})
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.log_path.stem

    @property
    def is_running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that runs the program."""
        if self._popen is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._popen.pid

    def start(self) -> None:
        if self.is_running:
            raise RuntimeError(f"{self.name} runs already")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                [*BOUND_TO_PARENT, *self.command],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Asks the program to end, and makes it end if it takes too long. Nothing happens if it isn't running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the program as a crash would."""
        self._end(signal.SIGKILL)

    def join(self) -> None:
        """Waits for the end of a program that something else ends."""
        if self._popen is not None:
            self._popen.wait(timeout=STOP_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """SIGSTOP makes it hang, SIGCONT lets it go on."""
        os.kill(self.pid, number)

    def wait_until(self, is_ready: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Waits for what the program is to bring about; says what it wrote if it ends first or takes too long."""
        deadline = time.monotonic() + seconds
        while not is_ready():
            if not self.is_running:
                raise RuntimeError(f"{self.name} ended before it was ready:\n{self.last_lines()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} was not ready within {seconds:.0f} s:\n{self.last_lines()}")
            time.sleep(0.1)

    def last_lines(self) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def _end(self, number: signal.Signals) -> None:
        if self._popen is None or not self.is_running:
            return
        self.send(number)
        self.send(signal.SIGCONT)  # a program that hangs would not hear it
        try:
            self._popen.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self._popen.wait()


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port of this address that nobody listened on just now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
