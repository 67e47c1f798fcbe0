"""How this installation of the operator behaves: read once from the environment that the chart writes.

None of it belongs to a run's hash: upgrading the operator, or moving it, repeats no run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from llm_operator.errors import SettingsInvalid

PREFIX = "LLM_OPERATOR_"


@dataclass(frozen=True)
class Settings:
    """Each field is the environment variable LLM_OPERATOR_ and its name in capitals."""

    runner_image: str
    """Image with llm-runner."""
    runner_image_pull_policy: str = "IfNotPresent"
    runner_image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the resource's namespace; a comma between two."""
    vllm_image: str = "vllm/vllm-openai:v0.11.0"
    """Image for inferences whose engine is vllm."""
    watch_namespaces: tuple[str, ...] = ()
    """Namespaces that are looked after; empty: all of them. A comma between two."""
    progress_url: str | None = None
    """Where runners reach the operator; /NAMESPACE/RUN is added. Unset: runs don't report while they work."""
    cluster_domain: str = "cluster.local"
    status_interval_seconds: float = 5.0
    """A status in which only the progress is new is written no more often than this."""
    runner_uid: int = 65532
    """User and group that runners run as."""
    grace_period_seconds: int = 120
    """What a pod has between SIGTERM and the end: long enough to save a checkpoint."""
    cleanup_deadline_seconds: int = 600
    """A deleted resource waits no longer than this for its artifacts to be deleted."""
    metrics_port: int = 9090
    """Port of a runner's Prometheus metrics."""


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Raises SettingsInvalid with everything that is wrong."""
    values: dict[str, Any] = {}
    faults: list[str] = []
    for field in fields(Settings):
        text = environ.get(PREFIX + field.name.upper(), "")
        if not text:
            continue
        try:
            values[field.name] = _parse(field.type, text)
        except ValueError:
            faults.append(f"{PREFIX}{field.name.upper()} is {text!r}: write a number")
    if "runner_image" not in values:
        faults.append(f"{PREFIX}RUNNER_IMAGE is missing: write the image with llm-runner")
    if faults:
        raise SettingsInvalid("; ".join(faults))
    return Settings(**values)


def _parse(kind: Any, text: str) -> Any:
    if get_args(kind) == (str, ...):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return kind(text) if kind in (int, float) else text
