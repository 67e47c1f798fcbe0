"""Objects as short texts: without what no planner reads, since most of a Job or pod is what the operator wrote itself.

A planner that comes to read more of an object finds it missing here, and this is the place to keep it.
"""

import json
from collections.abc import Mapping
from typing import Any

from llm_operator.observed import Manifest

_UNREAD_METADATA = frozenset({"managedFields", "selfLink", "generateName"})
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def to_text(manifest: Manifest) -> str:
    return json.dumps(_trim(manifest), separators=(",", ":"), ensure_ascii=False)


def from_text(text: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def _trim(manifest: Manifest) -> dict[str, Any]:
    trimmed = {**manifest, "metadata": _trim_metadata(manifest["metadata"])}
    match manifest["kind"]:
        case "Pod":
            trimmed["spec"] = _trim_pod_spec(manifest.get("spec", {}))
        case "Job" | "Deployment":
            trimmed["spec"] = {key: value for key, value in manifest.get("spec", {}).items() if key != "template"}
        case "ConfigMap":
            trimmed.pop("data", None)
            trimmed.pop("binaryData", None)
    return trimmed


def _trim_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    trimmed = {key: value for key, value in metadata.items() if key not in _UNREAD_METADATA}
    if _LAST_APPLIED in trimmed.get("annotations", {}):
        trimmed["annotations"] = {key: text for key, text in trimmed["annotations"].items() if key != _LAST_APPLIED}
    return trimmed


def _trim_pod_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Where it runs, and what each container may use: what a message about a failure names."""
    containers = [
        {key: container[key] for key in ("name", "image", "resources") if key in container}
        for container in spec.get("containers", [])
    ]
    return {**{key: spec[key] for key in ("nodeName", "nodeSelector") if key in spec}, "containers": containers}
