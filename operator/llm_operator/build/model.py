"""Which model an inference answers with, once that is known, and how its pods reach it. Resolves nothing itself."""

from dataclasses import dataclass

from llm_api.inference import LLMInference
from llm_api.resource import Artifact
from llm_api.run import ModelLocation
from llm_api.sources import ClaimRef

from llm_operator.build.volumes import VOLUME_SCHEME, Volumes

ARTIFACT_FOLDER = "/artifact"


@dataclass(frozen=True)
class ResolvedModel:
    label: str
    """In short, for people: the fine-tune's name, an address or the base model."""
    artifact: Artifact | None = None
    """None: the base that the config names, as it is."""
    model_volume: ClaimRef | None = None
    """Where the artifact's base was read from, if the inference names no volume of its own."""


def mount_model(model: ResolvedModel, volumes: Volumes) -> ModelLocation:
    """The model as the runner finds it; a volume that it lies on is mounted."""
    artifact = model.artifact
    if artifact is None:
        return ModelLocation()
    return ModelLocation(
        artifact_uri=_mount_artifact(artifact.uri, volumes),
        artifact_digest=artifact.digest,
        base_model=artifact.base_model,
    )


def mount_bases(resource: LLMInference, model: ResolvedModel, volumes: Volumes) -> tuple[str | None, str | None]:
    """Where base models are and where downloads are kept, as in a fine-tune."""
    own = resource.spec.model
    inherited = own if own.volume is not None else own.model_copy(update={"volume": model.model_volume})
    return volumes.mount_models(inherited)


def _mount_artifact(uri: str, volumes: Volumes) -> str:
    if not uri.startswith(VOLUME_SCHEME):
        return uri
    claim_name, _, path = uri.removeprefix(VOLUME_SCHEME).partition("/")
    volumes.mount_claim(claim_name, ARTIFACT_FOLDER, read_only=True)
    return f"{ARTIFACT_FOLDER}/{path}".rstrip("/")
