"""The clusters of a test session, started when the first test asks for one and shared by all that follow.

So each test works in a namespace of its own. A test that breaks a part of a cluster mends it, or starts a cluster for
itself by run_control_plane or run_cluster.
"""

import sys
from collections.abc import Iterator

import pytest

from tests.support.cluster.access import Access
from tests.support.cluster.build import PROGRAMS, cache_folder, program_path
from tests.support.cluster.cluster import Cluster, run_cluster
from tests.support.cluster.control_plane import run_control_plane
from tests.support.cluster.existing import find_existing_cluster
from tests.support.cluster.process import Process
from tests.support.repository import ROOT

PACKAGE = "tests.support.cluster"
FIXTURES = {"control_plane", "cluster"}
BUILD_SECONDS = 3600
BUILD_ENVIRONMENT = {"PYTHONPATH": str(ROOT)}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Runs tests that need a cluster after all others, which leaves time to build its programs beside those.

    Who waits for a program nevertheless gets the time that it takes.
    """
    late = [item for item in items if needs_cluster(item)]
    items[:] = [*(item for item in items if item not in set(late)), *late]
    missing = [name for name in PROGRAMS if not program_path(name).is_file()]
    if not late or not missing or config.option.collectonly:
        return
    for item in late:
        item.add_marker(pytest.mark.timeout(BUILD_SECONDS))
    build = Process(["nice", sys.executable, "-m", f"{PACKAGE}.build"], cache_folder() / "build.log", BUILD_ENVIRONMENT)
    build.start()
    config.add_cleanup(build.stop)


def needs_cluster(item: pytest.Item) -> bool:
    """Whether it asks for one of these fixtures, or its module takes anything from this package."""
    module = item.getparent(pytest.Module)
    taken = vars(module.obj).values() if module is not None else ()
    return bool(FIXTURES & set(getattr(item, "fixturenames", ()))) or any(
        str(getattr(value, "__module__", "")).startswith(PACKAGE) for value in taken
    )


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """An API server without controllers: it checks and stores what it is given, and nobody acts on it."""
    if existing := find_existing_cluster():
        yield existing
        return
    with run_control_plane(tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A whole cluster with one node that runs pods. Needs root, or a cluster that is there."""
    if existing := find_existing_cluster():
        yield existing
        return
    with run_cluster(tmp_path_factory.mktemp("cluster")) as own:
        yield own
