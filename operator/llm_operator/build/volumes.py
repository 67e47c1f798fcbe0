"""What a runner's pod finds on its disk, and where: run file, data, models, results, tokens, scratch space.

Gathers volumes and mounts as they are asked for. A claim becomes one volume however often it is mounted, as a pod that
lists it twice may never start.
"""

from dataclasses import dataclass, field
from typing import Any

from llm_api.finetune import MODEL_ROOT, ModelVolumes
from llm_api.sources import Credentials, Destination, Source, VolumeLocation

from llm_operator.build.names import hash_of

VOLUME_SCHEME = "volume://"
"""In a status: claim and path of what lies on a volume."""
RUN_FOLDER = "/etc/llm-operator"
RUN_FILE = "run.json"
RUN_PATH = f"{RUN_FOLDER}/{RUN_FILE}"
DATA_FOLDER = "/data"
CACHE_FOLDER = "/cache"
OUTPUT_FOLDER = "/output"
CHECKPOINT_FOLDER = "checkpoints"
WORK_FOLDER = "/work"
SECRETS_FOLDER = "/var/run/secrets/llmoperator.dev"
HUB_TOKEN_PATH = f"{SECRETS_FOLDER}/hugging-face/token"
API_KEY_PATH = f"{SECRETS_FOLDER}/api-key/key"
PROGRESS_TOKEN_PATH = f"{SECRETS_FOLDER}/progress/token"
PROGRESS_AUDIENCE = "llmoperator.dev/progress"
PROGRESS_TOKEN_SECONDS = 3600
READABLE_BY_GROUP = 0o440


def address_of_output(output: Destination) -> str:
    """Where results lie, for those who aren't in the pod."""
    if output.volume is not None:
        return f"{VOLUME_SCHEME}{output.volume.claim_name}/{output.volume.path}".rstrip("/")
    assert output.uri is not None, "a rule of Destination: exactly one of the two"
    return output.uri


@dataclass
class Volumes:
    """Volumes of a pod and mounts of its runner, in the order in which they were asked for."""

    volumes: list[dict[str, Any]] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)

    def mount(self, name: str, at: str, source: dict[str, Any], *, read_only: bool = True) -> None:
        if all(volume["name"] != name for volume in self.volumes):
            self.volumes.append({"name": name, **source})
        self.mounts.append({"name": name, "mountPath": at, **({"readOnly": True} if read_only else {})})

    def mount_claim(self, claim_name: str, at: str, *, read_only: bool) -> None:
        """A volume of a claim; its name says nothing, as a claim's name may be too long for a volume's."""
        source = {"persistentVolumeClaim": {"claimName": claim_name}}
        self.mount(f"claim-{hash_of(claim_name)}", at, source, read_only=read_only)

    def mount_run_file(self, config_map_name: str) -> None:
        items = [{"key": RUN_FILE, "path": RUN_FILE}]
        self.mount("run", RUN_FOLDER, {"configMap": {"name": config_map_name, "items": items}})

    def mount_scratch(self) -> None:
        """The root file system is read-only."""
        self.mount("work", WORK_FOLDER, {"emptyDir": {}}, read_only=False)
        self.mount("tmp", "/tmp", {"emptyDir": {}}, read_only=False)

    def mount_data(self, table: str, source: Source) -> str:
        """Address or path at which the runner finds a table."""
        folder = f"{DATA_FOLDER}/{table}"
        if source.volume is not None:
            self.mount_claim(source.volume.claim_name, folder, read_only=True)
            return f"{folder}/{source.volume.path}"
        if source.config_map is not None:
            key = source.config_map.key
            items = [{"key": key, "path": key}]
            self.mount(f"data-{table}", folder, {"configMap": {"name": source.config_map.name, "items": items}})
            return f"{folder}/{key}"
        assert source.uri is not None, "a rule of Source: exactly one of the three"
        return source.uri

    def mount_output(self, uri: str | None, volume: VolumeLocation | None) -> str:
        """Address or path that the runner writes to."""
        if volume is not None:
            self.mount_claim(volume.claim_name, OUTPUT_FOLDER, read_only=False)
            return f"{OUTPUT_FOLDER}/{volume.path}".rstrip("/")
        assert uri is not None, "a rule of Destination: exactly one of the two"
        return uri

    def mount_models(self, model: ModelVolumes) -> tuple[str | None, str | None]:
        """Where base models are and where downloads are kept; None where there is no such volume."""
        if model.volume is not None:
            self.mount_claim(model.volume.claim_name, MODEL_ROOT, read_only=True)
        if model.cache_volume is not None:
            self.mount_claim(model.cache_volume.claim_name, CACHE_FOLDER, read_only=False)
        return (
            None if model.volume is None else MODEL_ROOT,
            None if model.cache_volume is None else CACHE_FOLDER,
        )

    def mount_hub_token(self, credentials: Credentials) -> str | None:
        """Path of the Hugging Face token; None where there is none."""
        if credentials.hugging_face is None:
            return None
        reference = credentials.hugging_face.secret_ref
        self.mount_secret("hugging-face", reference.name, reference.key, HUB_TOKEN_PATH)
        return HUB_TOKEN_PATH

    def mount_secret(self, volume: str, secret_name: str, key: str, path: str) -> None:
        """One key of a Secret as the file ``path``."""
        folder, _, file_name = path.rpartition("/")
        source = {
            "secretName": secret_name,
            "defaultMode": READABLE_BY_GROUP,
            "items": [{"key": key, "path": file_name}],
        }
        self.mount(volume, folder, {"secret": source})

    def mount_progress_token(self) -> str:
        """A token that says to the operator which pod it is from, and is of no use to anybody else."""
        folder, _, file_name = PROGRESS_TOKEN_PATH.rpartition("/")
        token = {"audience": PROGRESS_AUDIENCE, "expirationSeconds": PROGRESS_TOKEN_SECONDS, "path": file_name}
        sources = [{"serviceAccountToken": token}]
        self.mount("progress-token", folder, {"projected": {"defaultMode": READABLE_BY_GROUP, "sources": sources}})
        return PROGRESS_TOKEN_PATH
