"""What is done about an endpoint: its run file, Deployment, Service and autoscaler, each applied only when it changes.

While the model can't be resolved, as when its fine-tune was deleted, servers that are there stay as they are.
"""

from collections.abc import Sequence
from typing import Any

from llm_api.inference import LLMInference, Serve

from llm_operator.build.autoscaler import build_autoscaler
from llm_operator.build.configmap import build_run_config_map, to_run_json
from llm_operator.build.deployment import SERVE, build_deployment, has_autoscaler
from llm_operator.build.inferencerun import build_serve_run
from llm_operator.build.model import ResolvedModel
from llm_operator.build.names import APPLIED_ANNOTATION, hash_of, mark_applied, run_name
from llm_operator.build.service import build_endpoint_service
from llm_operator.build.volumes import Volumes
from llm_operator.observed import Manifest, ObservedInference
from llm_operator.reconcile.plan import Deletion, ObjectKey
from llm_operator.reconcile.situation import has_component
from llm_operator.settings import Settings
from llm_operator.status.deployments import DeploymentView, view_deployment


def find_deployment(observed: ObservedInference, resource: LLMInference) -> DeploymentView | None:
    views = [view_deployment(manifest) for manifest in observed.deployments]
    return next((view for view in views if view.name == resource.name), None)


def plan_servers(
    resource: LLMInference, serve: Serve, model: ResolvedModel, observed: ObservedInference, settings: Settings
) -> tuple[Manifest, ...]:
    """What is to be applied, in order."""
    there = {manifest["metadata"]["name"] for manifest in observed.config_maps}
    wanted = build_servers(resource, serve, model, settings)
    known = [*observed.services, *observed.deployments, *observed.autoscalers]
    missing = [manifest for manifest in wanted if manifest["kind"] == "ConfigMap" and name_of(manifest) not in there]
    changed = [manifest for manifest in wanted if manifest["kind"] != "ConfigMap" and is_changed(manifest, known)]
    return (*missing, *changed)


def build_servers(
    resource: LLMInference, serve: Serve, model: ResolvedModel, settings: Settings
) -> list[dict[str, Any]]:
    """The run file's name says what is in it: another content is another ConfigMap, and rolls the Deployment."""
    volumes = Volumes()
    run = build_serve_run(resource, serve, model, volumes)
    name = run_name(resource.name, hash_of(to_run_json(run)))
    objects = [
        build_run_config_map(resource, name, SERVE, run),
        mark_applied(build_endpoint_service(resource)),
        mark_applied(build_deployment(resource, serve, name, volumes, settings)),
    ]
    if serve.autoscaling is not None and has_autoscaler(serve):
        objects.append(mark_applied(build_autoscaler(resource, serve, serve.autoscaling)))
    return objects


def is_changed(wanted: Manifest, known: Sequence[Manifest]) -> bool:
    """Whether it isn't there as it would be applied; replicas are looked at too, as others may scale by hand."""
    found = next((one for one in known if (one["kind"], name_of(one)) == (wanted["kind"], name_of(wanted))), None)
    if found is None:
        return True
    mark = (found["metadata"].get("annotations") or {}).get(APPLIED_ANNOTATION)
    replicas = wanted["spec"].get("replicas")
    return mark != wanted["metadata"]["annotations"][APPLIED_ANNOTATION] or (
        replicas is not None and found["spec"].get("replicas", 1) != replicas
    )


def find_spare(resource: LLMInference, observed: ObservedInference, keep: Sequence[Manifest]) -> tuple[Deletion, ...]:
    """What belongs to a spec of before. Run files go last, once no server of theirs is left."""
    kept = {(manifest["kind"], name_of(manifest)) for manifest in keep}
    objects = [*observed.autoscalers, *observed.deployments, *observed.services]
    deployment = find_deployment(observed, resource)
    if not keep or (deployment is not None and deployment.is_settled):
        objects += [manifest for manifest in observed.config_maps if has_component(manifest, SERVE)]
    return tuple(
        Deletion(key_of(manifest), manifest["metadata"].get("uid"))
        for manifest in objects
        if (manifest["kind"], name_of(manifest)) not in kept and "deletionTimestamp" not in manifest["metadata"]
    )


def key_of(manifest: Manifest) -> ObjectKey:
    return ObjectKey(manifest["apiVersion"], manifest["kind"], name_of(manifest))


def name_of(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])
