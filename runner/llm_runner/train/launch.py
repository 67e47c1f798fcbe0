"""Starts the processes of a run on this machine and hears how they end: torch's elastic agent does all of it.

The agents of several nodes meet by torch's c10d rendezvous, at the first of them. Nothing is started again here: who is
left ends as well, and Kubernetes' Job starts all of them anew. What the processes do is ``run``'s.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil
import torch
from llm_api.report import UNCOUNTED, ExitCode, Outcome
from llm_api.run import Together, TrainRun
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from llm_runner.errors import ConfigInvalid, PeerLost, RanksEnded
from llm_runner.report.reporter import Reporter

MEETING_SECONDS = 3600
"""How long nodes wait for each other. The operator gives up long before; this is for runs without one."""
ENDING_SECONDS = 30
"""How long the others have to end once one has failed."""
INDEX = "JOB_COMPLETION_INDEX"
"""Kubernetes' number of a pod in an Indexed Job."""
OUTCOME_NAME = "outcome.json"


def launch(run: TrainRun, work_path: Path, options: list[str]) -> NoReturn:
    """Raises RanksEnded once all of them have ended, with the first one's Outcome, or the most telling where one has
    failed; PeerLost where the nodes never met.

    ``options``: further ones of ``llm-runner train``.
    """
    _check_devices(run.together)
    folder = work_path / "ranks"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / OUTCOME_NAME
    for old in folder.glob(f"{log.stem}-*"):
        old.unlink()
    run_file = folder / "run.json"
    run_file.write_text(run.model_dump_json(by_alias=True, exclude_unset=True), encoding="utf-8")
    command = ["-m", "llm_runner", "train", str(run_file), "--work-dir", str(work_path), "--termination-log", str(log)]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        with _passing_signals_on(), _environment(_threads(run.together)):
            elastic_launch(to_launch_config(run), sys.executable)(*command, *options)
    except ChildFailedError as error:
        raise _to_failure(error.failures, log) from None
    except RendezvousError as error:
        where = run.together.rendezvous
        raise PeerLost(f"the {run.together.nodes} nodes did not meet at {where}: {error}") from error
    _, outcome = min(_load_outcomes(log).items())
    raise RanksEnded(ExitCode.DONE, outcome)


def fit_to_machine(run: TrainRun, reporter: Reporter) -> TrainRun:
    """On this machine alone, by as many processes as it has accelerators of those that the manifest asks for, on all
    nodes. Fewer of them take the same rows, just longer.
    """
    wanted = run.together.processes
    here = max(1, min(wanted, torch.cuda.device_count()))
    if wanted > here:
        said = f"compute asks for {wanted} devices, and {here} of this machine's do their work: the same, just later"
        reporter.info(said)
    return run.model_copy(update={"together": Together(processes_per_node=here, parallelism=run.together.parallelism)})


def to_launch_config(run: TrainRun) -> LaunchConfig:
    """Nodes that meet where the run file says, or one that meets itself."""
    together = run.together
    is_alone = together.nodes == 1
    settings: dict[str, Any] = {"timeout": MEETING_SECONDS, "join_timeout": MEETING_SECONDS}
    if INDEX in os.environ:
        settings["is_host"] = os.environ[INDEX] == "0"
    return LaunchConfig(
        min_nodes=together.nodes,
        max_nodes=together.nodes,
        nproc_per_node=together.processes_per_node,
        run_id=run.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0" if is_alone or together.rendezvous is None else together.rendezvous,
        rdzv_configs=settings,
        local_addr="localhost" if is_alone else None,
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(),
        # SIGTERM goes on to the processes, which save and end; torch's own way is to end them.
        signals_to_handle="SIGQUIT",
        shutdown_timeout=ENDING_SECONDS,
    )


def _check_devices(together: Together) -> None:
    """Raises ConfigInvalid where there are accelerators, but too few."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else None
    if there is not None and there < together.processes_per_node:
        raise ConfigInvalid(
            f"compute.accelerators.count: {together.processes_per_node}, but this machine has {there}; write {there}"
        )


@contextmanager
def _passing_signals_on() -> Iterator[None]:
    def handle(number: int, _frame: FrameType | None) -> None:
        for child in psutil.Process().children():
            child.send_signal(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _threads(together: Together) -> Mapping[str, str]:
    """Processes that share a machine's cores share them out, unless somebody has said how many each takes."""
    cores = len(os.sched_getaffinity(0))
    return {"OMP_NUM_THREADS": str(max(1, cores // together.processes_per_node))}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    missing = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def _load_outcomes(log: Path) -> dict[int, Outcome]:
    """By rank, of those that left one."""
    paths = log.parent.glob(f"{log.stem}-*{log.suffix}")
    return {
        int(path.stem.removeprefix(f"{log.stem}-")): Outcome.model_validate(json.loads(path.read_text("utf-8")))
        for path in paths
    }


def _to_failure(failures: Mapping[int, ProcessFailure], log: Path) -> RanksEnded:
    """The one that others only followed: not lost for another, not stopped because of it, and the earliest of those."""
    rank, failure = min(failures.items(), key=lambda item: (_tells_little(item[1].exitcode), item[1].timestamp))
    outcome = _load_outcomes(log).get(rank)
    code = failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
    if outcome is None:
        said = f"process {rank} of the run ended with exit code {code} and left no message; see its log"
        outcome = Outcome(reason="Unexpected", message=said)
    return RanksEnded(code, outcome)


def _tells_little(code: int) -> bool:
    return code in UNCOUNTED or code == -signal.SIGTERM
