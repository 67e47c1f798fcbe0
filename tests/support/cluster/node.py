"""A real node of a test cluster: containerd, kubelet and kube-proxy on a machine made of namespaces.

It runs pods as any node does: Pod Security, limits, probes, logs, exec, service addresses. It has no GPU and pulls no
images; see containerd.py for how they come in.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.support.cluster.build import build_program
from tests.support.cluster.containerd import Containerd
from tests.support.cluster.control_plane import ControlPlane
from tests.support.cluster.machine import Machine
from tests.support.cluster.network import Network

DOMAIN = "cluster.local"
KUBELET_PORT = 10250


class Node:
    """A node. Its programs are Processes that a test may kill or pause to make it fail."""

    def __init__(self, folder: Path, control_plane: ControlPlane, network: Network, number: int) -> None:
        self.name = f"node-{number}"
        self.folder = folder
        self.control_plane = control_plane
        self.network = network
        self.machine = Machine(folder, network, number)

    def start(self) -> None:
        """Returns when the machine's programs run; wait_until_ready waits for the node."""
        self.machine.start()
        self.containerd = Containerd(self.machine)
        self.kubelet = self.machine.process(self._kubelet_command(), "kubelet")
        self.kube_proxy = self.machine.process(self._kube_proxy_command(), "kube-proxy")
        self.containerd.start()
        self.kubelet.start()
        self.kube_proxy.start()

    def wait_until_ready(self) -> None:
        self.kubelet.wait_until(self.is_ready)

    def is_ready(self) -> bool:
        path = "{.status.conditions[?(@.type=='Ready')].status}"
        result = self.control_plane.run_kubectl("get", "node", self.name, "-o", f"jsonpath={path}")
        return result.stdout == "True"

    def stop(self) -> None:
        """Ends all of it at once, pods included, as a power cut would. The API server is not told."""
        self.machine.stop()

    def discard(self) -> None:
        """Stops it, and frees what its images take on the disk. Its logs stay."""
        self.stop()
        shutil.rmtree(self.folder / "var", ignore_errors=True)

    def _kubelet_command(self) -> list[str]:
        kubeconfig = self.control_plane.save_kubeconfig(self.name, f"system:node:{self.name}", ["system:nodes"])
        flags = {
            "config": self._save("kubelet.json", self._build_kubelet_config()),
            "kubeconfig": kubeconfig,
            "hostname-override": self.name,
            "node-ip": self.machine.address,
        }
        return [str(build_program("kubelet")), *(f"--{flag}={value}" for flag, value in flags.items())]

    def _kube_proxy_command(self) -> list[str]:
        config = self._save("kube-proxy.json", self._build_kube_proxy_config())
        return [str(build_program("kube-proxy")), f"--config={config}"]

    def _build_kubelet_config(self) -> dict[str, Any]:
        server = self.control_plane.authority.issue_server(f"{self.name}-server", [self.machine.address])
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.machine.address,
            "port": KUBELET_PORT,
            "tlsCertFile": str(server.certificate_path),
            "tlsPrivateKeyFile": str(server.key_path),
            "authentication": {
                "x509": {"clientCAFile": str(self.control_plane.ca_path)},
                "webhook": {"enabled": True},
                "anonymous": {"enabled": False},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "clusterDomain": DOMAIN,
            "clusterDNS": [self.network.host_address],
            "resolvConf": "",
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "seccompDefault": True,
            "maxPods": 200,
            **self._build_limits(),
        }

    def _build_limits(self) -> dict[str, Any]:
        """What lets a kubelet share a small machine with others, and with all that is no pod.

        It never makes room on a full disk: an image that it removed, even the one of pods' sandboxes, can't be pulled
        again here. See require_space in images.py for what happens instead.
        """
        return {
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.machine.cgroup,
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "enforceNodeAllocatable": [],
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        }

    def _build_kube_proxy_config(self) -> dict[str, Any]:
        kubeconfig = self.control_plane.save_kubeconfig(f"{self.name}-proxy", "system:kube-proxy")
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "hostnameOverride": self.name,
            "clusterCIDR": self.network.all_pods_range,
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "iptables": {"minSyncPeriod": "100ms"},
            "conntrack": {"maxPerCore": 0, "min": 0},  # the machine's own settings stay
        }

    def _save(self, name: str, config: dict[str, Any]) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(config, indent=2))
        return path
