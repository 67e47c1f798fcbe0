"""Which model an LLMInference answers with on this machine: what a fine-tune of the same manifests has stored, or an
address.

Looks whether it is there; reads none of its weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llm_api.finetune import LLMFineTune
from llm_api.inference import InferenceSpec
from llm_api.issues import InvalidConfig, load
from llm_api.resource import without_status
from llm_api.run import ModelLocation, S3Settings
from llm_api.sources import ClaimRef

from llm_runner.errors import ModelAccessDenied, ModelNotFound
from llm_runner.local.finetune import base_model_of, output_uri_of
from llm_runner.local.machine import Machine
from llm_runner.local.manifest import Document, find_named
from llm_runner.local.options import LocalOptions
from llm_runner.store.digest import SUMS_NAME
from llm_runner.store.uri import parse_s3, scheme_of

AT = "spec.model.fineTuneRef"
OTHERWISE = "or name the folder of a tuned model with --model-dir"


@dataclass(frozen=True)
class FoundModel:
    location: ModelLocation
    base_volume: ClaimRef | None = None
    """Where the fine-tune read its base, for an inference that names no volume of its own."""


def find_model(
    spec: InferenceSpec, documents: Sequence[Document], options: LocalOptions, machine: Machine, s3: S3Settings
) -> FoundModel:
    """What is not to be found is told to the machine."""
    reference = spec.model.fine_tune_ref
    if options.model_path is not None:
        if not options.model_path.is_dir():
            machine.miss("spec.model", f"--model-dir: there is no folder {options.model_path}")
        return FoundModel(ModelLocation(artifact_uri=str(options.model_path.absolute())))
    if reference is None:
        return FoundModel(ModelLocation(artifact_uri=spec.model.uri))
    fine_tune = _load_fine_tune(reference.name, documents, machine)
    return FoundModel(ModelLocation()) if fine_tune is None else _find_artifact(fine_tune, machine, s3)


def _load_fine_tune(name: str, documents: Sequence[Document], machine: Machine) -> LLMFineTune | None:
    """Raises InvalidConfig with what is wrong in it."""
    known = find_named(documents, LLMFineTune.__name__)
    if name in known:
        try:
            return load(LLMFineTune, without_status(known[name]))
        except InvalidConfig as error:
            mistakes = [replace(issue, path=f"{AT}: LLMFineTune/{name}: {issue.path}") for issue in error.issues]
            raise InvalidConfig(mistakes) from error
    there = ", ".join(known) if known else "none"
    machine.miss(
        f"{AT}.name",
        f"no LLMFineTune {name} is in the files given; there is: {there}. Add its file with another -f, {OTHERWISE}",
    )
    return None


def _find_artifact(fine_tune: LLMFineTune, machine: Machine, s3: S3Settings) -> FoundModel:
    spec = fine_tune.spec
    uri = output_uri_of(spec, machine, f"{AT}: LLMFineTune/{fine_tune.name}: spec.output")
    if uri is not None and (lack := _describe_lack(uri, s3)) is not None:
        machine.miss(
            f"{AT}.name",
            f"the LLMFineTune {fine_tune.name} is not tuned yet: {lack}; tune it first, by llm-runner run -f FILE "
            f"--name LLMFineTune/{fine_tune.name} with the same --volume options, {OTHERWISE}",
        )
    location = ModelLocation(artifact_uri=uri, base_model=base_model_of(spec))
    return FoundModel(location, spec.model.volume)


def _describe_lack(uri: str, s3: S3Settings) -> str | None:
    """None where a finished artifact is there: its sums are written last."""
    if scheme_of(uri) == "s3":
        return None if _is_in_s3(uri, s3) else f"{uri} holds no finished artifact, as no {SUMS_NAME} is in it"
    folder = Path(uri)
    if not folder.is_dir():
        return f"there is no folder {folder}"
    return None if (folder / SUMS_NAME).is_file() else f"{folder} holds no finished artifact, as it has no {SUMS_NAME}"


def _is_in_s3(uri: str, s3: S3Settings) -> bool:
    """Raises ModelNotFound, ModelAccessDenied or StorageFailed, as their names say."""
    from llm_runner.store.s3 import get_text, s3_client
    from llm_runner.store.s3_errors import s3_reading

    with s3_reading(uri, missing=ModelNotFound, denied=ModelAccessDenied):
        return get_text(s3_client(s3), parse_s3(uri).at(SUMS_NAME)) is not None
