"""A batch on one machine: its shards one after another, each as its pod would do it; the last one merges them all.

Shards that are done are not done again, so a batch that was ended goes on, be it one that a cluster began.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_api.report import Outcome
from llm_api.run import PredictRun

from llm_runner.predict.run import predict
from llm_runner.predict.shard import INDEX_VARIABLE
from llm_runner.report.reporter import Reporter


def predict_shards(
    run: PredictRun, *, reporter: Reporter, work_path: Path, should_stop: Callable[[], bool] = lambda: False
) -> Outcome:
    """The outcome of the shard that merged them. Raises a RunError that says what went wrong."""
    outcome = Outcome(reason="Succeeded")
    for number in range(run.shards):
        if run.shards > 1:
            reporter.info(f"shard {number + 1} of {run.shards}")
        with _being_shard(number):
            outcome = predict(run, reporter=reporter, work_path=work_path, should_stop=should_stop)
        if outcome.artifact_uri is not None:
            break
    return outcome


@contextmanager
def _being_shard(number: int) -> Iterator[None]:
    """What Kubernetes tells a pod of an Indexed Job."""
    before = os.environ.get(INDEX_VARIABLE)
    os.environ[INDEX_VARIABLE] = str(number)
    try:
        yield
    finally:
        if before is None:
            del os.environ[INDEX_VARIABLE]
        else:
            os.environ[INDEX_VARIABLE] = before
