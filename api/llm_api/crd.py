"""CustomResourceDefinitions from the models, so that the API server checks what the models say.

``python -m llm_api.crd`` writes them to crds/ and to the chart; ``--check`` only says what differs. What a schema may
hold is in ``structural``.
"""

import sys
from dataclasses import dataclass
from typing import Any

import yaml

from llm_api.finetune import LLMFineTune
from llm_api.generated import Generator
from llm_api.inference import LLMInference
from llm_api.resource import GROUP, VERSION, Resource
from llm_api.structural import Schema, build_schema

FOLDERS = ("crds", "charts/llm-operator/files/crds")
_HEADER = "# Generated from the models by `python -m llm_api.crd`. Don't edit.\n"


@dataclass(frozen=True)
class Column:
    """One column of ``kubectl get``."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    """Above 0: shown with ``-o wide`` only."""
    description: str = ""

    def build(self) -> dict[str, Any]:
        shown = {"name": self.name, "type": self.type, "jsonPath": self.path, "description": self.description}
        return shown if self.priority == 0 else {**shown, "priority": self.priority}


@dataclass(frozen=True)
class Kind:
    """What the API server is told of a kind besides its schema."""

    model: type[Resource]
    plural: str
    short_name: str
    columns: tuple[Column, ...]
    scale: dict[str, str] | None = None

    @property
    def name(self) -> str:
        return self.model.__name__

    @property
    def file_name(self) -> str:
        return f"{GROUP}_{self.plural}.yaml"


AGE = Column("Age", ".metadata.creationTimestamp", "date", description="Time since it was created.")
PHASE = Column("Phase", ".status.phase", description="Where it stands.")

KINDS = (
    Kind(
        LLMFineTune,
        "llmfinetunes",
        "llmft",
        (
            PHASE,
            Column("Model", ".spec.config.base_model", description="The base model."),
            Column("Progress", ".status.progress.percent", description="Part of the steps that is done."),
            Column("Loss", ".status.progress.loss", "number", description="Training loss per target token or pair."),
            Column("ETA", ".status.progress.eta", description="Time that is left."),
            AGE,
            Column("Artifact", ".status.artifact.uri", priority=1, description="Where the result is."),
        ),
    ),
    Kind(
        LLMInference,
        "llminferences",
        "llminf",
        (
            PHASE,
            Column("Model", ".status.model", description="What answers."),
            Column("Ready", ".status.ready", description="Servers that take requests, of those wanted."),
            Column("URL", ".status.url", description="Address inside the cluster."),
            AGE,
        ),
        {
            "specReplicasPath": ".spec.serve.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    ),
)


def build_crd(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short_name],
                "categories": ["llm"],
            },
            "versions": [_build_version(kind)],
        },
    }


def _build_version(kind: Kind) -> dict[str, Any]:
    scale = {} if kind.scale is None else {"scale": kind.scale}
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}, **scale},
        "additionalPrinterColumns": [column.build() for column in kind.columns],
        "schema": {"openAPIV3Schema": build_root_schema(kind.model)},
    }


def build_root_schema(model: type[Resource]) -> Schema:
    """The model's schema with the three fields that Kubernetes types by itself."""
    schema = build_schema(model)
    properties = schema["properties"]
    name = {key: value for key, value in properties["metadata"]["properties"]["name"].items() if key != "nullable"}
    own = {
        "apiVersion": {"description": properties["apiVersion"]["description"], "type": "string"},
        "kind": {"description": properties["kind"]["description"], "type": "string"},
        # The only part of metadata that a schema may speak of; a description of the whole isn't allowed.
        "metadata": {"type": "object", "properties": {"name": name}},
    }
    rest = {key: value for key, value in properties.items() if key not in own}
    return {**schema, "properties": {**own, **rest}, "required": ["spec"]}


class _Plain(yaml.SafeDumper):
    """Without anchors: what stands twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_yaml(crd: dict[str, Any]) -> str:
    return _HEADER + yaml.dump(crd, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


def build_files() -> dict[str, str]:
    """Path from the repository's root -> content, of every generated file."""
    contents = {kind.file_name: write_yaml(build_crd(kind)) for kind in KINDS}
    return {f"{folder}/{name}": content for folder in FOLDERS for name, content in contents.items()}


GENERATOR = Generator(
    "llm_api.crd",
    "Write the CRDs from the models.",
    lambda _root: build_files(),
    "The CRDs are not what the models say: run `make crds`.",
)
find_differences, write_files, main = GENERATOR.find_differences, GENERATOR.write, GENERATOR.main


if __name__ == "__main__":
    sys.exit(main())
