"""What tests of the cluster itself share."""

from collections.abc import Iterator

import pytest

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.images import build_base_image
from tests.support.installation import Installation, run_installation


@pytest.fixture(scope="session")
def cluster_with_base(cluster: Cluster) -> Cluster:
    """The cluster with the base image on its nodes."""
    cluster.import_image(build_base_image())
    return cluster


@pytest.fixture
def namespace(cluster_with_base: Cluster) -> str:
    """A new namespace at the "restricted" level."""
    return cluster_with_base.make_namespace()


@pytest.fixture(scope="session")
def installation(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The operator, installed from its chart with images built here."""
    with run_installation(cluster, tmp_path_factory.mktemp("installation")) as installation:
        yield installation
