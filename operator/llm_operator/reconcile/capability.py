"""What a spec may ask for and the runner can't do in this version, said before a pod takes anything from the cluster.

It is no mistake in the manifest, so whoever applies it isn't held up; only SpecValid tells.
"""

from collections.abc import Iterator

from llm_api.finetune import LLMFineTune
from llm_api.inference import LLMInference
from llm_api.issues import Issue
from llm_api.vllm import check_written_for_vllm

NODES, COUNT = "spec.compute.nodes", "spec.compute.accelerators.count"


def check_capability(resource: LLMFineTune | LLMInference) -> list[Issue]:
    return [] if isinstance(resource, LLMFineTune) else list(_check_inference(resource))


def _check_inference(resource: LLMInference) -> Iterator[Issue]:
    serve, nodes = resource.spec.serve, resource.spec.compute.nodes
    if nodes > 1:
        instead = "spec.batch.shards" if serve is None else "spec.serve.replicas"
        yield Issue(NODES, f"each pod answers by itself; write 1, and use {instead} for more", str(nodes))
    if serve is None:
        yield from _check_accelerators(resource, "and use spec.batch.shards for more")
    elif serve.engine == "vllm":
        yield from check_written_for_vllm(resource.spec.config)
    else:
        yield from _check_accelerators(resource, "or engine: vllm in spec.serve, which uses all")


def _check_accelerators(resource: LLMInference, instead: str) -> Iterator[Issue]:
    accelerators = resource.spec.compute.accelerators
    if accelerators is not None and accelerators.count > 1:
        yield Issue(COUNT, f"a pod that answers uses one; write 1, {instead}", str(accelerators.count))
