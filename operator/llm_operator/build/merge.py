"""A user's part of a pod merged into the operator's, by the rules of a strategic merge patch.

Knows pods only, and nothing of which fields must win afterwards.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MERGE_KEYS: Mapping[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "schedulingGates": "name",
}
"""Lists of which an entry is told from the others by a key, as in the Kubernetes API's own patches."""
APPENDED = ("tolerations", "envFrom")


def merge_pod(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """``patch`` goes before ``base``, field by field; null takes a field away; both stay as they are."""
    merged = dict(base)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge_field(key, merged.get(key), value)
    return merged


def _merge_field(key: str, base: Any, patch: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(patch, Mapping):
        return merge_pod(base, patch)
    if isinstance(base, list) and isinstance(patch, list):
        if key in MERGE_KEYS:
            return _merge_list(MERGE_KEYS[key], base, patch)
        if key in APPENDED:
            return [*base, *(entry for entry in patch if entry not in base)]
    return patch


def _merge_list(key: str, base: Sequence[Any], patch: Sequence[Any]) -> list[Any]:
    by_key = {entry.get(key): entry for entry in patch}
    own = {entry.get(key) for entry in base}
    merged = [merge_pod(entry, by_key.get(entry.get(key), {})) for entry in base]
    return merged + [entry for entry in patch if entry.get(key) not in own]
