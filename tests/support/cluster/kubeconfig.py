"""How a client finds and trusts the API server of a test cluster: one self-contained file for each user."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from tests.support.cluster.certificates import Pair

NAME = "llm-operator-test"


def build_kubeconfig(server: str, ca_path: Path, pair: Pair) -> dict[str, Any]:
    """All contents inline, so that the file can be copied anywhere on this machine."""
    cluster = {"server": server, "certificate-authority-data": encoded(ca_path)}
    user = {
        "client-certificate-data": encoded(pair.certificate_path),
        "client-key-data": encoded(pair.key_path),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": NAME, "user": user}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
    }


def save_kubeconfig(path: Path, config: dict[str, Any]) -> None:
    """Writes it for its owner's eyes only, since it holds a key. JSON is YAML too."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2))


def encoded(path: Path) -> str:
    return b64encode(path.read_bytes()).decode()
