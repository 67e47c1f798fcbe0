"""The machines of a run, each by its first process, as those who prepare data together: what they exchange goes over
torch's process group.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed

from llm_runner.data.together import ALONE, Together
from llm_runner.train.ranks import Ranks, noticing_loss

CHUNK_BYTES = 16 * 2**20
"""Of a file, held at a time."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Machines:
    """This machine among several. Only the first process of each may call anything."""

    number: int
    count: int
    processes: int
    """Of each machine."""
    group: Any
    """torch's process group of the first processes, on the host."""

    def gather(self, value: Value) -> list[Value]:
        found: list[Any] = [None] * self.count
        with noticing_loss():
            distributed.all_gather_object(found, value, group=self.group)
        return found

    def join_file(self, path: Path) -> None:
        sizes = self.gather(path.stat().st_size)
        joined = path.with_name(f"{path.name}.joined")
        with path.open("rb") as own, joined.open("wb") as file:
            for number, size in enumerate(sizes):
                for start in range(0, size, CHUNK_BYTES):
                    chunk = np.empty(min(CHUNK_BYTES, size - start), np.uint8)
                    if number == self.number:
                        own.readinto(chunk.data)
                    self._send(chunk, number)
                    file.write(chunk.data)
        joined.replace(path)

    def _send(self, chunk: np.ndarray, number: int) -> None:
        """From the machine of this number to the others, in place."""
        with noticing_loss():
            distributed.broadcast(torch.from_numpy(chunk), src=number * self.processes, group=self.group)


def find_machines(ranks: Ranks) -> Together:
    count = ranks.count // ranks.count_here
    return (
        ALONE if count == 1 else Machines(ranks.number // ranks.count_here, count, ranks.count_here, ranks.group_firsts)
    )
