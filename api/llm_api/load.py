"""Documents as the classes of their kinds. Reads no files."""

from collections.abc import Mapping
from typing import Any

from llm_api.finetune import LLMFineTune
from llm_api.inference import LLMInference
from llm_api.issues import InvalidConfig, Issue, load
from llm_api.resource import GROUP, without_status

KINDS: Mapping[str, type[LLMFineTune] | type[LLMInference]] = {
    "LLMFineTune": LLMFineTune,
    "LLMInference": LLMInference,
}


def is_ours(document: Mapping[str, Any]) -> bool:
    """Whether an object is meant to be of this API, if perhaps misspelt."""
    group = str(document.get("apiVersion", "")).partition("/")[0]
    return group == GROUP or document.get("kind") in KINDS


def load_resource(document: Mapping[str, Any]) -> LLMFineTune | LLMInference:
    """The resource that a manifest describes; its status isn't looked at.

    Raises InvalidConfig with every issue, each path from the object's root, as in spec.config.adapter.r.
    """
    kind = document.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        found = "null" if kind is None else str(kind)
        raise InvalidConfig([Issue("kind", f"write {' or '.join(KINDS)}", found)])
    return load(model, without_status(document))
