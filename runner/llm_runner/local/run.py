"""A manifest as a run on this machine: what the operator would hand to a pod, worked out without a cluster.

Finds every mistake before a heavy library is imported; runs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from llm_api.finetune import LLMFineTune
from llm_api.inference import LLMInference
from llm_api.issues import InvalidConfig, load
from llm_api.resource import without_status
from llm_api.run import PredictRun, ServeRun, TrainRun

from llm_runner.errors import ConfigInvalid
from llm_runner.local.finetune import build_train_run
from llm_runner.local.inference import build_inference_run
from llm_runner.local.machine import Machine
from llm_runner.local.manifest import (
    RUNNABLE,
    Document,
    choose_resource,
    describe_issues,
    find_named,
    read_manifest,
    title_of,
)
from llm_runner.local.notes import notes_of
from llm_runner.local.options import LocalOptions

AnyLocalRun: TypeAlias = TrainRun | ServeRun | PredictRun


@dataclass(frozen=True)
class LocalRun:
    """A run that is ready to start, unless the manifest keeps it from that."""

    run: AnyLocalRun
    notes: Sequence[str]
    """What is different from a cluster, for people."""
    suspended_by: str | None = None
    """What of the manifest says that nothing is to run."""


def load_local_run(manifest: Path, options: LocalOptions, work_path: Path, kinds: Sequence[str] = RUNNABLE) -> LocalRun:
    """Files out of ConfigMaps are written below ``work_path``.

    Raises ConfigInvalid with all that is wrong in the resource, or all that is not to be found on this machine.
    """
    documents = read_manifest(manifest)
    document = choose_resource(documents, options.name, manifest, kinds)
    given = [*documents, *(one for path in options.beside for one in read_manifest(path))]
    machine = Machine(find_named(given, "ConfigMap"), options.volumes, work_path)
    try:
        local = _build(document, given, options, machine)
        if machine.issues:
            raise InvalidConfig(machine.issues)
    except InvalidConfig as error:
        raise ConfigInvalid(describe_issues(manifest, title_of(document), error.issues)) from error
    return local


def _build(document: Document, given: Sequence[Document], options: LocalOptions, machine: Machine) -> LocalRun:
    if document["kind"] == LLMInference.__name__:
        inference = load(LLMInference, without_status(document))
        asked = build_inference_run(inference, given, options, machine)
        _check_flags(asked, options)
        serve = inference.spec.serve
        stays_down = serve is not None and serve.replicas == 0
        return LocalRun(asked, list(notes_of(document)), "serve.replicas is 0" if stays_down else None)
    fine_tune = load(LLMFineTune, without_status(document))
    run = build_train_run(fine_tune, machine, options.output_path)
    _check_flags(run, options)
    suspended_by = "run.suspend is true" if fine_tune.spec.run.suspend else None
    return LocalRun(run, list(notes_of(document)), suspended_by)


def _check_flags(run: AnyLocalRun, options: LocalOptions) -> None:
    """Raises ConfigInvalid where one was given that would change nothing."""
    serving = {"--host": options.host, "--port": options.port, "--api-key-file": options.api_key_path}
    idle_by_kind: dict[type, tuple[str, dict[str, object]]] = {
        TrainRun: ("a fine-tune", {**serving, "--model-dir": options.model_path}),
        ServeRun: ("a server", {"--output-dir": options.output_path}),
        PredictRun: ("a batch", {**serving}),
    }
    what, flags = idle_by_kind[type(run)]
    idle = [flag for flag, value in flags.items() if value is not None]
    if idle:
        raise ConfigInvalid(f"{', '.join(idle)}: without effect on {what}; leave it out, or choose another by --name")
