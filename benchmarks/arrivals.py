"""When objects of a cluster come to be, as somebody sees it who watches them from outside with kubectl."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Thread
from typing import IO

from tests.support.cluster.access import Access
from tests.support.cluster.build import build_program


class Arrivals:
    """By name, the moment at which each was first seen."""

    def __init__(self) -> None:
        self._seen_at: dict[str, float] = {}
        self._changed = Condition()

    def read(self, lines: IO[str]) -> None:
        for line in lines:
            with self._changed:
                self._seen_at.setdefault(line.strip(), time.monotonic())
                self._changed.notify_all()

    def wait_for(self, count: int, seconds: float) -> float:
        """The moment at which the last of so many came; raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._seen_at) >= count, seconds):
                raise TimeoutError(f"{len(self._seen_at)} of {count} came within {seconds:.0f} s")
            return sorted(self._seen_at.values())[count - 1]


@contextmanager
def watch_arrivals(access: Access, *what: str) -> Iterator[Arrivals]:
    """``what`` is what ``kubectl get`` is asked for."""
    command = [str(build_program("kubectl")), "--kubeconfig", str(access.kubeconfig), "get", *what]
    arrivals = Arrivals()
    with subprocess.Popen([*command, "--watch", "--output=name"], stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None, "it is asked for above"
        reader = Thread(target=arrivals.read, args=(watch.stdout,))
        reader.start()
        try:
            yield arrivals
        finally:
            watch.terminate()
            reader.join()
