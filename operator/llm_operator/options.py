"""How one replica runs: ports, leadership, logs. Each field is a flag, or else an environment variable.

What it makes of resources stands in ``settings``; the flags for those are made here too, so that `--help` says it all.
"""

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm_operator.errors import SettingsInvalid
from llm_operator.settings import PREFIX, Settings, load_settings

SETTINGS_HELP: Mapping[str, str] = {
    "runner_image": "image with llm-runner (needed)",
    "runner_image_pull_policy": "when nodes pull that image",
    "runner_image_pull_secrets": "names of Secrets for pulling it, in the resource's namespace; a comma between two",
    "runner_uid": "user that runners run as",
    "vllm_image": "image for inferences whose engine is vllm",
    "watch_namespaces": "namespaces that are looked after, a comma between two; unset: all of them",
    "progress_url": "where runners reach this operator, ending in /progress; unset: runs don't report while they work",
    "cluster_domain": "domain of Services' names",
    "status_interval_seconds": "a status in which only the progress is new is written no more often than this",
    "grace_period_seconds": "what a pod has between SIGTERM and the end, to save a checkpoint",
    "cleanup_deadline_seconds": "how long a deleted resource waits for its artifacts to be deleted",
    "metrics_port": "port of a runner's Prometheus metrics",
}
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Options(BaseModel):
    """Of one replica."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    status_port: int = Field(default=8080, ge=0, le=65535)
    """port of /metrics, /healthz and /readyz"""
    progress_port: int = Field(default=8081, ge=0, le=65535)
    """port that runners report to"""
    webhook_port: int = Field(default=9443, ge=0, le=65535)
    """port of the validating webhook"""
    webhook_cert_dir: Path | None = None
    """folder with tls.crt and tls.key; unset: there is no webhook"""
    listen_address: str | None = None
    """address that all ports listen on; unset: every address of the pod"""
    leader_election: bool = False
    """whether a Lease decides which of several replicas writes"""
    lease_name: str = "llm-operator"
    """name of that Lease"""
    lease_namespace: str = Field(default_factory=lambda: _own_namespace())
    """namespace of that Lease; unset: the operator's own"""
    replica_name: str = Field(default_factory=socket.gethostname)
    """what this replica calls itself; unset: the host's name"""
    replica_address: str | None = None
    """address at which other replicas reach this one, to pass reports on to the one that leads"""
    workers: int = Field(default=32, ge=1, le=256)
    """resources that are worked on at once"""
    resync_seconds: float = Field(default=600, ge=10)
    """how often all resources are looked at again though nothing is seen to change"""
    log_format: Literal["json", "text"] = "json"
    """json or text"""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """debug, info, warning or error"""


def load_all(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[Options, Settings]:
    """Raises SettingsInvalid; ends the process for ``--help`` and unknown flags."""
    given = vars(build_parser().parse_args(arguments))
    flags = {PREFIX + name.upper(): value for name, value in given.items() if value is not None}
    merged = {**environ, **flags}
    return _load_options(merged), load_settings(merged)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llm_operator",
        description="Tunes and serves language models as the LLMFineTunes and LLMInferences of a cluster ask.",
        epilog=f"Each flag can be set by environment too: {PREFIX}RUNNER_IMAGE for --runner-image. "
        "The cluster is the pod's own, or the one that KUBECONFIG names.",
    )
    behaviour = parser.add_argument_group("what runs are like")
    for field in fields(Settings):
        behaviour.add_argument(_flag(field.name), help=SETTINGS_HELP.get(field.name))
    replica = parser.add_argument_group("how this replica runs")
    for name, option in Options.model_fields.items():
        default = "" if option.default_factory or option.default is None else f" (default: {option.default})"
        replica.add_argument(_flag(name), help=f"{option.description}{default}")
    return parser


def _load_options(environ: Mapping[str, str]) -> Options:
    found = {name: environ.get(PREFIX + name.upper(), "") for name in Options.model_fields}
    try:
        return Options.model_validate({name: text for name, text in found.items() if text})
    except ValidationError as error:
        faults = [f"{PREFIX}{str(e['loc'][0]).upper()} is {e['input']!r}: {e['msg']}" for e in error.errors()]
        raise SettingsInvalid("; ".join(faults)) from error


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _own_namespace() -> str:
    if "POD_NAMESPACE" in os.environ:
        return os.environ["POD_NAMESPACE"]
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"
