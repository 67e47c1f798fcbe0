"""The Kubernetes API: what is written to it, and the little that no watch tells. Only here its errors are met.

Objects go in and out as JSON. Server-side apply says for each field whose it is, so what others add to our objects
stays, and an object that is as it should be is not written anew. No Secret is ever read.
"""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import ResourceNotFoundError
from kubernetes.aio.dynamic.resource import Resource

from llm_operator.build.names import FIELD_MANAGER
from llm_operator.errors import AlreadyExists, NameTaken, NotFound
from llm_operator.observed import Manifest
from llm_operator.reconcile.ownership import explain_taken
from llm_operator.reconcile.plan import Deletion, ObjectKey
from llm_operator.refusal import to_error

REQUEST_SECONDS = 15.0
PAGE = 500
PARALLEL_REQUESTS = 64

_SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_AS_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_MERGE_PATCH = "application/merge-patch+json"
_MADE_ONCE = ("ConfigMap", "Job")
"""Kinds that are never applied a second time: making them is one request, and nobody can come in between."""
_LIBRARY_ERRORS = (ApiException, aiohttp.ClientError, TimeoutError, OSError)


def is_in_cluster() -> bool:
    """Whether this process is a pod with an account of its own, and no other cluster is named by KUBECONFIG."""
    return "KUBECONFIG" not in os.environ and _SERVICE_ACCOUNT_TOKEN.exists()


@asynccontextmanager
async def connect(trace: aiohttp.TraceConfig | None = None) -> AsyncIterator["Cluster"]:
    """The cluster of the service account, or else of KUBECONFIG."""
    configuration = client.Configuration()
    if is_in_cluster():
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(client_configuration=configuration)
    configuration.connection_pool_maxsize = PARALLEL_REQUESTS
    configuration.trace_configs = [] if trace is None else [trace]
    async with client.ApiClient(configuration) as api:
        yield Cluster(api)


class Cluster:
    """Each method raises errors below ClusterError and no others."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self._dynamic: DynamicClient | None = None
        self._resources: dict[tuple[str, str], Resource] = {}

    async def read(self, key: ObjectKey, namespace: str | None) -> Manifest:
        return await self._call(key, "get", name=key.name, namespace=namespace)

    async def create(self, manifest: Manifest) -> Manifest:
        key, namespace = _key_of(manifest), _namespace_of(manifest)
        return await self._call(key, "create", body=manifest, namespace=namespace, field_manager=FIELD_MANAGER)

    async def replace(self, manifest: Manifest) -> Manifest:
        """Only if it is still of the version that ``manifest`` names."""
        return await self._call(_key_of(manifest), "replace", body=manifest, namespace=_namespace_of(manifest))

    async def apply(self, manifest: Manifest) -> Manifest:
        """The whole object as it is to be; where others disagree, the operator's word counts.

        Of what is made once only the marks, as the rest can't be changed, or is somebody else's by then. Raises
        NameTaken where there is one of that name which isn't the operator's own.
        """
        if manifest["kind"] in _MADE_ONCE:
            try:
                return await self.create(manifest)
            except AlreadyExists:
                pass  # somebody's; whose is looked at now
        found = await self._find(manifest)
        if found is None:
            return await self._apply(manifest, subresource=None)
        taken = explain_taken(manifest, found)
        if taken is not None:
            raise NameTaken(taken)
        if manifest["kind"] in _MADE_ONCE:
            return await self._mark(manifest)
        metadata = {**manifest["metadata"], "uid": found["metadata"]["uid"]}
        return await self._apply({**manifest, "metadata": metadata}, subresource=None)

    async def apply_status(self, document: Manifest, status: Mapping[str, Any]) -> Manifest:
        """The status of this very resource, not of a later one of its name."""
        metadata = {key: document["metadata"][key] for key in ("name", "namespace", "uid")}
        manifest = {key: document[key] for key in ("apiVersion", "kind")}
        return await self._apply({**manifest, "metadata": metadata, "status": status}, subresource="status")

    async def patch(self, key: ObjectKey, namespace: str, body: Manifest) -> Manifest:
        """A JSON merge patch."""
        return await self._call(
            key,
            "patch",
            name=key.name,
            namespace=namespace,
            body=body,
            content_type=_MERGE_PATCH,
            field_manager=FIELD_MANAGER,
        )

    async def patch_finalizers(self, document: Manifest, finalizers: Sequence[str]) -> Manifest:
        """Only if nobody changed the resource meanwhile, as a list is replaced whole."""
        metadata = document["metadata"]
        key = ObjectKey(document["apiVersion"], document["kind"], metadata["name"])
        body = {"finalizers": list(finalizers), "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        return await self.patch(key, metadata["namespace"], {"metadata": body})

    async def delete(self, deletion: Deletion, namespace: str) -> None:
        """In the background, so what it owns goes too; what is gone already is no error."""
        preconditions = {} if deletion.uid is None else {"preconditions": {"uid": deletion.uid}}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", **preconditions}
        try:
            await self._call(deletion.key, "delete", name=deletion.key.name, namespace=namespace, body=body)
        except NotFound:
            return

    async def namespace_is_terminating(self, namespace: str) -> bool:
        try:
            found = await self.read(ObjectKey("v1", "Namespace", namespace), None)
        except NotFound:
            return True
        return "deletionTimestamp" in found["metadata"]

    async def review_token(self, token: str, audience: str) -> Mapping[str, Any]:
        """The status of a TokenReview."""
        spec = {"token": token, "audiences": [audience]}
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        answer = await self._call(ObjectKey("authentication.k8s.io/v1", "TokenReview", ""), "create", body=review)
        status: Mapping[str, Any] = answer.get("status", {})
        return status

    async def list_metadata(
        self, api_version: str, kind: str, namespace: str | None, label_selector: str | None
    ) -> AsyncIterator[Manifest]:
        """Metadata of all objects there are, asked for a page at a time."""
        page: str | None = None
        while page != "":
            found = await self._call(
                ObjectKey(api_version, kind, ""),
                "get",
                namespace=namespace,
                label_selector=label_selector,
                limit=PAGE,
                _continue=page,
                header_params={"Accept": _AS_METADATA},
            )
            items = found.get("items")
            for item in () if items is None else items:  # an empty list of metadata comes as null
                yield item["metadata"]
            page = found["metadata"].get("continue", "")

    async def has_kind(self, api_version: str, kind: str) -> bool:
        """Whether the cluster knows such objects now."""
        try:
            await self._resource(api_version, kind)
        except NotFound:
            return False
        return True

    async def _find(self, manifest: Manifest) -> Manifest | None:
        """The object that is there by the manifest's name."""
        try:
            return await self.read(_key_of(manifest), _namespace_of(manifest))
        except NotFound:
            return None

    async def _mark(self, manifest: Manifest) -> Manifest:
        """Its labels and annotations once more: whether a Job may start, and where, is its queue's to say."""
        marks = {key: manifest["metadata"][key] for key in ("labels", "annotations") if key in manifest["metadata"]}
        return await self.patch(_key_of(manifest), manifest["metadata"]["namespace"], {"metadata": marks})

    async def _apply(self, manifest: Manifest, subresource: str | None) -> Manifest:
        return await self._call(
            _key_of(manifest),
            "server_side_apply",
            subresource=subresource,
            body=manifest,
            namespace=_namespace_of(manifest),
            field_manager=FIELD_MANAGER,
            force_conflicts=True,
        )

    async def _call(
        self, key: ObjectKey, verb: str, subresource: str | None = None, **arguments: Any
    ) -> dict[str, Any]:
        resource = await self._resource(key.api_version, key.kind)
        target = resource if subresource is None else resource.subresources[subresource]
        try:
            call = getattr(target, verb)
            answer = await call(serialize=False, _request_timeout=REQUEST_SECONDS, **arguments)
            found: dict[str, Any] = await answer.json()
        except _LIBRARY_ERRORS as error:
            raise to_error(error, f"{key.kind} {key.name}".rstrip()) from error
        return found

    async def _resource(self, api_version: str, kind: str) -> Resource:
        """Asked of the API server once for each kind."""
        known = self._resources.get((api_version, kind))
        if known is not None:
            return known
        try:
            if self._dynamic is None:
                self._dynamic = await DynamicClient(self._api)
            found: Resource = await self._dynamic.resources.get(api_version=api_version, kind=kind)
        except ResourceNotFoundError as error:
            raise NotFound(f"the cluster has no {kind} of {api_version}") from error
        except _LIBRARY_ERRORS as error:
            raise to_error(error, f"discovery of {kind}") from error
        self._resources[api_version, kind] = found
        return found


def _key_of(manifest: Manifest) -> ObjectKey:
    return ObjectKey(manifest["apiVersion"], manifest["kind"], manifest["metadata"].get("name", ""))


def _namespace_of(manifest: Manifest) -> str | None:
    namespace: str | None = manifest["metadata"].get("namespace")
    return namespace
