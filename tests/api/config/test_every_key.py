"""Where a reader finds a key: `kubectl explain` says what it means, and a mistake in its value is told by its name."""

from typing import Any

import pytest
from llm_api.crd import KINDS, build_root_schema
from llm_api.docs_keys import Key, find_keys
from llm_api.docs_proofs import kinds_of

from tests.support.documents import build_config, issues_of

CHOSEN_BY_TYPE = ("trainer.optimizer", "preprocessing.split", "output_features", "adapter", "trainer")
"""Sections whose keys depend on their type; one within another first."""
LISTS = ("input_features", "output_features")
LABELLED = "output_features.decoder.match"
SCHEMAS = {kind.name: build_root_schema(kind.model)["properties"]["spec"] for kind in KINDS}
KEYS = [pytest.param(key, kind, id=f"{key.path} {kind}".strip()) for key in find_keys() for kind in kinds_of(key)]
TYPES = {"trainer": "finetune", "adapter": "lora", "output_features": "category"}
"""Of sections that hold the key's own."""


def wrong_value(key: Key) -> Any:
    """One that no key takes: a list of mappings, or a number where those may be meant."""
    return 0.5 if key.values.startswith(("mapping", "list or")) else [{"no": "way"}]


def build_document(key: Key, kind: str) -> dict[str, Any]:
    """The key, in a section of its type."""
    section: Any = wrong_value(key)
    path = key.path
    owner = next((one for one in CHOSEN_BY_TYPE if path.startswith(f"{one}.")), None)
    while path:
        path, _, name = path.rpartition(".")
        section = {name: section}
        if path == LABELLED:
            section = {"good": section}
        if path == owner and kind and "type" not in section:
            section["type"] = kind
        elif path in TYPES and "type" not in section:
            section["type"] = TYPES[path]
    return {name: [value] if name in LISTS else value for name, value in section.items()}


def place_of(key: Key) -> str:
    """As an error names it."""
    name, _, rest = key.path.replace(LABELLED, f"{LABELLED}.good").partition(".")
    return f"{name}[0].{rest}" if name in LISTS else key.path


@pytest.mark.parametrize(("key", "kind"), KEYS)
def test_a_wrong_value_is_told_by_the_keys_own_name(key: Key, kind: str) -> None:
    document = build_config("{}") | build_document(key, kind)
    told = [issue for issue in issues_of(document) if issue.path.startswith(place_of(key))]
    assert told != [], issues_of(document)
    assert all(issue.message != "unknown key" for issue in told)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_kubectl_explain_finds_every_key_and_says_what_it_means(schema: dict[str, Any]) -> None:
    assert [key.path for key in find_keys() if not description_of(key, schema)] == []


def description_of(key: Key, schema: dict[str, Any]) -> str:
    node, described = schema, ""
    for name in ("config", *key.path.split(".")):
        node = node["properties"][name]
        described = node["description"]
        node = node.get("items", node.get("additionalProperties", node))
    return described
