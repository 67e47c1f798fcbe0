"""What a tuned model is asked before it is stored: it says there what it says afterwards, and nothing else changes."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.run import TrainRun
from llm_runner.predict.sample import answer_sample
from llm_runner.report.card import CardExample
from llm_runner.report.sample import SAMPLE_NAME, Sample, save_sample, warn_of_sample
from llm_runner.train.sample import Asked

from tests.support import predictions, runs

TRAINER = {"type": "finetune", "batch_size": 8, "train_steps": 4, "learning_rate": 0.02}
LORA = {"type": "lora", "r": 4, "dropout": 0.1}
GREEDY = {"do_sample": False, "max_new_tokens": 10}
CONFIG: dict[str, Any] = {"adapter": LORA, "trainer": TRAINER, "generation": GREEDY}
MERGED = {"adapter": {**LORA, "postprocessor": {"merge_adapter_into_base_model": True}}}


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 16 bits differ by rounding."""
    monkeypatch.setattr("llm_runner.predict.load.choose_dtype", lambda *_: torch.float32)


def tune(folder: Path, base: Path, config: Mapping[str, Any], ask: Any = answer_sample, **options: Any) -> TrainRun:
    run = runs.build_run(folder, base, {**CONFIG, **config}, **options)
    runs.run_train(run, folder / "work", ask=ask)
    return run


def read_sample(run: TrainRun) -> list[dict[str, str]]:
    text = (Path(run.output_uri) / SAMPLE_NAME).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def answer_stored(run: TrainRun, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What a batch of its own over the same rows gives, once the model is stored: rows and figures."""
    assert run.dataset.validation is not None
    model = {"artifactUri": run.output_uri}
    output = folder / "answered.jsonl"
    batch = predictions.build_run(Path(run.config.base_model), run.dataset.validation.uri, output, {}, model=model)
    predictions.run_predict(batch, folder / "batch")
    return predictions.read_output(output), predictions.read_report(output)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"adapter": None},
        MERGED,
        {"adapter": {"type": "adalora", "init_r": 4, "target_r": 1, "tinit": 0, "tfinal": 1}},
        {"adapter": {"type": "ia3"}},
        {"quantization": {"bits": 4}},
        {"trainer": {**TRAINER, "enable_gradient_checkpointing": True}},
        {"generation": {"do_sample": False, "num_beams": 2, "max_new_tokens": 6}},
        {
            "generation": {"do_sample": False},
            "output_features": [{"name": "answer", "type": "text", "preprocessing": {"max_sequence_length": 9}}],
            "preprocessing": {"global_max_sequence_length": 24},
        },
        {"prompt": {"template": "{__context__}\n\n{question}", "retrieval": {"type": "random", "k": 1}}},
    ],
    ids=["lora", "full", "merged", "adalora", "ia3", "nf4", "checkpointing", "beams", "cut", "few-shot"],
)
def test_the_tuned_model_says_what_it_says_once_it_is_stored(
    config: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    own = {key: value for key, value in {**CONFIG, **config}.items() if value is not None}
    run = runs.build_run(tmp_path, base, own)
    outcome = runs.run_train(run, tmp_path / "work", ask=answer_sample)
    rows, report = answer_stored(run, tmp_path)
    sample = read_sample(run)
    assert [row["answer"] for row in sample] == [row["answer_predictions"] for row in rows]
    assert [row["target"] for row in sample] == [row["answer"] for row in rows]
    assert len({row["answer"] for row in sample}) > 1
    figures = runs.read_metrics(Path(run.output_uri))["eval"]
    assert (figures["sample_rows"], figures["sample_rouge_l"]) == (6, pytest.approx(report["rouge_l"]))
    assert outcome.metrics["eval.sample_exact_match"] == report["exact_match"]


def test_figures_are_of_the_rows_that_were_answered(base: Path, tmp_path: Path) -> None:
    """Every training row is answered with yes, which the model learns; one hold-out row wants another answer, and one
    is longer than the model takes.
    """
    trainer = {**TRAINER, "train_steps": 30}
    run = runs.build_run(tmp_path, base, {**CONFIG, "trainer": trainer}, hold_out=4)
    (tmp_path / "train.csv").write_text("question,answer\n" + "".join(f"Is it {number}?,yes\n" for number in range(24)))
    long = "x" * 300
    (tmp_path / "validation.csv").write_text(
        f"question,answer\nIs it 1?,yes\n{long},yes\nIs it 2?,yes\nIs it 3?,no\nIs it 4?, yes \n"
    )
    messages = runs.Messages()
    outcome = runs.run_train(run, tmp_path / "work", messages, ask=answer_sample)
    first, failed, *_ = sample = read_sample(run)
    assert [row.get("answer") for row in sample] == ["yes", None, "yes", "yes", "yes"]
    assert first == {"prompt": "Is it 1?", "target": "yes", "answer": "yes"}
    assert "the prompt has 300 tokens" in failed["error"]
    assert outcome.metrics["eval.sample_rows"] == 4
    assert outcome.metrics["eval.sample_exact_match"] == outcome.metrics["eval.sample_rouge_l"] == 0.75
    (warning,) = (text for text in messages.texts if "could not be answered" in text)
    assert "1 of 5 rows of the hold-out could not be answered; the first: PromptTooLong: the prompt has" in warning
    card = (Path(run.output_uri) / "README.md").read_text("utf-8")
    assert "Wanted:\n\n```\nyes\n```\n\nAnswered:\n\n```\nyes\n```" in card
    assert "Not answered:\n\n```\nPromptTooLong: the prompt has 300 tokens" in card
    assert "| `eval.sample_exact_match` | `0.7500` |" in card


@pytest.mark.parametrize("config", [{}, {"adapter": None}, MERGED], ids=["lora", "full", "merged"])
def test_asking_changes_no_weight_and_no_other_figure(config: dict[str, Any], base: Path, tmp_path: Path) -> None:
    own = {key: value for key, value in {**CONFIG, **config}.items() if value is not None}
    stored: list[dict[str, bytes]] = []
    for name, ask in {"asked": answer_sample, "not": None}.items():
        run = runs.build_run(tmp_path / name, base, own)
        runs.run_train(run, tmp_path / name / "work", ask=ask)
        folder = Path(run.output_uri)
        kinds = ("*.safetensors", "adapter_config.json", "config.json", "generation_config.json", "tokenizer*")
        stored.append({path.name: path.read_bytes() for kind in kinds for path in folder.glob(kind)})
    asked, plain = stored
    assert asked == plain
    figures, without = (runs.read_metrics(tmp_path / name / "out")["eval"] for name in ("asked", "not"))
    assert {key: value for key, value in figures.items() if not key.startswith("sample_")} == without
    assert not (tmp_path / "not" / "out" / SAMPLE_NAME).exists()


def test_few_rows_are_asked_in_few_tokens(base: Path, tmp_path: Path) -> None:
    """Eight rows in one batch, whose answers end after 128 tokens though the config wants 200 at least."""
    passes: list[int] = []

    def ask(asked: Asked) -> Sample:
        hook = asked.model.register_forward_pre_hook(
            lambda _module, _inputs, given: passes.append(len(given["input_ids"])), with_kwargs=True
        )
        try:
            return answer_sample(asked)
        finally:
            hook.remove()

    generation = {"do_sample": True, "min_new_tokens": 200, "max_new_tokens": 220}
    run = tune(tmp_path, base, {"generation": generation}, ask, hold_out=12)
    assert passes == [8] * 128
    assert len(read_sample(run)) == 8
    assert (Path(run.output_uri) / "README.md").read_text("utf-8").count("Answered:") == 3


def test_the_same_run_draws_the_same_answers(base: Path, tmp_path: Path) -> None:
    generation = {"generation": {"temperature": 1.5, "max_new_tokens": 8}}
    first, again = (read_sample(tune(tmp_path / name, base, generation, seed=3)) for name in ("first", "again"))
    other = read_sample(tune(tmp_path / "other", base, {**generation, "trainer": TRAINER}, seed=4))
    assert first == again
    assert first != other


def test_asked_to_stop_it_leaves_off_and_stores_the_model(base: Path, tmp_path: Path) -> None:
    passes: list[int] = []

    def ask(asked: Asked) -> Sample:
        hook = asked.model.register_forward_pre_hook(lambda *_: passes.append(1))
        try:
            return answer_sample(replace(asked, should_stop=runs.stop_after(4)))
        finally:
            hook.remove()

    messages = runs.Messages()
    run = runs.build_run(tmp_path, base, {**CONFIG, "generation": {"max_new_tokens": 100}})
    outcome = runs.run_train(run, tmp_path / "work", messages, ask=ask)
    assert len(passes) == 4
    assert [sorted(row) for row in read_sample(run)] == [["prompt", "target"]] * 6
    assert outcome.reason == "Succeeded"
    assert outcome.metrics["eval.sample_rows"] == 0
    assert "eval.sample_exact_match" not in outcome.metrics
    assert any("asked to stop: the other rows of the hold-out are left unanswered" in text for text in messages.texts)


def test_a_batch_that_memory_has_no_room_for_is_asked_row_by_row(base: Path, tmp_path: Path) -> None:
    def ask(asked: Asked) -> Sample:
        def refuse(_module: Any, _inputs: Any, given: Any) -> None:
            if len(given["input_ids"]) > 1:
                raise torch.OutOfMemoryError("no room for so many")

        hook = asked.model.register_forward_pre_hook(refuse, with_kwargs=True)
        try:
            return answer_sample(asked)
        finally:
            hook.remove()

    narrow = read_sample(tune(tmp_path / "narrow", base, {}, ask))
    assert narrow == read_sample(tune(tmp_path / "wide", base, {}))
    assert all("answer" in row for row in narrow)


def test_what_makes_every_answer_impossible_is_told_and_fails_no_run(base: Path, tmp_path: Path) -> None:
    generation = {**GREEDY, "suppress_tokens": [99_999]}
    run = tune(tmp_path, base, {"generation": generation})
    assert {row["error"] for row in read_sample(run)} == {
        "ConfigInvalid: generation.suppress_tokens: 99999: the model's tokens are numbered 0 to 257"
    }
    assert runs.read_metrics(Path(run.output_uri))["eval"]["sample_rows"] == 0


@pytest.mark.proves("trainer.skip_all_evaluation", "trainer.eval_steps", "trainer.eval_batch_size")
def test_the_keys_of_evaluations_bound_what_is_asked(base: Path, tmp_path: Path) -> None:
    bounded = tune(tmp_path / "few", base, {"trainer": {**TRAINER, "eval_steps": 1, "eval_batch_size": 2}})
    assert len(read_sample(bounded)) == 2
    skipped = tune(tmp_path / "skipped", base, {"trainer": {**TRAINER, "skip_all_evaluation": True}})
    assert not (Path(skipped.output_uri) / SAMPLE_NAME).exists()
    split = {"split": {"type": "random", "probabilities": [1.0, 0.0, 0.0]}}
    nothing = tune(tmp_path / "nothing", base, {"preprocessing": split}, hold_out=0)
    assert not (Path(nothing.output_uri) / SAMPLE_NAME).exists()


def test_texts_in_the_file_are_short_enough_to_be_looked_at(tmp_path: Path) -> None:
    save_sample(tmp_path, Sample([CardExample("p" * 9000, "line\nü", answer="a")]))
    (line,) = (tmp_path / SAMPLE_NAME).read_text("utf-8").splitlines()
    assert json.loads(line) == {"prompt": "p" * 4000 + "…", "target": "line\nü", "answer": "a"}


def test_pushing_rows_to_where_anybody_may_read_them_is_warned_of(tmp_path: Path) -> None:
    assert list(warn_of_sample(tmp_path, "acme/bot", private=False)) == []
    save_sample(tmp_path, Sample([CardExample("p", "t", answer="a")]))
    (warning,) = warn_of_sample(tmp_path, "acme/bot", private=False)
    assert warning.startswith("rows of the hold-out stand in hold_out_answers.jsonl: whoever may read acme/bot")
    (tmp_path / "README.md").write_text("# bot\n\n## Examples from the hold-out\n")
    (warning,) = warn_of_sample(tmp_path, "acme/bot", private=False)
    assert "hold_out_answers.jsonl and the model card" in warning
    assert list(warn_of_sample(tmp_path, "acme/bot", private=True)) == []
