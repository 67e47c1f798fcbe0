"""Whose an object is that has the name of one of ours. Only what was made for the resource itself is written to.

An object of an earlier resource of the same name counts as the resource's: it was ours, and would be going otherwise.
"""

from typing import Any

from llm_operator.build.names import COMPONENT_LABEL, FINE_TUNE_LABEL, INFERENCE_LABEL
from llm_operator.observed import Manifest

MARKS = (FINE_TUNE_LABEL, INFERENCE_LABEL, COMPONENT_LABEL)


def explain_taken(wanted: Manifest, found: Manifest) -> str | None:
    """Why ``wanted`` must not be written over ``found``; None where both are of the same resource."""
    owner, other = _find_controller(wanted), _find_controller(found)
    if owner is None:
        # What deletes artifacts outlives its resource and so has no owner; its labels say whose it is.
        return None if _marks(wanted) == _marks(found) else _describe(wanted, other, "LLMFineTune")
    if other is not None and _same(owner, other):
        return None
    return _describe(wanted, other, owner["kind"])


def _find_controller(manifest: Manifest) -> dict[str, Any] | None:
    owners = manifest["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    group, other_group = (owner["apiVersion"].rpartition("/")[0] for owner in (one, other))
    return (group, one["kind"], one["name"]) == (other_group, other["kind"], other["name"])


def _marks(manifest: Manifest) -> list[str | None]:
    labels = manifest["metadata"].get("labels") or {}
    return [labels.get(mark) for mark in MARKS]


def _describe(wanted: Manifest, other: dict[str, Any] | None, resource_kind: str) -> str:
    what = f"{wanted['kind']} {wanted['metadata']['name']}"
    whose = "somebody else's" if other is None else f"{other['kind']} {other['name']}'s"
    return (
        f"there is a {what} in this namespace already, which is {whose} and is left alone: delete it if nobody needs "
        f"it, or give the {resource_kind} another name"
    )
