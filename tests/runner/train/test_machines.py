"""What the machines of a run exchange while they prepare its data."""

import hashlib
import random
from pathlib import Path

import pytest
from llm_runner.data.together import ALONE
from llm_runner.train.machines import CHUNK_BYTES, find_machines
from llm_runner.train.ranks import Ranks

from tests.support.machine_files import PROCESSES, join_files


@pytest.mark.parametrize("sizes", [(CHUNK_BYTES + 7, 100), (0, CHUNK_BYTES)])
def test_files_of_two_machines_become_one_on_both(tmp_path: Path, sizes: tuple[int, int]) -> None:
    contents = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    whole = hashlib.sha256(b"".join(contents)).hexdigest()
    assert join_files(tmp_path) == [[whole, whole]] * PROCESSES


def test_processes_of_one_machine_exchange_nothing() -> None:
    assert find_machines(Ranks(number=2, count=4, count_here=4, number_here=2)) is ALONE
