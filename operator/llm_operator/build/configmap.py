"""The run file as an immutable ConfigMap."""

from typing import Any

from llm_api.run import PredictRun, ServeRun, TrainRun

from llm_operator.build.names import AnyResource, build_metadata, resource_labels
from llm_operator.build.volumes import RUN_FILE


def to_run_json(run: TrainRun | PredictRun | ServeRun) -> str:
    """As written: what is unset stays so, since some defaults depend on the model."""
    return run.model_dump_json(by_alias=True, exclude_unset=True, exclude_none=False, indent=2)


def build_run_config_map(
    resource: AnyResource, name: str, component: str, run: TrainRun | PredictRun | ServeRun
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": build_metadata(resource, name, resource_labels(resource, component)),
        "immutable": True,
        "data": {RUN_FILE: to_run_json(run)},
    }
