"""Run files and Services of runs that nobody asks for any more. Jobs are not judged here: they must end in order."""

from collections.abc import Collection, Sequence

from llm_operator.observed import Manifest, Observed
from llm_operator.reconcile.plan import Deletion, ObjectKey
from llm_operator.reconcile.situation import has_component


def find_spare_objects(observed: Observed, component: str, keep: Collection[str]) -> tuple[Deletion, ...]:
    """Of a component all but those whose names are kept, or are those of a Job that is still there."""
    names = {*keep, *(str(job["metadata"]["name"]) for job in observed.jobs)}
    return (
        *_delete_others("ConfigMap", observed.config_maps, component, names),
        *_delete_others("Service", observed.services, component, names),
    )


def _delete_others(
    kind: str, manifests: Sequence[Manifest], component: str, names: Collection[str]
) -> tuple[Deletion, ...]:
    spare = [one["metadata"] for one in manifests if has_component(one, component)]
    return tuple(
        Deletion(ObjectKey("v1", kind, metadata["name"]), metadata.get("uid"))
        for metadata in spare
        if metadata["name"] not in names and "deletionTimestamp" not in metadata
    )
