"""What makes a node of a process: namespaces of its own for network, mounts and processes, and a place in the cgroups.

When a machine's first process ends, the kernel ends all others, whatever they are, and frees its mounts, interfaces and
firewall rules. So nothing of a node outlives the test that made it, however the test ended.
"""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.cluster.network import Network, ip
from tests.support.cluster.process import STOP_SECONDS, Process

POD_BRIDGE = "cni0"
CGROUP_PREFIX = "llm-operator-test"

UNSHARE = ("unshare", "--net", "--mount", "--propagation=private", "--mount-proc", "--pid", "--fork", "--kill-child")

# Programs find the usual places here, which are folders of the test's own; sockets lie in /run, where their paths are
# short enough. The first process adopts orphans, such as the shims of containerd, and reaps them when they end.
FIRST_PROCESS = """
set -e
for path in /run /var/lib/cni /var/log/containers; do
  mkdir -p $path
  mount -t tmpfs tmpfs $path
done
for path in /var/lib/containerd /var/lib/kubelet /var/log/pods; do
  mkdir -p $path "$0$path"
  mount --bind "$0$path" $path
done
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready
trap 'exit 0' TERM
while :; do sleep 86400 & wait $! || true; done
"""


class Machine:
    """A node's surroundings, reachable from this machine at its address, as are its pods and all services."""

    def __init__(self, folder: Path, network: Network, number: int) -> None:
        self.folder = folder
        self.network = network
        self.number = number
        self.cgroup = f"/{CGROUP_PREFIX}-{os.getpid()}-{network.number}-{number}"
        self._others: list[Process] = []
        self._first = Process([*UNSHARE, "bash", "-c", FIRST_PROCESS, str(folder)], folder / "logs" / "machine.log")

    @property
    def address(self) -> str:
        return self.network.node_address(self.number)

    def start(self) -> None:
        remove_abandoned_cgroups()
        for path in self._cgroup_paths():
            path.mkdir()
        self._first.start()
        self._first.wait_until(lambda: "ready" in self._first.last_lines())
        self._plug_in()

    def stop(self) -> None:
        """Ends everything on this machine at once, as a power cut would."""
        self._first.kill()
        for process in self._others:
            process.join()
        for path in self._cgroup_paths():
            remove_cgroup(path)

    def process(self, command: Sequence[str], log_name: str, environment: Mapping[str, str] | None = None) -> Process:
        """A process that will run on this machine."""
        log_path = self.folder / "logs" / f"{log_name}.log"
        self._others.append(MachineProcess(self.command(*command), log_path, environment))
        return self._others[-1]

    def command(self, *command: str) -> list[str]:
        """A command that runs the given one on this machine."""
        return ["nsenter", f"--target={child_of(self._first.pid)}", "--net", "--mount", "--pid", *command]

    def run(self, *command: str) -> str:
        """Runs a command on this machine, and gives what it prints."""
        result = subprocess.run(self.command(*command), capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
        return result.stdout

    def add_route(self, destination: str, gateway: str) -> None:
        self.run("ip", "route", "add", destination, "via", gateway)

    def _plug_in(self) -> None:
        """A cable to the bridge outside, and a bridge inside for pods. Services are reached through the first node."""
        network, number, cable = self.network, self.number, f"{self.network.bridge}n{self.number}"
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(child_of(self._first.pid)))
        ip("link", "set", cable, "master", network.bridge, "up")
        inside = [
            "link set lo up",
            f"address add {self.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {network.host_address}",
            f"link add {POD_BRIDGE} type bridge",
            f"address add {network.pod_gateway(number)}/24 dev {POD_BRIDGE}",
            f"link set {POD_BRIDGE} up",
        ]
        for command in inside:
            self.run("ip", *command.split())
        ip("route", "add", network.pod_range(number), "via", self.address)

    def _cgroup_paths(self) -> list[Path]:
        return [Path(f"{root}{self.cgroup}") for root in cgroup_roots()]


class MachineProcess(Process):
    """A process that was started through nsenter, which waits for it outside."""

    def start(self) -> None:
        super().start()
        self.wait_until(self._has_begun)

    @property
    def pid(self) -> int:
        return child_of(super().pid)

    def _has_begun(self) -> bool:
        with suppress(ProcessLookupError):
            return self.pid > 0
        return False

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            super().send(number)
        if number is signal.SIGCONT:  # nsenter stops as its child does
            with suppress(ProcessLookupError):
                os.kill(super().pid, number)


def child_of(pid: int) -> int:
    """The only child of a process; raises ProcessLookupError if it has none, or none any more."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0])
    except (FileNotFoundError, IndexError) as error:
        raise ProcessLookupError(f"process {pid} has no child") from error


def cgroup_roots() -> Iterator[Path]:
    """Where the controllers are mounted: one folder for each in version 1, a single one in version 2."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, path, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            yield Path(path)


def remove_abandoned_cgroups() -> None:
    for root in cgroup_roots():
        for path in root.glob(f"{CGROUP_PREFIX}-*"):
            if not Path("/proc", path.name.split("-")[3]).exists():
                remove_cgroup(path)


def remove_cgroup(path: Path) -> None:
    """Removes the group and those within it, as soon as the last process in them has ended."""
    for folder, _, _ in os.walk(path, topdown=False):
        deadline = time.monotonic() + STOP_SECONDS
        while Path(folder).exists():
            try:
                Path(folder).rmdir()
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
