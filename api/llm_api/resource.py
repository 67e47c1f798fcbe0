"""What both kinds have in common: group and version, metadata, and the model that a status reports.

Says nothing about what a kind is for.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from llm_api.conditions import MAX_CONDITIONS, Condition
from llm_api.config.scalars import Number
from llm_api.model import ApiModel, Rule
from llm_api.names import LabelName, ResourceName, Step

GROUP = "llmoperator.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

ShortText = Annotated[str, Field(max_length=64)]
LongText = Annotated[str, Field(max_length=2048)]
MAX_METRICS, MAX_METRIC_NAME = 64, 63
Metrics = Annotated[dict[Annotated[str, Field(max_length=MAX_METRIC_NAME)], Number], Field(max_length=MAX_METRICS)]
"""Figures by name."""


class ObjectMeta(ApiModel):
    """The part of a resource's metadata that is read here; the rest is Kubernetes' own."""

    model_config = ConfigDict(extra="ignore")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="metadata-name",
            message="write a name",
            holds=lambda metadata: metadata.name is not None or metadata.generate_name is not None,
            path="name",
            needs=("name", "generateName"),
        ),
    )

    name: ResourceName | None = None
    """Name of the resource; what is made for it is named after it."""
    generate_name: Annotated[str, Field(max_length=43)] | None = None
    """Beginning of a name that the API server is to complete."""
    namespace: LabelName | None = None
    """Namespace of the resource."""
    generation: int | None = None
    """Counts the changes of spec."""
    uid: str | None = None
    """Tells the resource from others of its name, before and after."""
    labels: dict[str, str] = {}
    """Labels; a queue's name goes through to the Job."""
    annotations: dict[str, str] = {}
    """Annotations; none of them means anything here."""


class Artifact(ApiModel):
    """A stored model."""

    uri: LongText
    """Where it lies."""
    digest: Annotated[str, Field(max_length=128)] | None = None
    """SHA-256 over its files."""
    size_bytes: Step | None = None
    """Sum of its files' sizes."""
    base_model: LongText | None = None
    """The model that it was made from."""
    base_model_revision: Annotated[str, Field(max_length=128)] | None = None
    """The base model's revision at that time."""
    result_hash: ShortText | None = None
    """Hash of all that it depends on, as in status.run; a spec that asks for it again gets it as it is."""


class Status(ApiModel):
    """What both kinds report."""

    observed_generation: Step | None = None
    """The metadata.generation that this status is about."""
    conditions: Annotated[
        list[Condition],
        # Merged by type, as in Kubernetes' own objects.
        Field(max_length=MAX_CONDITIONS, json_schema_extra={"x-kubernetes-list-map-keys": ["type"]}),
    ] = []
    """What is true of the resource, for machines and kubectl wait."""


class Resource(ApiModel):
    """Anything of this API."""

    api_version: Literal["llmoperator.dev/v1alpha1"]
    """Group and version of this API."""
    metadata: ObjectMeta
    """Standard metadata of an object."""

    @property
    def name(self) -> str:
        name = self.metadata.name
        return f"{self.metadata.generate_name}".rstrip("-.") if name is None else name

    @property
    def namespace(self) -> str:
        return "default" if self.metadata.namespace is None else self.metadata.namespace


def without_status(document: Mapping[str, Any]) -> dict[str, Any]:
    """A status is the operator's to write: nobody should be told that it is wrong."""
    return {key: value for key, value in document.items() if key != "status"}
