"""Where data and models come from and go to, and the secrets that open them. All by reference: no secret stands here.

Reads and fetches nothing.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llm_api.model import ApiModel, Rule
from llm_api.names import DataKey, ObjectName, Spelling

DataFormat = Literal["auto", "csv", "tsv", "jsonl", "json", "parquet"]

_S3 = "s3://[A-Za-z0-9][A-Za-z0-9._-]*"
# An "@" before the path would be a password in plain sight.
_HTTPS = "https://[^/@ ]+/[^ ]+"

DataUri = Annotated[
    str,
    Field(max_length=2048),
    Spelling(
        f"^({_S3}/.+|hf://[^ ]+|{_HTTPS})$",
        "write an address of a file: s3://BUCKET/PATH, hf://datasets/OWNER/NAME/FILE or https://HOST/PATH without a "
        "user name; files on a volume or in a ConfigMap have keys of their own, volume and configMap",
    ),
]
FolderUri = Annotated[
    str,
    Field(max_length=2048),
    Spelling(f"^{_S3}(/.*)?$", "write s3://BUCKET/PATH; a folder on a volume has a key of its own, volume"),
]
ModelUri = Annotated[
    str,
    Field(max_length=2048),
    Spelling(f"^({_S3}/.+|hf://[^ ]+)$", "write s3://BUCKET/PATH of an artifact, or hf://OWNER/NAME"),
]
EndpointUrl = Annotated[
    str,
    Field(max_length=2048),
    Spelling("^https?://[^/@ ]+(/[^ ]*)?$", "write http:// or https:// and a host, without a user name"),
]
VolumePath = Annotated[
    str,
    Field(max_length=1024),
    Spelling("^([^/].*)?$", "write a path inside the volume, without a leading '/'"),
]


def _count(*values: object) -> int:
    return sum(value is not None for value in values)


class ConfigMapKey(ApiModel):
    """A key of a ConfigMap in the resource's namespace."""

    name: ObjectName
    """Name of the ConfigMap."""
    key: DataKey
    """Key whose value is the file."""


class ClaimRef(ApiModel):
    """A volume, by its claim in the resource's namespace."""

    claim_name: ObjectName
    """Name of the PersistentVolumeClaim."""


class VolumeLocation(ClaimRef):
    """A file or folder on a volume."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="volume-path-inside",
            message="path must stay inside the volume: write it without '..'",
            cel="!has(self.path) || !('/' + self.path + '/').contains('/../')",
            holds=lambda volume: "/../" not in f"/{volume.path}/",
            path="path",
            needs=("path",),
        ),
    )

    path: VolumePath = ""
    """Path inside the volume; unset is its root."""


class Source(ApiModel):
    """A table: exactly one of uri, configMap and volume."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="source-exactly-one",
            message="write exactly one of uri, configMap and volume",
            cel="[has(self.uri), has(self.configMap), has(self.volume)].filter(given, given).size() == 1",
            holds=lambda source: _count(source.uri, source.config_map, source.volume) == 1,
            needs=("uri", "configMap", "volume"),
        ),
        Rule(
            name="source-volume-file",
            message="path is missing: name the file inside the volume",
            cel="!has(self.volume) || (has(self.volume.path) && self.volume.path != '')",
            holds=lambda source: source.volume is None or source.volume.path != "",
            path="volume.path",
            needs=("volume",),
        ),
    )

    uri: DataUri | None = None
    """Address of a file: s3://BUCKET/PATH, hf://datasets/OWNER/NAME/FILE or https://HOST/PATH."""
    config_map: ConfigMapKey | None = None
    """A ConfigMap that holds the file; at most 1 MiB."""
    volume: VolumeLocation | None = None
    """A file on a volume; it is mounted read-only."""


class Dataset(ApiModel):
    """The tables that a model is tuned and measured on."""

    train: Source
    """Rows to learn from."""
    validation: Source | None = None
    """Rows that the tuned model is measured on; unset: taken from train as the config's preprocessing.split says."""
    test: Source | None = None
    """Rows for a last measurement; unset: taken from train as the config's preprocessing.split says."""
    format: DataFormat = "auto"
    """Format of all tables; auto decides for each by its name, then by its content."""

    def sources(self) -> Iterator[tuple[str, Source]]:
        """The tables there are, as (train | validation | test, where it is)."""
        for name, source in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if source is not None:
                yield name, source


class Destination(ApiModel):
    """Where results are stored: exactly one of uri and volume."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="destination-exactly-one",
            message="write exactly one of uri and volume",
            cel="has(self.uri) != has(self.volume)",
            holds=lambda destination: _count(destination.uri, destination.volume) == 1,
            needs=("uri", "volume"),
        ),
    )

    uri: FolderUri | None = None
    """Address in an object store: s3://BUCKET/PATH."""
    volume: VolumeLocation | None = None
    """A place on a volume."""


class SecretRef(ApiModel):
    """A Secret in the resource's namespace."""

    name: ObjectName
    """Name of the Secret."""


class TokenSecretRef(SecretRef):
    """One key of a Secret."""

    key: DataKey = "token"
    """Key whose value is the token; unset: token."""


class TokenSecret(ApiModel):
    """A token, by reference."""

    secret_ref: TokenSecretRef
    """Where the token stands; it is mounted as a file, never given as an argument."""


class S3Credentials(ApiModel):
    """How S3 is reached."""

    secret_ref: SecretRef | None = None
    """A Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; unset: the service account's identity is used."""
    endpoint_url: EndpointUrl | None = None
    """Address of an S3-compatible store; unset: AWS."""
    region: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Region of the buckets."""


class Credentials(ApiModel):
    """What opens models, data and output."""

    hugging_face: TokenSecret | None = None
    """Token for gated models and private repositories of the hub."""
    s3: S3Credentials | None = None
    """Keys and address of the object store."""
