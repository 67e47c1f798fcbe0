"""Which model an inference answers with: its fine-tune's newest good artifact, an address, or the base. Pure."""

from typing import Any

from llm_api.conditions import Reason, find_condition
from llm_api.finetune import FineTuneCondition, FineTuneStatus
from llm_api.inference import LLMInference
from llm_api.resource import Artifact
from llm_api.sources import ClaimRef

from llm_operator.build.model import ResolvedModel
from llm_operator.observed import Manifest
from llm_operator.status.finding import Finding
from llm_operator.status.writing import read_status


def resolve_model(resource: LLMInference, fine_tune: Manifest | None) -> ResolvedModel | Finding:
    """The model; or why there is none yet."""
    model = resource.spec.model
    if model.fine_tune_ref is not None:
        found = _follow(model.fine_tune_ref.name, fine_tune)
        return found if isinstance(found, Finding) else _refuse_other_base(resource, found)
    if model.uri is not None:
        return ResolvedModel(model.uri, Artifact(uri=model.uri))
    assert resource.spec.config.base_model is not None, "a rule of InferenceSpec: some model is named"
    return ResolvedModel(resource.spec.config.base_model)


def _follow(name: str, fine_tune: Manifest | None) -> ResolvedModel | Finding:
    """An artifact stays good while the next run works, and if it fails."""
    if fine_tune is None:
        return Finding(
            Reason.FINE_TUNE_NOT_FOUND,
            f"there is no LLMFineTune {name} in this namespace; create it, or change spec.model.fineTuneRef",
        )
    status = read_status(FineTuneStatus, fine_tune)
    if status.artifact is not None:
        return ResolvedModel(name, status.artifact, _model_volume(fine_tune))
    succeeded = find_condition(status.conditions, FineTuneCondition.SUCCEEDED)
    if succeeded is not None and succeeded.status == "False":
        return Finding(
            Reason.FINE_TUNE_FAILED,
            f"LLMFineTune {name} failed and has no artifact: {succeeded.reason}: {succeeded.message}",
        )
    phase = "Pending" if status.phase is None else status.phase
    return Finding(Reason.FINE_TUNE_NOT_FINISHED, f"waits for LLMFineTune {name}, which is {phase}")


def _refuse_other_base(resource: LLMInference, model: ResolvedModel) -> ResolvedModel | Finding:
    """An adapter says nothing sensible on a base that it wasn't made for, even where it fits in."""
    written, own = resource.spec.config.base_model, None if model.artifact is None else model.artifact.base_model
    if written is None or own is None or written == own:
        return model
    return Finding(
        Reason.CONFIG_INVALID,
        f"LLMFineTune {model.label} was tuned on {own}, and spec.config.base_model says {written}; leave it out, or "
        "change spec.model.fineTuneRef",
    )


def _model_volume(fine_tune: Manifest) -> ClaimRef | None:
    volume: dict[str, Any] | None = (fine_tune["spec"].get("model") or {}).get("volume")
    return None if volume is None else ClaimRef(claim_name=volume["claimName"])
