"""The operator as users run it: a process of its own, against whatever API server a kubeconfig names."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DEADLINE_SECONDS = 120.0
_PORT = re.compile(r"(status|progress|webhook) port (\d+) is open")


def wait_until(holds: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} seconds: {what}"
        time.sleep(0.1)


class OperatorProcess:
    """``flags`` without the dashes and with underscores: ``resync_seconds="10"``."""

    def __init__(self, kubeconfig: Path, folder: Path, **flags: str) -> None:
        self._kubeconfig = kubeconfig
        self.log_path = folder / f"operator-{len(list(folder.glob('operator-*')))}.log"
        defaults = {
            "runner_image": "runner:test",
            "listen_address": "127.0.0.1",
            "status_port": "0",
            "progress_port": "0",
            "webhook_port": "0",
            "log_format": "text",
        }
        self._flags = {**defaults, **flags}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = [part for name, value in self._flags.items() for part in (f"--{name.replace('_', '-')}", value)]
        environment = {**os.environ, "KUBECONFIG": str(self._kubeconfig), "PYTHONSAFEPATH": "1"}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llm_operator", *arguments], env=environment, stdout=log, stderr=log
            )

    def stop(self) -> int:
        """SIGTERM, as a kubelet sends it; the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        return self._end(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """SIGSTOP makes it hang, SIGCONT lets it go on."""
        assert self.process is not None
        self.process.send_signal(number)

    def _end(self, with_signal: signal.Signals) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        return self.process.wait(DEADLINE_SECONDS)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def port(self, name: str) -> int:
        def find() -> int | None:
            return next((int(port) for found, port in _PORT.findall(self.log) if found == name), None)

        wait_until(lambda: find() is not None or not self.is_running, f"{name} port open")
        port = find()
        assert port is not None, self.log
        return port

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def get(self, path: str) -> tuple[int, str]:
        """HTTP status and text of its status port."""
        url = f"http://127.0.0.1:{self.port('status')}{path}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def wait_ready(self) -> None:
        wait_until(lambda: self.get("/readyz")[0] == 200, "the operator ready")


@contextmanager
def run_operator(kubeconfig: Path, folder: Path, **flags: str) -> Iterator[OperatorProcess]:
    operator = OperatorProcess(kubeconfig, folder, **flags)
    operator.start()
    try:
        operator.wait_ready()
        yield operator
    finally:
        operator.stop()
