"""A real Kubernetes control plane in a folder and on ports of its own: etcd and the API server, controllers if asked.

Needs neither root nor a container runtime, and runs no pods: a node is what node.py adds. Any number of them can stand
side by side.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from ipaddress import ip_network
from pathlib import Path

import requests

from tests.support.cluster.access import Access
from tests.support.cluster.build import build_program
from tests.support.cluster.certificates import Authority
from tests.support.cluster.kubeconfig import build_kubeconfig, save_kubeconfig
from tests.support.cluster.process import Process, free_port

LOOPBACK = "127.0.0.1"
ISSUER = "https://kubernetes.default.svc.cluster.local"


@dataclass(frozen=True)
class Settings:
    """What differs between control planes."""

    address: str = LOOPBACK
    """Where the API server listens; pods can reach it only if it isn't loopback."""
    service_range: str = "10.96.0.0/16"
    has_controllers: bool = False
    """Whether Jobs get pods, namespaces get service accounts, and pods get nodes."""
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further flags by program, such as {"kube-controller-manager": ["--kube-api-qps=200"]}."""


class ControlPlane(Access):
    """A running control plane. Each of its programs is a Process that a test may stop, kill or pause."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.port = free_port(settings.address)
        self.authority = Authority(folder / "certificates")
        super().__init__(self.save_kubeconfig("admin", "llm-operator-test-admin", ["system:masters"]))
        self.etcd = self._etcd()
        self.api_server = self._api_server()

    @property
    def server(self) -> str:
        return f"https://{self.settings.address}:{self.port}"

    @property
    def ca_path(self) -> Path:
        return self.authority.certificate_path

    def start(self) -> None:
        """Returns when the API server is ready, and when the controllers work if there are any."""
        self.etcd.start()
        self.start_api_server()
        if self.settings.has_controllers:
            self.controller_manager.start()
            self.scheduler.start()
            self.controller_manager.wait_until(self._has_default_account)

    def stop(self) -> None:
        if self.settings.has_controllers:
            self.scheduler.stop()
            self.controller_manager.stop()
        self.api_server.stop()
        self.etcd.kill()  # nothing of it is needed any more

    def start_api_server(self) -> None:
        """Starts it, also once more after a test stopped or killed it, and waits until it is ready."""
        self.api_server.start()
        self.api_server.wait_until(self.is_ready)

    def is_ready(self) -> bool:
        return self._get_status("/readyz") == HTTPStatus.OK

    def save_kubeconfig(self, name: str, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for this user, who may do what RBAC says."""
        path = self.folder / f"{name}.kubeconfig"
        pair = self.authority.issue_client(name, user, groups)
        save_kubeconfig(path, build_kubeconfig(self.server, self.ca_path, pair))
        return path

    @cached_property
    def _probe(self) -> requests.Session:
        pair = self.authority.issue_client("probe", "llm-operator-test-probe", ["system:masters"])
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.ca_path)
        session.cert = (str(pair.certificate_path), str(pair.key_path))
        return session

    def _get_status(self, path: str) -> int | None:
        try:
            return self._probe.get(f"{self.server}{path}", timeout=5).status_code
        except requests.RequestException:
            return None

    def _has_default_account(self) -> bool:
        """The last thing that a namespace gets before pods can be made in it."""
        return self._get_status("/api/v1/namespaces/default/serviceaccounts/default") == HTTPStatus.OK

    def _process(self, name: str, flags: Mapping[str, object]) -> Process:
        command = [str(build_program(name)), *(f"--{flag}={value}" for flag, value in flags.items())]
        return Process([*command, *self.settings.flags.get(name, ())], self.folder / "logs" / f"{name}.log")

    def _etcd(self) -> Process:
        self._etcd_url, peer_url = (f"http://{LOOPBACK}:{free_port()}" for _ in range(2))
        flags = {
            "name": "etcd",
            "data-dir": self.folder / "etcd",
            "listen-client-urls": self._etcd_url,
            "advertise-client-urls": self._etcd_url,
            "listen-peer-urls": peer_url,
            "initial-advertise-peer-urls": peer_url,
            "initial-cluster": f"etcd={peer_url}",
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        }
        return self._process("etcd", flags)

    def _api_server(self) -> Process:
        address, names = self.settings.address, ["localhost", "kubernetes.default.svc", "kubernetes.default"]
        first_service = str(next(ip_network(self.settings.service_range).hosts()))
        server = self.authority.issue_server("api-server", [address, LOOPBACK, first_service, *names])
        to_kubelet = self.authority.issue_client("api-server-to-kubelet", "kube-apiserver", ["system:masters"])
        accounts = self.authority.service_account_key
        flags = {
            "etcd-servers": self._etcd_url,
            "bind-address": address,
            "advertise-address": address,
            "secure-port": self.port,
            "tls-cert-file": server.certificate_path,
            "tls-private-key-file": server.key_path,
            "client-ca-file": self.ca_path,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "service-cluster-ip-range": self.settings.service_range,
            "service-account-issuer": ISSUER,
            "service-account-key-file": accounts.certificate_path,
            "service-account-signing-key-file": accounts.key_path,
            "kubelet-client-certificate": to_kubelet.certificate_path,
            "kubelet-client-key": to_kubelet.key_path,
            "kubelet-certificate-authority": self.ca_path,
            "kubelet-preferred-address-types": "InternalIP",
            # This machine has routes to pods but no kube-proxy of its own, so webhooks are called at their pods.
            "enable-aggregator-routing": "true",
            "endpoint-reconciler-type": "none" if address == LOOPBACK else "lease",
            "allow-privileged": "true",
            "profiling": "false",
        }
        return self._process("kube-apiserver", flags)

    @cached_property
    def controller_manager(self) -> Process:
        flags = {
            "kubeconfig": self.save_kubeconfig("controller-manager", "system:kube-controller-manager"),
            "root-ca-file": self.ca_path,
            "service-account-private-key-file": self.authority.service_account_key.key_path,
            "use-service-account-credentials": "true",
            "leader-elect": "false",
            "secure-port": 0,
        }
        return self._process("kube-controller-manager", flags)

    @cached_property
    def scheduler(self) -> Process:
        kubeconfig = self.save_kubeconfig("scheduler", "system:kube-scheduler")
        return self._process("kube-scheduler", {"kubeconfig": kubeconfig, "leader-elect": "false", "secure-port": 0})


@contextmanager
def run_control_plane(folder: Path, settings: Settings | None = None) -> Iterator[ControlPlane]:
    """Starts a control plane in this folder, and stops it in the end."""
    plane = ControlPlane(folder, Settings() if settings is None else settings)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
