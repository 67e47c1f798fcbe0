"""A control plane where nobody acts but the operator and the test, and one operator process for most tests."""

from collections.abc import Iterator

import pytest

from tests.support.cluster.control_plane import ControlPlane, run_control_plane
from tests.support.operator_process import OperatorProcess, run_operator
from tests.support.world import World, install_crds


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Without controllers, since the tests play them; with our CRDs."""
    with run_control_plane(tmp_path_factory.mktemp("plane")) as plane:
        install_crds(plane)
        yield plane


@pytest.fixture(scope="module")
def operator(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """Looks after all namespaces; gone with the module's last test, as others start operators of their own."""
    folder = tmp_path_factory.mktemp("operator")
    flags = {"progress_url": "http://operator.test/progress", "status_interval_seconds": "0.5", "resync_seconds": "10"}
    with run_operator(plane.kubeconfig, folder, **flags) as process:
        yield process


@pytest.fixture
def world(plane: ControlPlane) -> World:
    return World(plane)
