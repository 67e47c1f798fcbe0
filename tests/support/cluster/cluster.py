"""A whole test cluster on this machine: control plane, network, names, and nodes that run pods.

What a test needs beside it, it starts itself: an S3 server at the host's address, fake nodes, images.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.cluster.access import Access
from tests.support.cluster.build import build_program
from tests.support.cluster.control_plane import ControlPlane, Settings, run_control_plane
from tests.support.cluster.images import build_pause_image, require_space
from tests.support.cluster.network import Network, ip, make_network
from tests.support.cluster.node import DOMAIN, Node
from tests.support.cluster.process import Process
from tests.support.cluster.tools import provide_tools

NAMES = """
.:53 {{
    bind {address}
    errors
    kubernetes {domain} in-addr.arpa {{
        kubeconfig {kubeconfig}
    }}
}}
"""


class Cluster(Access):
    """A cluster that is up. It may have been there before the tests, and then its parts are out of their reach."""

    def __init__(self, kubeconfig: Path, host_address: str) -> None:
        super().__init__(kubeconfig)
        self.host_address = host_address
        """Where pods reach a server that a test runs on this machine, if it listens there."""

    def import_image(self, archive: Path) -> None:
        """Puts an image archive on every node, under the names that it holds."""
        raise NotImplementedError


class OwnCluster(Cluster):
    """A cluster of this process."""

    def __init__(self, folder: Path, control_plane: ControlPlane, network: Network) -> None:
        super().__init__(control_plane.kubeconfig, network.host_address)
        self.folder = folder
        self.control_plane = control_plane
        self.network = network
        self.nodes: list[Node] = []

    def add_node(self) -> Node:
        """Starts one more node and waits until it is ready."""
        number = len(self.nodes) + 1
        node = Node(self.folder / f"node-{number}", self.control_plane, self.network, number)
        self.nodes.append(node)
        node.start()
        self._connect(node)
        node.containerd.import_image(build_pause_image())
        node.wait_until_ready()
        return node

    def give_up_node(self, node: Node) -> None:
        """What an operator of clusters does with a machine that won't come back. Its name is free again."""
        node.discard()
        self.kubectl("delete", "node", node.name, "--ignore-not-found")
        self.nodes.remove(node)

    def import_image(self, archive: Path) -> None:
        for node in self.nodes:
            require_space(self.folder, archive)
            node.containerd.import_image(archive)

    def _connect(self, node: Node) -> None:
        """Tells this machine and the other nodes the way to the node's pods and, by the first node, to services."""
        if node is self.nodes[0]:
            ip("route", "add", self.network.service_range, "via", node.machine.address)
        for other in self.nodes[:-1]:
            for here, there in ((node.machine, other.machine), (other.machine, node.machine)):
                here.add_route(self.network.pod_range(there.number), there.address)


@contextmanager
def run_cluster(folder: Path, flags: Mapping[str, Sequence[str]] | None = None) -> Iterator[OwnCluster]:
    """Starts a cluster with one node; in the end all of it is gone but the folder, with its logs.

    Needs root. ``flags`` are further ones by program of the control plane.
    """
    provide_tools()
    with make_network() as network:
        settings = Settings(network.host_address, network.service_range, has_controllers=True, flags=flags or {})
        with run_control_plane(folder / "control-plane", settings) as plane, run_names(folder, plane, network):
            cluster = OwnCluster(folder, plane, network)
            try:
                cluster.add_node()
                yield cluster
            finally:
                for node in cluster.nodes:
                    node.discard()


@contextmanager
def run_names(folder: Path, plane: ControlPlane, network: Network) -> Iterator[Process]:
    """Answers pods that ask for names of services. Every other name is refused: there is no way out of the cluster."""
    kubeconfig = plane.save_kubeconfig("coredns", "llm-operator-test-names", ["system:masters"])
    config = folder / "Corefile"
    config.write_text(NAMES.format(address=network.host_address, domain=DOMAIN, kubeconfig=kubeconfig))
    process = Process([str(build_program("coredns")), "-conf", str(config)], folder / "logs" / "coredns.log")
    process.start()
    try:
        yield process
    finally:
        process.stop()
