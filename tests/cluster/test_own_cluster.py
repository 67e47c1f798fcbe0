"""Clusters that a test has for itself: beside others, with several nodes, and gone without a trace in the end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster.cluster import OwnCluster, run_cluster
from tests.support.cluster.images import build_base_image
from tests.support.cluster.machine import Machine, cgroup_roots
from tests.support.cluster.network import make_network
from tests.support.cluster.workloads import build_job, build_pod, build_service
from tests.support.repository import ROOT

PORT = 8000
SERVE = f"import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port={PORT})"
ASK = "import urllib.request; print(urllib.request.urlopen('http://%s', timeout=20).status)"
READY = {"httpGet": {"port": PORT, "path": "/etc/hostname"}, "periodSeconds": 1}


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnCluster]:
    with run_cluster(tmp_path_factory.mktemp("own")) as cluster:
        cluster.add_node()
        cluster.import_image(build_base_image())
        yield cluster


def test_pods_on_two_nodes_reach_each_other_and_services(two_nodes: OwnCluster) -> None:
    server = build_pod("server", SERVE, readinessProbe=READY)
    server["spec"]["nodeName"] = "node-1"
    two_nodes.apply(server, build_service("server", PORT))
    two_nodes.wait_for("condition=Ready", "pod/server")
    address = two_nodes.get("pod", "server")["status"]["podIP"]
    job = build_job("asker", "\n".join([ASK % f"{address}:{PORT}", ASK % "server"]))
    job["spec"] |= {"backoffLimit": 3}
    job["spec"]["template"]["spec"]["nodeName"] = "node-2"
    two_nodes.apply(job)
    two_nodes.wait_for("condition=Complete", "job/asker")
    assert two_nodes.kubectl("logs", "job/asker") == "200\n200\n"


def test_a_drained_node_hands_its_jobs_to_the_other(two_nodes: OwnCluster) -> None:
    job = build_job("moves", "import time; time.sleep(600)")
    job["spec"] |= {"backoffLimit": 3}
    two_nodes.apply(job)
    two_nodes.wait_for("jsonpath={.status.ready}=1", "job/moves")
    path = "jsonpath={.items[?(@.status.phase=='Running')].spec.nodeName}"
    before = two_nodes.kubectl("get", "pods", "--selector=job-name=moves", "-o", path)
    two_nodes.kubectl("drain", before, "--force", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
    two_nodes.wait_for("jsonpath={.status.ready}=1", "job/moves")
    after = two_nodes.kubectl("get", "pods", "--selector=job-name=moves", "-o", path)
    two_nodes.kubectl("uncordon", before)
    assert {before, after} == {"node-1", "node-2"}


def test_a_cluster_leaves_no_process_interface_mount_or_cgroup(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("gone")
    with run_cluster(folder) as cluster:
        cluster.kubectl("run", "pause", "--image=localhost/pause:1")
        cluster.wait_for("condition=Ready", "pod/pause")
        node, bridge = cluster.nodes[0], cluster.network.bridge
        assert [line for line in find_traces(folder, bridge, node.machine.cgroup) if not line.startswith("mount")]
    assert find_traces(folder, bridge, node.machine.cgroup) == []


DIES = """
import os, signal, sys
from pathlib import Path
from tests.support.cluster.machine import Machine
from tests.support.cluster.network import make_network
with make_network() as network:
    machine = Machine(Path(sys.argv[1]), network, 1)
    machine.start()
    machine.process(["sleep", "600"], "sleep").start()
    print(network.bridge, machine.cgroup, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_test_run_that_was_killed_leaves_no_process_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIES, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    bridge, cgroup = killed.stdout.split()
    with make_network() as network:
        machine = Machine(tmp_path / "next", network, 1)
        machine.start()
        machine.stop()
    assert find_traces(tmp_path, bridge, cgroup) == []


def find_traces(folder: Path, bridge: str, cgroup: str) -> list[str]:
    """All that a running cluster is made of, as far as this machine can see it."""
    links = subprocess.run(["ip", "-oneline", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    commands = {path.parent.name: path for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [
        *(f"process {pid}" for pid, path in commands.items() if str(folder) in read_if_there(path)),
        *(f"process {pid} in a pod" for pid in commands if cgroup in read_if_there(Path("/proc", pid, "cgroup"))),
        *(f"interface {line}" for line in links if bridge in line),
        *(f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line),
        *(f"cgroup {root}" for root in cgroup_roots() if Path(f"{root}{cgroup}").exists()),
    ]


def read_if_there(path: Path) -> str:
    """A process may end while it is looked at."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
