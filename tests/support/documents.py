"""Documents for tests of the contract: the least that is valid, and the sections of it that a test is about."""

from typing import Any

import yaml
from llm_api.config import load_config
from llm_api.issues import InvalidConfig, Issue
from llm_api.load import load_resource

Document = dict[str, Any]

TEXT = "[{name: prompt, type: text}]"
LEAST_CONFIG = f"{{base_model: acme/small, input_features: {TEXT}, output_features: [{{name: answer, type: text}}]}}"
LEAST_SPEC = {
    "LLMFineTune": "{dataset: {train: {uri: s3://data/train.csv}}, output: {uri: s3://models/bot}}",
    "LLMInference": "{serve: {}}",
}


def read(text: str) -> Any:
    return yaml.safe_load(text)


def build_config(sections: str = "{}", *, without: tuple[str, ...] = ()) -> Document:
    """A bare LLM config with these sections, as YAML, in the place of the least ones."""
    config = read(LEAST_CONFIG) | read(sections)
    return {key: value for key, value in config.items() if key not in without}


def build_manifest(kind: str, spec: str = "{}", config: Document | None = None) -> Document:
    """A resource with these keys of a spec, as YAML, in the place of the least ones."""
    whole = read(LEAST_SPEC[kind]) | {"config": build_config() if config is None else config} | read(spec)
    kept = {key: value for key, value in whole.items() if value != "(left out)"}
    return {"apiVersion": "llmoperator.dev/v1alpha1", "kind": kind, "metadata": {"name": "bot"}, "spec": kept}


def issues_of(config: Any) -> list[Issue]:
    """What is wrong with a bare config; empty where nothing is."""
    try:
        load_config(config)
    except InvalidConfig as error:
        return list(error.issues)
    return []


def issues_of_manifest(manifest: Document) -> list[Issue]:
    try:
        load_resource(manifest)
    except InvalidConfig as error:
        return list(error.issues)
    return []


def paths_of(issues: list[Issue]) -> list[str]:
    return [issue.path for issue in issues]
