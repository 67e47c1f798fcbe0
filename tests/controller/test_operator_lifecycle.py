"""What outlives an operator that is stopped, killed, cut off or replaced."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster.control_plane import ControlPlane, run_control_plane
from tests.support.operator_process import OperatorProcess, run_operator, wait_until
from tests.support.world import World, install_crds

STORE = {
    "output": {"uri": "s3://models/support-tickets", "deletionPolicy": "Delete"},
    "credentials": {"s3": {"secretRef": {"name": "s3"}}},
}


@pytest.fixture
def own(world: World, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator of the test's own, for its namespace only."""
    with run_operator(world.plane.kubeconfig, tmp_path, watch_namespaces=world.namespace) as process:
        yield process


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[tuple[World, OperatorProcess]]:
    """An operator whose API server is the test's own, to be stopped."""
    with run_control_plane(tmp_path) as plane:
        install_crds(plane)
        with run_operator(plane.kubeconfig, tmp_path) as operator:
            yield World(plane), operator


def restart(operator: OperatorProcess) -> None:
    operator.start()
    operator.wait_ready()


def test_sigterm_ends_it_in_order_and_soon(own: OperatorProcess, world: World) -> None:
    world.apply()
    world.wait_phase("Pending")
    started = time.monotonic()
    assert own.stop() == 0
    assert time.monotonic() - started < 15
    assert "Traceback" not in own.log


def test_only_the_namespaces_that_it_is_told_of_are_looked_after(own: OperatorProcess, world: World) -> None:
    elsewhere = World(world.plane)
    elsewhere.apply()
    world.apply()
    world.wait_phase("Pending")
    time.sleep(2)
    assert elsewhere.names("jobs") == []


def test_a_killed_operator_goes_on_where_it_was_and_writes_nothing_twice(own: OperatorProcess, world: World) -> None:
    world.apply()
    run = world.run()
    run.start()
    world.wait_phase("Preparing")
    before, told = world.resource()["metadata"]["resourceVersion"], world.events()
    own.kill()
    restart(own)
    time.sleep(3)
    assert world.resource()["metadata"]["resourceVersion"] == before
    assert world.events() == told
    assert world.jobs_of() == [run.job_name]


def test_what_happened_while_it_was_away_is_caught_up_with(own: OperatorProcess, world: World) -> None:
    world.apply()
    run = world.run()
    run.start()
    world.wait_phase("Preparing")
    own.kill()
    run.end(0, {"reason": "Succeeded"})
    world.apply("came-later")
    restart(own)
    world.wait_phase("Succeeded")
    world.run("came-later")


def test_a_resource_can_be_deleted_while_no_operator_runs(own: OperatorProcess, world: World) -> None:
    world.apply()
    world.run()
    own.kill()
    world.kubectl("delete", "llmft", "support-tickets", "--timeout=10s")
    restart(own)
    time.sleep(2)
    assert world.names("llmft") == [], "an operator that comes back must not make it anew"


def test_stored_files_are_deleted_by_a_job_before_the_resource_goes(own: OperatorProcess, world: World) -> None:
    world.apply(**STORE)
    run = world.run()
    wait_until(lambda: "finalizers" in world.resource()["metadata"], "a finalizer")
    run.start()
    run.end(0, {"reason": "Succeeded", "artifactUri": "s3://models/support-tickets"})
    world.wait_phase("Succeeded")
    world.kubectl("delete", "llmft", "support-tickets", "--wait=false")
    wait_until(lambda: any(name != run.job_name for name in world.names("jobs")), "a Job that deletes")
    assert world.names("llmft") == ["support-tickets"]


def test_an_api_server_that_is_away_for_a_while_stops_nothing(alone: tuple[World, OperatorProcess]) -> None:
    world, operator = alone
    world.apply()
    run = world.run()
    run.start()
    world.wait_phase("Preparing")
    world.plane.api_server.kill()
    time.sleep(8)
    assert operator.is_running
    assert operator.get("/healthz")[0] == 200
    world.plane.start_api_server()
    run.end(0, {"reason": "Succeeded"})
    world.wait_phase("Succeeded")
    assert operator.is_running


def test_what_went_while_the_watches_could_not_go_on_is_missed_within_seconds(
    alone: tuple[World, OperatorProcess],
) -> None:
    world, operator = alone
    world.apply()
    run = world.run()
    world.wait_phase("Pending")
    operator.send(signal.SIGSTOP)
    # An API server that was started anew tells nothing of before: watches begin from a list.
    world.plane.api_server.kill()
    world.plane.start_api_server()
    world.kubectl("delete", "job", run.job_name)
    operator.send(signal.SIGCONT)
    wait_until(lambda: world.jobs_of() == [run.job_name], "the Job again", 60)


def test_a_namespace_that_is_deleted_does_not_wait_for_stored_files(own: OperatorProcess, world: World) -> None:
    world.apply(**STORE)
    wait_until(lambda: "finalizers" in world.resource()["metadata"], "a finalizer")
    world.run().start()
    world.wait_phase("Preparing")
    world.plane.kubectl("delete", "namespace", world.namespace, "--wait=false")
    # What the namespace's controller does next; nothing new can be made there by now, so no Job deletes anything.
    world.kubectl("delete", "llmft", "--all", "--timeout=20s")
    assert world.names("llmft") == []


@pytest.fixture
def plane_with_system(plane: ControlPlane) -> ControlPlane:
    plane.run_kubectl("create", "namespace", "llm-system")
    return plane


def test_a_standby_takes_over_from_a_leader_that_died_and_not_before(
    plane_with_system: ControlPlane, world: World, tmp_path: Path
) -> None:
    flags = {
        "watch_namespaces": world.namespace,
        "leader_election": "true",
        "lease_namespace": "llm-system",
        "lease_name": world.namespace,
    }
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    kubeconfig = plane_with_system.kubeconfig
    with run_operator(kubeconfig, folders[0], replica_name="first", **flags) as first:
        world.apply()
        world.run()
        with run_operator(kubeconfig, folders[1], replica_name="second", **flags) as second:
            time.sleep(3)
            assert "llm_operator_leading 1.0" in first.get("/metrics")[1]
            assert "llm_operator_leading 0.0" in second.get("/metrics")[1]
            first.kill()
            world.apply("orphan")
            time.sleep(3)
            assert world.jobs_of("orphan") == [], "the lease of the dead one has not run out"
            world.run("orphan")
            assert "llm_operator_leading 1.0" in second.get("/metrics")[1]


def test_a_leader_that_is_told_to_stop_hands_over_at_once(
    plane_with_system: ControlPlane, world: World, tmp_path: Path
) -> None:
    name = world.namespace
    flags = {"leader_election": "true", "lease_namespace": "llm-system", "lease_name": name}
    with run_operator(plane_with_system.kubeconfig, tmp_path, replica_name="first", **flags) as first:
        wait_until(lambda: "llm_operator_leading 1.0" in first.get("/metrics")[1], "leads")
        assert first.stop() == 0
    lease = plane_with_system.get("lease", name, "llm-system")
    assert lease["spec"]["holderIdentity"] == ""


def test_an_operator_that_is_there_before_its_kinds_waits_for_them(tmp_path: Path) -> None:
    with run_control_plane(tmp_path) as plane:
        operator = OperatorProcess(plane.kubeconfig, tmp_path)
        operator.start()
        try:
            wait_until(lambda: "apply the CRDs" in operator.log, "the CRDs asked for")
            assert (operator.get("/healthz")[0], operator.get("/readyz")[0]) == (200, 503)
            install_crds(plane)
            operator.wait_ready()
        finally:
            operator.stop()
