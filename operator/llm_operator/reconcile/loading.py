"""A stored or submitted object as a resource, with every mistake of it at once: the contract's and the pod template's.

What isn't written wrongly but can't be done here is ``capability``'s, and held against stored objects only.
"""

from collections.abc import Mapping
from typing import Any

from llm_api.compute import Compute
from llm_api.finetune import LLMFineTune
from llm_api.inference import LLMInference
from llm_api.issues import InvalidConfig, Issue, load
from llm_api.load import load_resource

from llm_operator.reconcile.capability import check_capability
from llm_operator.reconcile.podtemplate import check_pod_template


def load_checked(document: Mapping[str, Any]) -> LLMFineTune | LLMInference:
    """Raises InvalidConfig with every issue, also of what the API server can't check."""
    try:
        resource = load_resource(document)
    except InvalidConfig as error:
        raise InvalidConfig([*error.issues, *_check_written_template(document)]) from error
    issues = check_pod_template(resource.spec.compute)
    if issues:
        raise InvalidConfig(issues)
    return resource


def load_possible(document: Mapping[str, Any]) -> LLMFineTune | LLMInference:
    """The same for what is to be carried out: raises InvalidConfig for what can't be done in this version, too."""
    resource = load_checked(document)
    issues = check_capability(resource)
    if issues:
        raise InvalidConfig(issues)
    return resource


def _check_written_template(document: Mapping[str, Any]) -> list[Issue]:
    """Of a resource with mistakes elsewhere; those of compute itself are known already."""
    spec = document.get("spec")
    written = spec.get("compute") if isinstance(spec, Mapping) else None
    try:
        return [] if written is None else check_pod_template(load(Compute, written))
    except InvalidConfig:
        return []
