"""The container runtime of one node: containerd and runc of the distribution, with folders and a socket of their own.

Images come from archives only. Nothing is ever pulled, since the node has no way to a registry.
"""

import json
import subprocess
from pathlib import Path

from tests.support.cluster.machine import POD_BRIDGE, Machine

PAUSE_IMAGE = "localhost/pause:1"
PLUGINS = Path("/usr/lib/cni"), Path("/opt/cni/bin")

CONFIG = """
version = 2
disabled_plugins = ["io.containerd.internal.v1.opt"]

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause_image}"
# Neither is there in most containers and small virtual machines.
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{folder}/cni"
"""


class Containerd:
    """containerd on a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.folder = machine.folder / "containerd"
        self.process = machine.process(["containerd", "--config", str(self.folder / "config.toml")], "containerd")

    @property
    def ctr(self) -> list[str]:
        """The runtime's own client, seeing the images that pods see."""
        return self.machine.command("ctr", "--namespace=k8s.io")

    @property
    def import_command(self) -> list[str]:
        """A command that takes in an archive if its path is added."""
        return [*self.ctr, "images", "import", "--snapshotter=overlayfs"]

    def start(self) -> None:
        (self.folder / "cni").mkdir(parents=True)
        self._save_config()
        self.process.start()
        self.process.wait_until(self._answers)

    def import_image(self, archive: Path) -> None:
        """Takes in a docker or OCI archive and unpacks it, under the names that it holds."""
        result = subprocess.run([*self.import_command, str(archive)], capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"{archive} could not be imported: {result.stderr.strip()}")

    def _answers(self) -> bool:
        return subprocess.run([*self.ctr, "version"], capture_output=True).returncode == 0

    def _save_config(self) -> None:
        config = CONFIG.format(folder=self.folder, pause_image=PAUSE_IMAGE, plugins=find_plugins())
        (self.folder / "config.toml").write_text(config)
        (self.folder / "cni" / "10-pods.conflist").write_text(json.dumps(self._build_pod_network(), indent=2))

    def _build_pod_network(self) -> dict[str, object]:
        subnet = self.machine.network.pod_range(self.machine.number)
        addresses = {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]}
        bridge = {"type": "bridge", "bridge": POD_BRIDGE, "isGateway": True, "hairpinMode": True, "ipam": addresses}
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}


def find_plugins() -> Path | None:
    """The folder with the programs that give pods their network, if they are installed."""
    return next((path for path in PLUGINS if (path / "bridge").is_file()), None)
