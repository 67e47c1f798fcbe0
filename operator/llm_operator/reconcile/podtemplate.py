"""What a user's pod template may not hold: misspelt fields, and what the "restricted" profile refuses in any pod.

The rest that security rests on is set after merging (``build.security``); this finds what can't be mended there, and
says it before a run starts.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from kubernetes.aio.client import V1PodSpec
from llm_api.compute import Compute
from llm_api.issues import Issue
from pydantic import ValidationError

AT = "spec.compute.podTemplate.spec"
VOLUME_SOURCES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
"""Kinds of volumes that the restricted profile allows."""
CONTAINER_LISTS = ("initContainers", "containers")
NO_SUCH_FIELD = "a pod has no such field"


def check_pod_template(compute: Compute) -> list[Issue]:
    spec = compute.pod_template.spec
    misspelt = list(_check_fields(spec))
    return misspelt if misspelt else [*_check_volumes(spec), *_check_containers(spec), *_check_users(spec)]


def _check_fields(spec: Mapping[str, Any]) -> Iterator[Issue]:
    """By the Kubernetes client's models, which know every field and its type."""
    written = {"containers": [], **{key: value for key, value in spec.items() if value is not None}}
    try:
        known = V1PodSpec.model_validate(written).model_dump(by_alias=True)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"])
            unknown = detail["type"] == "extra_forbidden"
            yield Issue(AT + path, NO_SUCH_FIELD if unknown else detail["msg"])
        return
    for path in _find_lost(written, known):
        yield Issue(AT + path, NO_SUCH_FIELD)


def _find_lost(written: Any, known: Any) -> Iterator[str]:
    """Paths that the client reads under another name, as it takes snake_case too; the API server doesn't."""
    if isinstance(written, Mapping) and isinstance(known, Mapping):
        for key, value in written.items():
            if value is not None and key not in known:
                yield f".{key}"
            for path in _find_lost(value, known.get(key)):
                yield f".{key}{path}"
    if isinstance(written, list) and isinstance(known, list):
        for index, (one, other) in enumerate(zip(written, known, strict=True)):
            for path in _find_lost(one, other):
                yield f"[{index}]{path}"


def _check_volumes(spec: Mapping[str, Any]) -> Iterator[Issue]:
    for index, volume in enumerate(spec.get("volumes") or ()):
        at = f"{AT}.volumes[{index}]"
        for source in sorted(volume.keys() - {"name"} - VOLUME_SOURCES):
            yield Issue(f"{at}.{source}", "use a claim: pods get no volumes of their node and no bare network volumes")
        for number, projected in enumerate((volume.get("projected") or {}).get("sources") or ()):
            if "serviceAccountToken" in projected:
                yield Issue(
                    f"{at}.projected.sources[{number}].serviceAccountToken",
                    "leave it out: the runner has no rights in the cluster",
                )


def _check_containers(spec: Mapping[str, Any]) -> Iterator[Issue]:
    for name in CONTAINER_LISTS:
        for index, container in enumerate(spec.get(name) or ()):
            for number, port in enumerate(container.get("ports") or ()):
                if port.get("hostPort"):
                    yield Issue(
                        f"{AT}.{name}[{index}].ports[{number}].hostPort", "leave it out: pods take no host port"
                    )


def _check_users(spec: Mapping[str, Any]) -> Iterator[Issue]:
    holders = {f"{AT}.securityContext": spec.get("securityContext")}
    for name in CONTAINER_LISTS:
        for index, container in enumerate(spec.get(name) or ()):
            holders[f"{AT}.{name}[{index}].securityContext"] = container.get("securityContext")
    for at, context in holders.items():
        if context is not None and context.get("runAsUser") == 0:
            yield Issue(f"{at}.runAsUser", "write another user: nothing runs as root", "0")
