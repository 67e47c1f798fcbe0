"""The run file: a round trip through JSON loses nothing that the user wrote, and adds nothing."""

import json
from typing import Any

import pytest
from llm_api.config import load_config
from llm_api.issues import InvalidConfig, load
from llm_api.run import PredictRun, ServeRun, TrainRun

from tests.support.documents import build_config, paths_of

CONFIG = build_config("trainer: {type: finetune}\nadapter: {type: lora}")
TRAIN: dict[str, Any] = {
    "name": "bot",
    "config": CONFIG,
    "dataset": {"train": {"uri": "s3://data/train.csv"}},
    "outputUri": "s3://models/bot",
    "checkpoint": {"uri": "s3://models/bot/checkpoints", "everySteps": 200},
}
SERVE: dict[str, Any] = {"name": "bot", "config": {"generation": {"top_k": 5}}, "model": {"artifactUri": "s3://m/bot"}}
PREDICT: dict[str, Any] = {
    **SERVE,
    "dataset": {"uri": "s3://data/rows.csv", "format": "csv"},
    "outputUri": "s3://data/answers.parquet",
    "shards": 4,
}
RUNS = [(TrainRun, TRAIN), (ServeRun, SERVE), (PredictRun, PREDICT)]
of_every_kind = pytest.mark.parametrize(("model", "document"), RUNS)


@of_every_kind
def test_what_is_written_as_json_is_read_back_the_same(model: Any, document: dict[str, Any]) -> None:
    run = load(model, document)
    text = run.model_dump_json(by_alias=True, exclude_unset=True)
    assert load(model, json.loads(text)) == run
    assert json.loads(text) == document


@of_every_kind
def test_a_key_that_the_runner_does_not_know_is_refused(model: Any, document: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(model, {**document, "config": {**document["config"], "adaptor": {}}, "outputURL": "a"})
    assert set(paths_of(list(caught.value.issues))) == {"config.adaptor", "outputURL"}


@of_every_kind
def test_a_run_file_says_which_kind_it_is(model: Any, document: dict[str, Any]) -> None:
    assert load(model, document).kind == model.__name__
    with pytest.raises(InvalidConfig) as caught:
        load(model, {**document, "kind": "OtherRun"})
    assert paths_of(list(caught.value.issues)) == ["kind"]


def test_what_the_config_leaves_unset_stays_unset_on_the_way_to_the_runner() -> None:
    run = load(TrainRun, json.loads(load(TrainRun, TRAIN).model_dump_json(by_alias=True, exclude_unset=True)))
    assert run.config == load_config(CONFIG)
    assert "max_new_tokens" not in run.config.generation.model_fields_set
    assert "split" not in run.config.preprocessing.model_fields_set


def test_the_same_run_has_the_same_seed_unless_another_is_written() -> None:
    assert load(TrainRun, TRAIN).seed == load(TrainRun, TRAIN).seed
    assert load(TrainRun, {**TRAIN, "seed": 7}).seed == 7
