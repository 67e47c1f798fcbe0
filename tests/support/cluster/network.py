"""The network of one test cluster: a bridge on this machine, to which nodes are plugged, and ranges of its own.

Nothing leaves the machine: there is no address translation and no route to the outside, and no setting of the machine
changes. A bridge whose cluster died without tidying up is removed by the next one.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PREFIX = "llmop"
FIRST, LAST = 201, 239
OWNED_BY = "llm-operator test cluster of process "


@dataclass(frozen=True)
class Network:
    """10.NUMBER.0.0/16, cut into addresses of nodes, of pods by node, and of services."""

    number: int

    @property
    def bridge(self) -> str:
        return f"{PREFIX}{self.number}"

    @property
    def host_address(self) -> str:
        """This machine, as nodes and pods see it."""
        return f"10.{self.number}.0.1"

    @property
    def service_range(self) -> str:
        return f"10.{self.number}.240.0/20"

    @property
    def all_pods_range(self) -> str:
        return f"10.{self.number}.16.0/20"

    def node_address(self, node: int) -> str:
        return f"10.{self.number}.0.{10 + node}"

    def pod_range(self, node: int) -> str:
        return f"10.{self.number}.{16 + node}.0/24"

    def pod_gateway(self, node: int) -> str:
        return f"10.{self.number}.{16 + node}.1"


@contextmanager
def make_network() -> Iterator[Network]:
    """Takes a range that this machine doesn't use yet, and gives it back in the end."""
    remove_abandoned()
    network = claim_network()
    try:
        ip("address", "add", f"{network.host_address}/24", "dev", network.bridge)
        ip("link", "set", network.bridge, "up")
        yield network
    finally:
        remove(network.bridge)


def claim_network() -> Network:
    """Making the bridge is what claims its number: of two processes that try, one fails and goes on to the next."""
    for number in range(FIRST, LAST + 1):
        network = Network(number)
        if routes_within(f"10.{number}.0.0/16"):
            continue
        command = ["ip", "link", "add", network.bridge, "type", "bridge"]
        if subprocess.run(command, capture_output=True).returncode == 0:
            ip("link", "set", network.bridge, "alias", f"{OWNED_BY}{os.getpid()}")
            return network
    raise RuntimeError(f"every network from 10.{FIRST}.0.0/16 to 10.{LAST}.0.0/16 is in use, or bridges can't be made")


def remove_abandoned() -> None:
    for link in json.loads(ip("-json", "link", "show", "type", "bridge")):
        owner = str(link.get("ifalias", "")).removeprefix(OWNED_BY)
        if link["ifname"].startswith(PREFIX) and owner.isdecimal() and not Path("/proc", owner).exists():
            remove(link["ifname"])


def remove(bridge: str) -> None:
    """With the cables in it, which the kernel removes too when their other ends are gone, but in its own time."""
    for cable in json.loads(ip("-json", "link", "show", "master", bridge)):
        subprocess.run(["ip", "link", "delete", cable["ifname"]], capture_output=True)
    ip("link", "delete", bridge)


def routes_within(network: str) -> list[object]:
    found: list[object] = json.loads(ip("-4", "-json", "route", "show", "root", network))
    return found


def ip(*arguments: str) -> str:
    """Runs iproute2 and gives what it prints; raises with its words if it fails."""
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout
