"""Files put end to end over the network: ``python -m tests.support.machine_files FOLDER`` is what torch's launcher
starts, as processes of two machines.

Each machine's file is named by its number, and each process writes what it found into one named by its rank.
"""

import json
import os
import sys
from pathlib import Path

from llm_runner.store.digest import file_digest
from llm_runner.train.machines import find_machines
from llm_runner.train.ranks import Ranks, join_ranks

from tests.support.launcher import launch

PROCESSES_HERE, PROCESSES = 2, 4


def join_files(folder: Path) -> list[list[str]]:
    """For each process the digests of its machine's file and of that of the others, once they are joined."""
    launch(__name__, str(folder), PROCESSES)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(PROCESSES)]


def join(folder: Path, ranks: Ranks) -> list[str]:
    machines = find_machines(ranks)
    path = folder / str(machines.number)
    machines.join_file(path)
    return machines.gather(file_digest(path))


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    # As if there were fewer on each of more machines.
    os.environ |= {"LOCAL_RANK": str(rank % PROCESSES_HERE), "LOCAL_WORLD_SIZE": str(PROCESSES_HERE)}
    with join_ranks() as ranks:
        found = ranks.from_first_here(lambda: join(folder, ranks))
        (folder / f"{rank}.json").write_text(json.dumps(found))
        ranks.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
