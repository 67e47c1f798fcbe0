"""The product as a user installs it: images by buildah, the chart by Helm, on a cluster with pods, beside a real S3.

Everything runs in pods but the S3 server and the tests. What is tuned, and how it should end, is the tests'.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import boto3

from scripts.build_images import Image, build_image
from tests.support.charts import CHART, run_helm
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.images import BASE_IMAGE, build_base_image, load_image
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server, run_s3_server

RELEASE, NAMESPACE = "llm-operator", "llm-operator-system"
STATUS_PORT = "status"
BUCKETS = ("datasets", "models")
S3_SECRET = "s3"
MODEL_CLAIM = "models"


class Installation:
    """The operator in a cluster, and what its users have besides."""

    def __init__(self, cluster: Cluster, s3: S3Server, images: Mapping[str, Image], model_folder: Path) -> None:
        self.cluster = cluster
        self.s3 = s3
        self.images = images
        """The operator's and the runner's."""
        self.model_folder = model_folder
        """On every volume that this gives to a namespace; tests put base models there."""

    def make_namespace(self) -> str:
        """A restricted one with the S3 secret and a claim of the model volume."""
        name = self.cluster.make_namespace("restricted")
        self.cluster.apply(build_secret(name))
        add_volume(self.cluster, name, self.model_folder)
        return name

    def add_model(self, name: str, folder: Path) -> None:
        """A copy that every user may read, as in an image or on a shared disk."""
        target = shutil.copytree(folder, self.model_folder / name)
        for path in (target, *target.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)

    def put(self, bucket: str, key: str, content: bytes) -> str:
        """An object in the store; gives its address."""
        store = boto3.client(
            "s3",
            endpoint_url=self.s3.endpoint_url,
            region_name=self.s3.settings.region,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        with closing(store):
            store.put_object(Bucket=bucket, Key=key, Body=content)
        return f"s3://{bucket}/{key}"

    def artifact_folder(self, uri: str) -> Path:
        """The server keeps objects as files."""
        return self.s3.folder / uri.removeprefix("s3://")

    def upgrade(self, values: Mapping[str, Any] | None = None) -> None:
        """The release with these values besides, or without any."""
        install(self.cluster, self.images, values)

    def operator_metrics(self) -> str:
        """As Prometheus would get them."""
        path = f"/api/v1/namespaces/{NAMESPACE}/services/{RELEASE}:{STATUS_PORT}/proxy/metrics"
        return self.cluster.kubectl("get", "--raw", path)


@contextmanager
def run_installation(cluster: Cluster, folder: Path) -> Iterator[Installation]:
    images = build_images()
    for image in images.values():
        cluster.import_image(image.archive_path)
    models = folder / "models"
    models.mkdir()
    models.chmod(0o755)
    with run_s3_server(folder / "s3", address=cluster.host_address) as s3:
        for bucket in BUCKETS:
            s3.make_bucket(bucket)
        install(cluster, images)
        yield Installation(cluster, s3, images, models)


def build_images() -> dict[str, Image]:
    load_image(build_base_image())
    return {name: build_image(name, BASE_IMAGE, "cpu") for name in ("operator", "runner")}


def install(cluster: Cluster, images: Mapping[str, Image], values: Mapping[str, Any] | None = None) -> None:
    """Helm as the README says it; waits until the operator is ready."""
    command = ["upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace"]
    chosen = {**build_values(images), **(values or {})}
    options = ["--values", "-", "--wait", "--timeout", "120s"]
    run_helm(*command, *options, kubeconfig=cluster.kubeconfig, stdin=json.dumps(chosen))


def build_values(images: Mapping[str, Image]) -> dict[str, Any]:
    return {
        "image": to_image_values(images["operator"]),
        "runner": {"image": to_image_values(images["runner"]), "gracePeriodSeconds": 60},
        "statusIntervalSeconds": 1,
    }


def to_image_values(image: Image) -> dict[str, str]:
    repository, _, tag = image.name.rpartition(":")
    return {"repository": repository, "tag": tag, "pullPolicy": "Never"}


def build_secret(namespace: str, name: str = S3_SECRET, **changes: str) -> dict[str, Any]:
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, **changes}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys}


def add_volume(
    cluster: Cluster, namespace: str, folder: Path, claim_name: str = MODEL_CLAIM, mode: str = "ReadOnlyMany"
) -> None:
    """A folder of this machine as a volume, bound to a claim of the namespace.

    The volume comes first and the wait is here, as a pod whose claim is bound only while it is being scheduled may be
    left for minutes before the scheduler looks at it again.
    """
    volume, claim = _build_volume(namespace, folder, claim_name, mode)
    cluster.apply(volume)
    cluster.wait_for("jsonpath={.status.phase}=Available", f"pv/{volume['metadata']['name']}")
    cluster.apply(claim)
    cluster.wait_for("jsonpath={.status.phase}=Bound", f"pvc/{claim_name}", namespace)


def _build_volume(namespace: str, folder: Path, claim_name: str, mode: str) -> tuple[dict[str, Any], dict[str, Any]]:
    modes, size = [mode], {"storage": "1Gi"}
    name = f"{claim_name}-{namespace}"
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": modes,
            "capacity": size,
            "hostPath": {"path": str(folder)},
            "claimRef": {"namespace": namespace, "name": claim_name},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim_name, "namespace": namespace},
        "spec": {
            "accessModes": modes,
            "storageClassName": "",
            "volumeName": name,
            "resources": {"requests": size},
        },
    }
    return volume, claim
