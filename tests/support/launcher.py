"""Processes that torch's launcher starts, each of which runs a module of these tests."""

import os
import subprocess
import sys

from tests.support.repository import ROOT

TIMEOUT_SECONDS = 300


def launch(module: str, argument: str, processes: int) -> None:
    """So many processes of ``python -m module argument``, until all have ended; fails where one of them does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    # These tests, and whatever the caller has besides.
    path = os.pathsep.join([str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", "PYTHONPATH": path}
    result = subprocess.run(
        [*command, "-m", module, argument],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert result.returncode == 0, result.stderr[-4000:]
