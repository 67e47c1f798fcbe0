"""What the operator takes for many fine-tunes at once and for many more that rest, on a control plane of its own.

Measures and waits; the figures are judged and written down by ``scale``.
"""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arrivals import watch_arrivals
from benchmarks.crowds import apply_at_once, apply_quickly, build_fine_tune, build_plain_job
from tests.support.audit import AuditLog, count_writes
from tests.support.cluster.control_plane import ControlPlane, Settings, run_control_plane
from tests.support.cluster.fake_nodes import PodCourse, run_fake_nodes
from tests.support.cluster.process import Process
from tests.support.operator_process import OperatorProcess, run_operator, wait_until
from tests.support.world import install_crds

ACCOUNT = "system:serviceaccount:llm-system:llm-operator"
GROUPS = ("system:serviceaccounts", "system:serviceaccounts:llm-system")
GPUS_PER_NODE = 8
RUN_SECONDS = 45.0
"""How long a fake pod runs: longer than it takes until all Jobs are there."""
HURRY = ["--kube-api-qps=200", "--kube-api-burst=400"]
"""Ten times what the controllers ask by default, by which a thousand Jobs need some ten minutes for their pods."""
PATIENCE_SECONDS = 600.0
RESYNC_SECONDS = 40.0
"""So that a minute of rest holds a slow round over everything."""
REST_SECONDS = 60.0
OUTCOME = (
    '{"reason": "Succeeded", "lastStep": 30, "metrics": {"eval.loss": 0.5}, "artifactUri": "s3://models/bench", '
    f'"artifactDigest": "sha256:{"a" * 64}", "artifactSizeBytes": 1234}}'
)


@dataclass(frozen=True)
class Burst:
    """Many at once; seconds are from the start of the client that applies them."""

    applied_seconds: float
    jobs_seconds: float


@dataclass(frozen=True)
class Usage:
    """What the operator took."""

    peak_bytes: int
    writes: int
    requests: int


@dataclass(frozen=True)
class Rest:
    """Many that nothing happens to."""

    grown_bytes: int
    """Memory of the operator that saw them come."""
    ready_seconds: float
    """Until one that was started anew was ready."""
    started_bytes: int
    writes: int


@dataclass(frozen=True)
class Figures:
    """All that was measured, of ``at_once`` resources and of ``idle``."""

    at_once: int
    idle: int
    plain: Burst
    ours: Burst
    usage: Usage
    rest: Rest


def measure(folder: Path, at_once: int, idle: int, tell: Callable[[str], None]) -> Figures:
    """``tell`` is told how it goes."""
    log = AuditLog(folder, ACCOUNT)
    course = PodCourse(run_seconds=RUN_SECONDS, message=OUTCOME)
    with run_plane(folder, log) as plane, run_fake_nodes(plane, -(-2 * at_once // GPUS_PER_NODE), course):
        plain = measure_plain_jobs(plane, at_once)
        with hurried_controllers(plane):
            plane.kubectl("wait", "--for=condition=Complete", "jobs", "--all", "--namespace=plain", "--timeout=10m")
        tell(f"plain Jobs: {plain}")
        with run_measured_operator(plane, folder) as operator:
            log.count_new()
            ours = measure_fine_tunes(plane, at_once)
            tell(f"fine-tunes: {ours}")
            with hurried_controllers(plane):
                usage = measure_usage(plane, log, operator, at_once)
                tell(f"{usage}")
                rest = measure_rest(plane, log, operator, at_once, idle - at_once)
                tell(f"{rest}")
    return Figures(at_once, idle, plain, ours, usage, rest)


@contextmanager
def run_plane(folder: Path, log: AuditLog) -> Iterator[ControlPlane]:
    """A control plane that takes down what the operator's account asks of it."""
    with run_control_plane(folder, Settings(has_controllers=True, flags={"kube-apiserver": log.flags})) as plane:
        install_crds(plane)
        for namespace in ("llm-system", "plain", "tuned", "idle"):
            plane.kubectl("create", "namespace", namespace)
        yield plane


@contextmanager
def run_measured_operator(plane: ControlPlane, folder: Path) -> Iterator[OperatorProcess]:
    """As the chart runs it: with an account of its own, and with a Lease."""
    role = ("--clusterrole=cluster-admin", "--serviceaccount=llm-system:llm-operator")
    plane.kubectl("create", "clusterrolebinding", "llm-operator", *role)
    flags = {
        "leader_election": "true",
        "lease_namespace": "llm-system",
        "progress_url": "http://llm-operator.test/progress",
        "resync_seconds": str(RESYNC_SECONDS),
    }
    with run_operator(plane.save_kubeconfig("operator", ACCOUNT, GROUPS), folder, **flags) as operator:
        yield operator


@contextmanager
def hurried_controllers(plane: ControlPlane) -> Iterator[None]:
    """Where it isn't them who are measured, or who would be in the way of what is."""
    controllers = plane.controller_manager
    usual = controllers.command
    restart_with(controllers, [*usual, *HURRY])
    try:
        yield
    finally:
        restart_with(controllers, usual)


def restart_with(process: Process, command: list[str]) -> None:
    process.stop()
    process.command = command
    process.start()


def measure_plain_jobs(plane: ControlPlane, count: int) -> Burst:
    manifests = [build_plain_job(f"job-{number}", "plain") for number in range(count)]
    return measure_burst(plane, "plain", count, lambda: apply_at_once(plane, manifests))


def measure_fine_tunes(plane: ControlPlane, count: int) -> Burst:
    manifests = [build_fine_tune(f"tune-{number}", "tuned") for number in range(count)]
    return measure_burst(plane, "tuned", count, lambda: apply_at_once(plane, manifests))


def measure_usage(plane: ControlPlane, log: AuditLog, operator: OperatorProcess, count: int) -> Usage:
    """Until all have succeeded."""
    wait_for_phases(operator, Succeeded=count)
    requests = log.count_new()
    jobs = len(plane.kubectl("get", "jobs", "--namespace=tuned", "--output=name").split())
    assert jobs == count, f"{jobs} Jobs for {count} fine-tunes"
    return Usage(read_memory(operator, "VmHWM"), count_writes(requests), requests.total())


def measure_burst(plane: ControlPlane, namespace: str, count: int, apply: Callable[[], None]) -> Burst:
    with watch_arrivals(plane, "jobs", f"--namespace={namespace}") as jobs, ThreadPoolExecutor(1) as pool:
        time.sleep(1)  # the watch is open by then
        start = time.monotonic()
        applied = pool.submit(take_seconds, apply)
        last_job = jobs.wait_for(count, PATIENCE_SECONDS)
        return Burst(applied.result(), last_job - start)


def take_seconds(action: Callable[[], None]) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start


def measure_rest(plane: ControlPlane, log: AuditLog, operator: OperatorProcess, finished: int, suspended: int) -> Rest:
    """Those that finished before, and so many suspended ones that it is as many as asked for."""
    manifests = [build_fine_tune(f"idle-{number}", "idle", is_suspended=True) for number in range(suspended)]
    apply_quickly(plane, manifests)
    wait_for_phases(operator, Succeeded=finished, Suspended=suspended)
    grown = read_memory(operator, "VmRSS")
    operator.stop()
    start = time.monotonic()
    operator.start()
    operator.wait_ready()
    ready = time.monotonic() - start
    wait_for_phases(operator, Succeeded=finished, Suspended=suspended)
    time.sleep(RESYNC_SECONDS)
    log.count_new()
    time.sleep(REST_SECONDS)
    writes = count_writes(log.count_new())
    return Rest(grown, ready, read_memory(operator, "VmHWM"), writes)


def wait_for_phases(operator: OperatorProcess, **counts: int) -> None:
    """As the operator's metrics tell them."""
    lines = [f'llm_operator_resources{{kind="LLMFineTune",phase="{name}"}} {n:.1f}' for name, n in counts.items()]

    def is_so() -> bool:
        time.sleep(1)
        found = operator.get("/metrics")[1].splitlines()
        return all(line in found for line in lines)

    wait_until(is_so, f"{counts}", PATIENCE_SECONDS)


def read_memory(operator: OperatorProcess, key: str) -> int:
    """``VmRSS`` is what it takes now, ``VmHWM`` the most that it ever took."""
    assert operator.process is not None, "it was started"
    status = Path(f"/proc/{operator.process.pid}/status").read_text()
    found = re.search(rf"^{key}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, status
    return int(found[1]) * 1024
