"""Whole runs on pairs of answers: they learn which answer is better, go on where they were stopped, and say so."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import DpoTrainer
from llm_runner.data.pairs import Pair, PairRows, build_pair_rows
from llm_runner.data.prepare import prepare_data
from llm_runner.data.source import DataFile, DataFiles
from llm_runner.errors import DataInvalid, GateNotMet, Stopped
from llm_runner.report.sink import Evaluated
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.support.models import CONTEXT_LENGTH, tiny_tokenizer
from tests.support.pairs import build_pair_run, pairs_in, plain_log_probs, target_counts
from tests.support.predictions import build_run as build_batch
from tests.support.predictions import read_output, run_predict, write_jsonl
from tests.support.runs import Messages, read_curve, read_metrics, run_train, stop_after

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing",
    "ignore:The following rank_pattern keys",  # PEFT's, when it loads
)
LORA = {"type": "lora", "r": 8, "target_modules": "all-linear", "dropout": 0.1}
BETAS = {"dpo": {"dpo_beta": 0.3}, "ipo": {"dpo_beta": 1.0}, "kto": {"kto_beta": 0.3}, "orpo": {"orpo_beta": 1.0}}
AT_START = {"dpo": math.log(2), "ipo": 1 / 4, "kto": 0.5}
"""Each method's loss where the model is its reference."""


def trainer_of(method: str, **keys: Any) -> dict[str, Any]:
    kind = {"type": "dpo", "dpo_loss_type": "ipo"} if method == "ipo" else {"type": method}
    common = {"batch_size": 4, "learning_rate": 0.02, "epochs": 5, "early_stop": 0}
    return {**kind, **BETAS[method], **common, **keys}


class Evaluations(Messages):
    """Keeps how the hold-out was scored, too."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Evaluated] = []

    def evaluated(self, evaluated: Evaluated) -> None:
        self.found.append(evaluated)


def tune(
    folder: Path,
    model_path: Path,
    method: str = "dpo",
    *,
    adapter: Any = LORA,
    messages: Messages | None = None,
    sections: Any = None,
    **keys: Any,
) -> Path:
    config = {"trainer": trainer_of(method, **keys), **({} if sections is None else sections)}
    run = build_pair_run(folder, model_path, config if adapter is None else {**config, "adapter": adapter})
    run_train(run, folder / "work", messages)
    return Path(run.output_uri)


def load(model_path: Path, folder: Path) -> Any:
    """As anyone would, with PEFT where it is an adapter."""
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_path), str(folder)).eval()


def read_pairs(folder: Path, name: str, model_path: Path) -> list[Pair]:
    config = build_pair_run(folder / "again", model_path, {"trainer": {"type": "dpo"}}).config
    assert isinstance(config.trainer, DpoTrainer)
    whole = config.preprocessing.model_validate({"split": {"type": "random", "probabilities": [1.0, 0.0, 0.0]}})
    data = prepare_data(
        config.model_copy(update={"preprocessing": whole}),
        tiny_tokenizer(),
        DataFiles(DataFile(folder / name)),
        context_length=CONTEXT_LENGTH,
        work_path=folder / "again",
        seed=0,
        warn=lambda _: None,
    )
    rows: PairRows = build_pair_rows(data.train, data.rejected[0], scores=0)
    return pairs_in(rows)


@torch.no_grad()
def margins_of(model_path: Path, folder: Path, name: str, *, per_token: bool = False) -> torch.Tensor:
    """How much further the tuned model moved towards better answers than towards worse ones, in nats."""
    pairs = read_pairs(folder.parent, name, model_path)
    base, tuned = AutoModelForCausalLM.from_pretrained(model_path).eval(), load(model_path, folder)
    ratios = [plain_log_probs(tuned, pairs, place) - plain_log_probs(base, pairs, place) for place in (0, 1)]
    chosen, rejected = (ratio / (target_counts(pairs, place) if per_token else 1) for place, ratio in enumerate(ratios))
    return chosen - rejected


@pytest.mark.proves("trainer.type")
@pytest.mark.parametrize("method", ["dpo", "ipo", "kto"])
def test_it_learns_which_answer_is_better_and_its_figures_are_those_of_what_it_stores(
    method: str, llama_path: Path, tmp_path: Path
) -> None:
    folder = tune(tmp_path / "run", llama_path, method)
    margins = margins_of(llama_path, folder, "train.jsonl", per_token=method == "ipo")
    assert (margins > 0).float().mean() > 0.95
    held = margins_of(llama_path, folder, "validation.jsonl", per_token=method == "ipo")
    found = read_metrics(folder)["eval"]
    beta = next(iter(BETAS[method].values()))
    assert found["base_loss"] == pytest.approx(AT_START[method], abs=1e-5)
    assert found["loss"] < 0.8 * found["base_loss"]
    assert found["reward_accuracy"] == pytest.approx((held > 0).float().mean().item())
    assert found["reward_margin"] == pytest.approx(beta * held.mean().item(), rel=1e-3)


@pytest.mark.proves("trainer.type", "trainer.orpo_beta")
def test_orpo_learns_better_answers_and_unlearns_worse_ones(llama_path: Path, tmp_path: Path) -> None:
    folder = tune(tmp_path / "orpo", llama_path, "orpo", epochs=8)
    found = read_metrics(folder)["eval"]
    assert found["loss"] < found["base_loss"] - 0.5
    assert "reward_accuracy" not in found
    pairs = read_pairs(tmp_path / "orpo", "validation.jsonl", llama_path)
    with torch.no_grad():
        model = load(llama_path, folder)
        chosen, rejected = (plain_log_probs(model, pairs, place) / target_counts(pairs, place) for place in (0, 1))
    odds = [log_probs - torch.log1p(-log_probs.exp()) for log_probs in (chosen, rejected)]
    losses = -chosen - torch.nn.functional.logsigmoid(odds[0] - odds[1])
    assert found["loss"] == pytest.approx(losses.mean().item(), rel=1e-4)
    assert (margins_of(llama_path, folder, "validation.jsonl", per_token=True) > 0).all()


@pytest.mark.proves("trainer.dpo_beta", "trainer.kto_beta")
@pytest.mark.parametrize(("method", "key"), [("dpo", "dpo_beta"), ("kto", "kto_beta")])
def test_a_smaller_beta_goes_further_from_where_it_started(
    method: str, key: str, llama_path: Path, tmp_path: Path
) -> None:
    moved = []
    for beta in (0.05, 2.0):
        folder = tune(tmp_path / str(beta), llama_path, method, epochs=12, **{key: beta})
        moved.append(margins_of(llama_path, folder, "train.jsonl").mean().item())
    assert moved[0] > 1.5 * moved[1] > 0


@pytest.mark.proves("trainer.dpo_label_smoothing")
def test_smoothed_labels_hold_the_margin_back(llama_path: Path, tmp_path: Path) -> None:
    folders = [tune(tmp_path / str(share), llama_path, epochs=8, dpo_label_smoothing=share) for share in (0.0, 0.3)]
    margins = [read_metrics(folder)["eval"]["reward_margin"] for folder in folders]
    assert 0 < margins[1] < margins[0]


@pytest.mark.proves("trainer.batch_size", "trainer.gradient_accumulation_steps")
@pytest.mark.parametrize("method", BETAS)
def test_a_batch_counts_pairs_and_accumulation_is_one_step_of_all_its_pairs(
    method: str, llama_path: Path, tmp_path: Path
) -> None:
    plain = {**LORA, "dropout": 0.0}
    given: dict[str, Any] = {"adapter": plain, "epochs": 2}
    whole = read_curve(tune(tmp_path / "whole", llama_path, method, batch_size=8, **given))
    halves = {"batch_size": 2, "gradient_accumulation_steps": 4}
    parts = read_curve(tune(tmp_path / "parts", llama_path, method, **halves, **given))
    assert len(whole) == 4
    assert parts == whole


STARTS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": LORA},
    "pissa": {"adapter": {**LORA, "init_lora_weights": "pissa"}},
    "biases": {"adapter": {**LORA, "bias_type": "all"}},
    "adalora": {"adapter": {"type": "adalora", "init_r": 6, "target_r": 4, "tfinal": 2}},
    "ia3": {"adapter": {"type": "ia3"}},
    "full": {"adapter": None},
    "nf4": {"adapter": LORA, "sections": {"quantization": {"bits": 4}}},
    "loftq": {"adapter": {**LORA, "init_lora_weights": "loftq"}, "sections": {"quantization": {"bits": 4}}},
}


@pytest.mark.parametrize("start", STARTS)
def test_the_reference_is_the_model_as_it_starts_whatever_is_trained(
    start: str, llama_path: Path, tmp_path: Path
) -> None:
    options = STARTS[start]
    folder = tune(tmp_path / "run", llama_path, **options)
    found = read_metrics(folder)["eval"]
    assert found["base_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert float(read_curve(folder)[0][3]) == pytest.approx(math.log(2), abs=0.05), "dropout alone moves it"
    assert found["loss"] < found["base_loss"]
    if options.get("sections") is None:
        held = margins_of(llama_path, folder, "validation.jsonl")
        assert found["reward_margin"] == pytest.approx(0.3 * held.mean().item(), rel=1e-2, abs=1e-3)


def test_an_adapter_that_goes_on_is_compared_with_where_it_went_on_from(llama_path: Path, tmp_path: Path) -> None:
    first = tune(tmp_path / "first", llama_path)
    again = tune(tmp_path / "again", llama_path, adapter={**LORA, "pretrained_adapter_weights": str(first)}, epochs=1)
    found = [read_metrics(folder)["eval"] for folder in (first, again)]
    assert [figures["base_loss"] for figures in found] == pytest.approx([math.log(2)] * 2, abs=1e-5)
    assert found[1]["reward_margin"] < found[0]["reward_margin"]


def test_a_merged_model_is_judged_by_the_same_loss(llama_path: Path, tmp_path: Path) -> None:
    merges = {**LORA, "postprocessor": {"merge_adapter_into_base_model": True}}
    folder = tune(tmp_path / "run", llama_path, adapter=merges)
    found = read_metrics(folder)["eval"]
    assert found["merged_loss"] == pytest.approx(found["loss"], rel=1e-4)
    assert (margins_of(llama_path, folder, "train.jsonl") > 0).float().mean() > 0.95


@pytest.mark.parametrize("method", BETAS)
@pytest.mark.parametrize("adapter", [LORA, None], ids=["lora", "full"])
def test_stops_change_no_loss_of_any_step(method: str, adapter: Any, llama_path: Path, tmp_path: Path) -> None:
    """Where it goes on, the model is no longer the reference: that has to come out of the checkpoint."""
    keys = {"epochs": 2, "steps_per_checkpoint": 3, "learning_rate": 0.01}
    expected = tune(tmp_path / "whole", llama_path, method, adapter=adapter, **keys)
    config = {"trainer": trainer_of(method, **keys), **({} if adapter is None else {"adapter": adapter})}
    run, messages, stops = build_pair_run(tmp_path / "stopped", llama_path, config), Messages(), 0
    while True:
        try:
            run_train(run, tmp_path / f"work-{stops}", messages, stop_after(9 if stops == 0 else 4))
            break
        except Stopped:
            stops += 1
    assert stops >= 2
    assert read_curve(Path(run.output_uri)) == read_curve(expected)
    assert read_metrics(Path(run.output_uri))["eval"] == read_metrics(expected)["eval"]
    scored = [text for text in messages.texts if "that is the reference" in text]
    assert len(scored) == (0 if method == "orpo" else 1)


def test_a_stop_while_the_reference_is_worked_out_loses_nothing(llama_path: Path, tmp_path: Path) -> None:
    run = build_pair_run(tmp_path, llama_path, {"trainer": trainer_of("dpo"), "adapter": LORA})
    with pytest.raises(Stopped, match="before the first step"):
        run_train(run, tmp_path / "work", should_stop=stop_after(1))
    assert not Path(run.checkpoint.uri).exists()


@pytest.mark.parametrize(("keys", "count"), [({"train_steps": 2}, 8 + 5), ({"epochs": 1}, 16 + 5)], ids=str)
def test_only_pairs_that_the_run_will_see_are_scored(
    keys: dict[str, int], count: int, llama_path: Path, tmp_path: Path
) -> None:
    messages = Messages()
    folder = tune(tmp_path, llama_path, messages=messages, **keys)
    assert f"info: the model as it is scores {count} pairs: that is the reference" in messages.texts
    assert all(math.isfinite(float(row[3])) for row in read_curve(folder))


@pytest.mark.proves("trainer.validation_metric")
def test_the_best_weights_may_be_those_of_the_largest_margin(llama_path: Path, tmp_path: Path) -> None:
    """A rate so high that what is best at first need not stay so."""
    for metric, sign in (("perplexity", -1), ("reward_margin", 1)):
        watch = Evaluations()
        keys = {"learning_rate": 0.3, "epochs": 4, "validation_metric": metric}
        metrics = read_metrics(tune(tmp_path / metric, llama_path, "ipo", messages=watch, **keys))
        values = {one.step: sign * getattr(one, metric) for one in watch.found if one.step > 0}
        assert len(values) == 4
        assert metrics["train"]["best_step"] == max(values, key=lambda step: values[step])


def test_training_pairs_are_judged_where_asked_and_the_rate_of_better_ones_is_told(
    llama_path: Path, tmp_path: Path
) -> None:
    messages = Messages()
    tune(tmp_path, llama_path, messages=messages, evaluate_training_set=True)
    told = [text for text in messages.texts if text.endswith("on all training rows")]
    assert len(told) == 5
    assert ", reward accuracy 100.0% on" in told[-1]


@pytest.mark.parametrize(("metric", "bound", "met"), [("reward_accuracy", 0.9, True), ("reward_margin", 90.0, False)])
def test_a_gate_may_ask_for_rewards(metric: str, bound: float, met: bool, llama_path: Path, tmp_path: Path) -> None:
    config = {"trainer": trainer_of("dpo"), "adapter": LORA}
    run = build_pair_run(tmp_path, llama_path, config, gate={"metric": metric, "min": bound})
    if met:
        assert run_train(run, tmp_path / "work").metrics["eval.reward_accuracy"] >= bound
    else:
        with pytest.raises(GateNotMet, match=rf"reward_margin on the hold-out is \d+\.\d+, and .* at least {bound}"):
            run_train(run, tmp_path / "work")


def test_the_card_names_the_method_and_what_its_figures_are(llama_path: Path, tmp_path: Path) -> None:
    card = (tune(tmp_path, llama_path, "kto", epochs=1) / "README.md").read_text()
    assert "made by llm-operator by KTO from pairs of a better and a worse answer." in card
    assert "Losses are KTO's own, in the mean of pairs; perplexity and next-token accuracy are those of the " in card
    assert "\n- kto\n" in card
    assert "eval.reward_accuracy" in card


@pytest.mark.proves("trainer.rejected_column")
def test_what_is_stored_answers_rows_that_know_nothing_of_rejected_answers(llama_path: Path, tmp_path: Path) -> None:
    """Nor does a column of that name get into the prompt of those that still have it."""
    sections = {"input_features": [{"name": "prompt", "type": "text"}], "prompt": {"template": "{__sample__}:"}}
    folder = tune(tmp_path / "run", llama_path, epochs=1, sections=sections)
    answered = []
    for name, extra in (("bare", {}), ("pairs", {"rejected": "No idea."})):
        rows = write_jsonl(tmp_path / f"{name}.jsonl", [{"question": f"Where is lamp {n}?", **extra} for n in range(3)])
        output, config = tmp_path / f"{name}.out.jsonl", {"generation": {"do_sample": False, "max_new_tokens": 6}}
        run_predict(build_batch(llama_path, rows, output, config, model={"artifactUri": str(folder)}), tmp_path / name)
        answered.append([row["answer_predictions"] for row in read_output(output)])
    assert len(answered[0]) == 3
    assert answered[0] == answered[1]


@pytest.mark.proves("trainer.rejected_column")
def test_data_without_rejected_answers_is_refused_before_any_model_is_loaded(llama_path: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl").write_text(json.dumps({"question": "a", "answer": "b"}) + "\n")
    run = build_pair_run(
        tmp_path, llama_path, {"trainer": {"type": "dpo"}}, dataset={"train": {"uri": str(tmp_path / "plain.jsonl")}}
    )
    with pytest.raises(DataInvalid, match=r"no column 'rejected'; the columns there are: 'question', 'answer'"):
        run_train(run, tmp_path / "work")
