"""What the operator's benchmark has a cluster do: fine-tunes, and plain Jobs of the same pods."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from llm_operator.observed import Manifest, ObservedFineTune
from llm_operator.reconcile.finetune import plan_fine_tune
from llm_operator.settings import Settings

from tests.support.cluster.access import Access
from tests.support.world import build_gpu_example

PARALLEL_CLIENTS = 4


def build_fine_tune(name: str, namespace: str, *, is_suspended: bool = False) -> dict[str, Any]:
    return build_gpu_example(name, namespace, run={"suspend": is_suspended})


def build_plain_job(name: str, namespace: str) -> dict[str, Any]:
    """The Job that the operator makes of such a fine-tune, as somebody would write it by hand."""
    fine_tune = build_fine_tune(name, namespace)
    fine_tune["metadata"] |= {"uid": "none", "generation": 1}
    plan = plan_fine_tune(ObservedFineTune(fine_tune), Settings(runner_image="runner:bench"), datetime.now(UTC))
    [job] = [dict(made) for made in plan.apply if made["kind"] == "Job"]
    job["metadata"] = {"name": name, "namespace": namespace}
    job["spec"] = {**job["spec"], "template": {**job["spec"]["template"], "metadata": {}}}
    return job


def apply_at_once(access: Access, manifests: Sequence[Manifest]) -> None:
    """As a user does with a file that holds them all."""
    access.kubectl("apply", "--filename=-", stdin=_to_list(manifests))


def apply_quickly(access: Access, manifests: Sequence[Manifest]) -> None:
    """By several clients, as each keeps to a rate of its own."""
    parts = [_to_list(manifests[number::PARALLEL_CLIENTS]) for number in range(PARALLEL_CLIENTS)]

    def apply(part: str) -> None:
        access.kubectl("apply", "--server-side", "--filename=-", stdin=part)

    with ThreadPoolExecutor(PARALLEL_CLIENTS) as pool:
        list(pool.map(apply, parts))


def _to_list(manifests: Sequence[Manifest]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
