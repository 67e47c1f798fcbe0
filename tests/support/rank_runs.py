"""Runs of several processes: ``python -m tests.support.rank_runs JOBS.json`` is what torch's launcher starts in each.

Starting them takes far longer than a tiny run, so one start does all runs of a list, one after the other.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llm_api.run import TrainRun
from llm_runner.errors import Stopped
from llm_runner.report.reporter import Reporter
from llm_runner.train.ranks import Ranks, join_ranks
from llm_runner.train.run import train

from tests.support.launcher import launch
from tests.support.runs import save_run, stop_after


@dataclass(frozen=True)
class Job:
    """One run. ``asked``: as often the process ``stops`` may be asked whether to stop before it wants to."""

    run_file: str
    work: str
    stops: int | None = None
    asked: int = 0


def run_jobs(folder: Path, runs: Mapping[str, TrainRun], processes: int, stops: Mapping[str, tuple[int, int]]) -> None:
    """Each run by so many processes; ``stops``: which of them wants to stop a run, and when."""
    folder.mkdir()
    jobs = [
        Job(str(save_run(run, folder / f"{name}.json")), str(folder / name), *stops.get(name, (None, 0)))
        for name, run in runs.items()
    ]
    jobs_path = folder / "jobs.json"
    jobs_path.write_text(json.dumps([asdict(job) for job in jobs]))
    launch(__name__, str(jobs_path), processes)


def _run(job: Job, ranks: Ranks) -> None:
    run = TrainRun.model_validate_json(Path(job.run_file).read_text())
    should_stop = stop_after(job.asked) if job.stops == ranks.number else lambda: False
    work_path = Path(job.work) / f"rank-{ranks.number}"
    try:
        train(run, reporter=Reporter([]), work_path=work_path, should_stop=should_stop, ranks=ranks)
    except Stopped:
        assert job.stops is not None, "nobody asked for it"
    else:
        assert job.stops is None, "it was asked to stop"


def main(arguments: Sequence[str]) -> None:
    jobs = [Job(**values) for values in json.loads(Path(arguments[0]).read_text())]
    with join_ranks() as ranks:
        for job in jobs:
            _run(job, ranks)


if __name__ == "__main__":
    main(sys.argv[1:])
