"""Servers that are measured, each a process of its own: ours, and transformers' own with continuous batching.

Started as their users start them; only the end of answers is taken away from both, so that all answers are as long.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

NEW_TOKENS = 64
NEVER_SAID = 3
"""A token of the tokenizer's that marks the name of a source repository: nothing that is said ends with it."""
READY_SECONDS = 180
KIBIBYTE = 1024


@dataclass(frozen=True)
class Endpoint:
    """A running server, and how it is asked."""

    url: str
    body: Mapping[str, Any]
    process: psutil.Process

    def peak_memory_bytes(self) -> int:
        """Largest resident set of the process and of those that it has started."""
        return sum(_peak_bytes(one.pid) for one in (self.process, *self.process.children(recursive=True)))


@contextmanager
def running_ours(model_path: Path, work_path: Path) -> Iterator[Endpoint]:
    port = free_port()
    run = {
        "kind": "ServeRun",
        "name": "benchmark",
        "config": {
            "base_model": str(model_path),
            "generation": {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": NEVER_SAID},
        },
        "model": {},
        "host": "127.0.0.1",
        "port": port,
    }
    run_path = work_path / "run.json"
    run_path.write_text(json.dumps(run))
    body = {"model": "benchmark", "stream_options": {"include_usage": True}}
    command = [sys.executable, "-P", "-m", "llm_runner", "serve", str(run_path)]
    with _running(command, work_path / "ours.log", port, "/readyz") as process:
        yield Endpoint(f"http://127.0.0.1:{port}", body, process)


@contextmanager
def running_transformers(model_path: Path, work_path: Path) -> Iterator[Endpoint]:
    port = free_port()
    generation = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": NEVER_SAID, "pad_token_id": 2}
    body = {"model": str(model_path), "generation_config": json.dumps(generation)}
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model_path), "--continuous-batching"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with _running(command, work_path / "transformers.log", port, "/health") as process:
        yield Endpoint(f"http://127.0.0.1:{port}", body, process)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _running(command: Sequence[str], log_path: Path, port: int, health: str) -> Iterator[psutil.Process]:
    with log_path.open("w") as log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process:
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}{health}", log_path)
            yield psutil.Process(process.pid)
        finally:
            process.kill()


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log_path: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _is_ready(url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server is not ready; it said: {log_path.read_text()[-2000:]}")
        time.sleep(0.2)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) * KIBIBYTE
