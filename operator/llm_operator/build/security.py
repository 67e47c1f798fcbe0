"""What no template can weaken: a pod that meets Kubernetes' "restricted" profile and holds no key to the cluster.

Set after merging, on every container. What can't be mended here, such as a volume of the host, is found before a run
starts (``reconcile.podtemplate``).
"""

from collections.abc import Mapping
from typing import Any

CONTAINER_LISTS = ("initContainers", "containers")
DROPPED_POD_FIELDS = ("hostNetwork", "hostPID", "hostIPC", "hostUsers", "serviceAccount", "shareProcessNamespace")
KEPT_POD_CONTEXT = ("fsGroup", "fsGroupChangePolicy", "runAsGroup", "runAsUser", "supplementalGroups")
KEPT_CONTAINER_CONTEXT = ("runAsGroup", "runAsUser")


def harden_pod(spec: Mapping[str, Any], service_account_name: str | None) -> dict[str, Any]:
    hardened = {key: value for key, value in spec.items() if key not in DROPPED_POD_FIELDS}
    for name in CONTAINER_LISTS:
        if name in hardened:
            hardened[name] = [_harden_container(container) for container in hardened[name]]
    account = {} if service_account_name is None else {"serviceAccountName": service_account_name}
    return {
        **hardened,
        **account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            **_kept(hardened.get("securityContext"), KEPT_POD_CONTEXT),
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _harden_container(container: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **container,
        "securityContext": {
            **_kept(container.get("securityContext"), KEPT_CONTAINER_CONTEXT),
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _kept(context: Mapping[str, Any] | None, names: tuple[str, ...]) -> dict[str, Any]:
    return {} if context is None else {name: context[name] for name in names if name in context}
