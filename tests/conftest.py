"""Fixtures that tests of several folders share."""

from tests.support.cluster.fixtures import cluster, control_plane, pytest_collection_modifyitems

__all__ = ["cluster", "control_plane", "pytest_collection_modifyitems"]
