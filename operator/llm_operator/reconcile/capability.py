"""What a spec may ask for and the runner can't do in this version, said before a pod takes anything from the cluster.

It is no mistake in the manifest, so whoever applies it isn't held up; only SpecValid tells.
"""

from collections.abc import Iterator

from llm_api.finetune import LLMFineTune
from llm_api.inference import LLMInference
from llm_api.issues import Issue
from llm_api.vllm import check_written_for_vllm

from llm_operator.settings import Settings

NODES, COUNT = "spec.compute.nodes", "spec.compute.accelerators.count"


def check_capability(resource: LLMFineTune | LLMInference, settings: Settings) -> list[Issue]:
    if isinstance(resource, LLMFineTune):
        return list(_check_training(resource, settings))
    return list(_check_inference(resource, settings))


def _check_training(resource: LLMFineTune, settings: Settings) -> Iterator[Issue]:
    nodes, most = resource.spec.compute.nodes, settings.runner_max_nodes
    if nodes > most:
        yield Issue(NODES, f"a run trains on {most} at most in this version; write {most}", str(nodes))
    yield from _check_accelerators(resource, settings, "")


def _check_inference(resource: LLMInference, settings: Settings) -> Iterator[Issue]:
    serve, nodes = resource.spec.serve, resource.spec.compute.nodes
    if nodes > 1:
        instead = "spec.batch.shards" if serve is None else "spec.serve.replicas"
        yield Issue(NODES, f"each pod answers by itself; write 1, and use {instead} for more", str(nodes))
    if serve is None:
        yield from _check_accelerators(resource, settings, ", and use spec.batch.shards for more")
    elif serve.engine == "vllm":
        yield from check_written_for_vllm(resource.spec.config)
    else:
        yield from _check_accelerators(resource, settings, ", or engine: vllm in spec.serve, which uses all")


def _check_accelerators(resource: LLMFineTune | LLMInference, settings: Settings, instead: str) -> Iterator[Issue]:
    accelerators, most = resource.spec.compute.accelerators, settings.runner_max_accelerators
    if accelerators is not None and accelerators.count > most:
        message = f"a pod uses {most} at most in this version; write {most}{instead}"
        yield Issue(COUNT, message, str(accelerators.count))
