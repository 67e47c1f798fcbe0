"""A cluster that was there before the tests: one of `make cluster-up`, of kind, or any other that they may write to.

It is used only if USE_EXISTING_CLUSTER=true says so, since a KUBECONFIG that happens to be set may lead to production.
"""

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.cluster.cluster import Cluster

ASKED_FOR = "USE_EXISTING_CLUSTER"
KUBECONFIG = "KUBECONFIG"
HOST_ADDRESS = "LLM_OPERATOR_HOST_ADDRESS"
IMPORT_IMAGE = "LLM_OPERATOR_IMPORT_IMAGE"
MEANINGS = {
    KUBECONFIG: "a kubeconfig whose user may do everything",
    HOST_ADDRESS: "this machine's address as pods see it",
    IMPORT_IMAGE: "a command that puts an image archive on the nodes, such as `kind load image-archive`",
}


class ExistingCluster(Cluster):
    """A cluster that the environment describes."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        missing = [f"{name} ({meaning})" for name, meaning in MEANINGS.items() if not environment.get(name)]
        if missing:
            raise RuntimeError(f"{ASKED_FOR} is true, but not set: {', '.join(missing)}")
        super().__init__(Path(environment[KUBECONFIG]), environment[HOST_ADDRESS])
        self._import_command = shlex.split(environment[IMPORT_IMAGE])

    def import_image(self, archive: Path) -> None:
        subprocess.run([*self._import_command, str(archive)], check=True)


def find_existing_cluster() -> ExistingCluster | None:
    if os.environ.get(ASKED_FOR, "").lower() != "true":
        return None
    return ExistingCluster(os.environ)
