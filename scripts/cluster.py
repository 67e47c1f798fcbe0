"""A test cluster to try things out on: `up` starts it and says how to use it, `down` removes it, `build` prepares it.

It is what the tests start for themselves, kept running in the background. One at a time; it keeps nothing.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.cluster.build import PROGRAMS, build_program, cache_folder, program_path
from tests.support.cluster.cluster import OwnCluster, run_cluster
from tests.support.cluster.existing import ASKED_FOR, HOST_ADDRESS, IMPORT_IMAGE, KUBECONFIG
from tests.support.cluster.tools import provide_tools

FOLDER = cache_folder() / "cluster"
PID = FOLDER / "pid"
LOG = FOLDER / "log"
EXPORTS = FOLDER / "exports.sh"
WAIT_SECONDS = 120


def main() -> None:
    actions: dict[str, Callable[[], None]] = {"up": up, "down": down, "build": build, "serve": serve}
    parser = argparse.ArgumentParser(description="A Kubernetes cluster of this machine's own, to try things out on")
    parser.add_argument("action", choices=actions, help="build does the long part of up; serve is what it starts")
    try:
        actions[parser.parse_args().action]()
    except (OSError, RuntimeError) as error:
        sys.exit(f"cluster: {error}")


def up() -> None:
    if running_pid() is None:
        provide_tools()
        build()
        start()
    say(f"The cluster is up. Next:\n\n{EXPORTS.read_text()}\n  kubectl get nodes\n  kubectl apply -f crds/")


def build() -> None:
    """Builds what isn't built yet, in the order in which tests want it."""
    for name in PROGRAMS:
        if not program_path(name).is_file():
            say(f"Building {name}")
            build_program(name)


def start() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    say("Starting the cluster")
    with LOG.open("wb") as log:
        command = [sys.executable, __file__, "serve"]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + WAIT_SECONDS
    while not EXPORTS.is_file():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"it did not come up:\n{LOG.read_text()}")
        time.sleep(0.2)


def serve() -> None:
    """Holds the cluster until it is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    PID.write_text(str(os.getpid()))
    try:
        with run_cluster(FOLDER) as cluster:
            save_exports(cluster)
            signal.pause()
    finally:
        PID.unlink()


def save_exports(cluster: OwnCluster) -> None:
    """What a shell needs to use the cluster, and what makes the tests use it."""
    variables = {
        KUBECONFIG: str(cluster.kubeconfig),
        "PATH": f"{build_program('kubectl').parent}:{build_program('helm').parent}:$PATH",
        HOST_ADDRESS: cluster.host_address,
        IMPORT_IMAGE: shlex.join(cluster.nodes[0].containerd.import_command),
        ASKED_FOR: "true",
    }
    unfinished = EXPORTS.with_suffix(".unfinished")
    unfinished.write_text("".join(f'export {name}="{value}"\n' for name, value in variables.items()))
    unfinished.rename(EXPORTS)


def down() -> None:
    pid = running_pid()
    if pid is None:
        say("No cluster is up")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + WAIT_SECONDS
    while running_pid() is not None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"process {pid} does not end; see {LOG}")
        time.sleep(0.2)
    shutil.rmtree(FOLDER)
    say("The cluster is gone")


def running_pid() -> int | None:
    """Of the process that holds the cluster, if it is alive and not another one that got its number."""
    try:
        pid = int(PID.read_text())
        command = Path("/proc", str(pid), "cmdline").read_text().split("\0")
    except (FileNotFoundError, ValueError):
        return None
    return pid if command[-3:-1] == [__file__, "serve"] else None


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
