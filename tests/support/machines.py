"""Machines that prepare data together, as threads of one process: what they exchange goes over memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any, TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Threads:
    """One of them. Whoever fails ends the waiting of the others, which fail as well."""

    number: int
    count: int
    barrier: Barrier
    board: list[Any]
    """What each of them has put down for the others."""

    def gather(self, value: Value) -> list[Value]:
        self.board[self.number] = deepcopy(value)
        self.barrier.wait()
        found = list(self.board)
        self.barrier.wait()
        return found

    def join_file(self, path: Path) -> None:
        path.write_bytes(b"".join(self.gather(path.read_bytes())))


def run_together(count: int, work: Callable[[Threads], Result]) -> list[Result]:
    """What the work gives on each of ``count`` machines. Raises what the first that failed has raised."""
    barrier, board = Barrier(count), [None] * count

    def one(number: int) -> Result:
        try:
            return work(Threads(number, count, barrier, board))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        ends = [pool.submit(one, number) for number in range(count)]
    # Those whose waiting was ended have nothing to tell.
    failures = [error for end in ends if (error := end.exception()) is not None]
    for error in failures:
        if not isinstance(error, BrokenBarrierError):
            raise error
    assert not failures
    return [end.result() for end in ends]
