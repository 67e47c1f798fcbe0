"""Rules between fields: CEL at the API server and Python everywhere else say the same of every example."""

from functools import cache
from typing import Any

import pytest
from llm_api.crd import KINDS, build_root_schema
from llm_api.model import Model, Rule

from tests.api.adapter_rule_examples import ADAPTER_RULES
from tests.api.config_rule_examples import CONFIG_RULES as SECTION_RULES
from tests.api.config_rule_examples import Examples
from tests.api.resource_rule_examples import FINE_TUNE_RULES, INFERENCE_RULES, UNSTORED_RULES
from tests.api.running_rule_examples import RUNNING_RULES
from tests.support.cel import find_broken
from tests.support.documents import Document, build_config, build_manifest, issues_of_manifest

Table = dict[str, Examples]
CONFIG_RULES: Table = SECTION_RULES | ADAPTER_RULES | RUNNING_RULES


def all_models(base: type[Model] = Model) -> list[type[Model]]:
    """Of the contract; tests have models of their own."""
    children = [child for child in base.__subclasses__() if child.__module__.startswith("llm_api.")]
    return [model for child in children for model in (child, *all_models(child))]


def declared_rules() -> dict[str, Rule]:
    return {rule.name: rule for model in all_models() for rule in vars(model).get("rules", ())}


def to_manifest(table: Table, text: str) -> Document:
    if table is CONFIG_RULES:
        return build_manifest("LLMFineTune", config=build_config(text))
    return build_manifest("LLMFineTune" if table is FINE_TUNE_RULES else "LLMInference", text)


def cases(part: str) -> list[Any]:
    return [
        pytest.param(rule, to_manifest(table, text), id=f"{rule}: {text}")
        for table in (CONFIG_RULES, FINE_TUNE_RULES, INFERENCE_RULES)
        for rule, examples in table.items()
        for text in getattr(examples, part)
    ]


@cache
def schema_of(kind: str) -> dict[str, Any]:
    return build_root_schema(next(one.model for one in KINDS if one.name == kind))


def broken_by_cel(manifest: Document) -> list[tuple[str, str]]:
    return find_broken(schema_of(manifest["kind"]), manifest)


def broken_by_python(manifest: Document) -> list[tuple[str, str]]:
    return [(issue.path, issue.message) for issue in issues_of_manifest(manifest)]


@pytest.mark.parametrize(("name", "manifest"), cases("keeps"))
def test_what_keeps_a_rule_is_accepted_by_both(name: str, manifest: Document) -> None:
    assert broken_by_python(manifest) == []
    assert broken_by_cel(manifest) == []


@pytest.mark.parametrize(("name", "manifest"), cases("breaks"))
def test_what_breaks_a_rule_is_refused_by_both_at_one_place_with_one_message(name: str, manifest: Document) -> None:
    rule = declared_rules()[name]
    found = broken_by_python(manifest)
    assert [message for _, message in found] == [rule.message]
    assert found[0][0].endswith(rule.path)
    assert broken_by_cel(manifest) == ([] if rule.cel is None else found)


def test_every_rule_has_examples_and_every_example_a_rule() -> None:
    examined = CONFIG_RULES.keys() | FINE_TUNE_RULES.keys() | INFERENCE_RULES.keys()
    assert examined | UNSTORED_RULES == declared_rules().keys()


def test_every_rule_is_kept_by_one_example_at_least_and_broken_by_another() -> None:
    tables = [CONFIG_RULES, FINE_TUNE_RULES, INFERENCE_RULES]
    assert [name for table in tables for name, its in table.items() if not (its.keeps and its.breaks)] == []


def test_no_two_rules_have_one_name() -> None:
    found: dict[str, set[Rule]] = {}
    for model in all_models():
        for rule in vars(model).get("rules", ()):
            found.setdefault(rule.name, set()).add(rule)
    assert [name for name, rules in found.items() if len(rules) > 1] == []


def test_a_rule_without_cel_is_one_that_cel_cannot_say() -> None:
    unsayable = {
        "match-regex-compiles",  # The API server's expressions are of another dialect than Python's.
        "target-regex-compiles",
        "freeze-regex-compiles",
        "match-schema-parses",  # There is no JSON in CEL.
        "ia3-feedforward",  # Names or a list of them: untyped, so that rules can't see it.
        "adalora-given-ranks",  # Numbers or lists: the same.
        "pod-template-protected",  # A pod's spec is untyped as well.
        "trainer-batch-arithmetic",  # A null, which is what fits, can't be told from the default of 1.
        "metadata-name",  # Rules see no more of metadata than its names, and generateName comes first.
    }
    assert {name for name, rule in declared_rules().items() if rule.cel is None} == unsayable


def test_the_path_of_a_rule_leads_to_a_field() -> None:
    lost = [
        (model.__name__, rule.name)
        for model in all_models()
        for rule in vars(model).get("rules", ())
        if rule.path and rule.path.split(".")[0] not in field_names_of(model)
    ]
    assert lost == []


def field_names_of(model: type[Model]) -> set[str]:
    concrete = [model, *all_models(model)]
    return {field.alias or name for one in concrete for name, field in one.model_fields.items()}
