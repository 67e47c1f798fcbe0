"""AdaLoRA in our loop: the budget shrinks to its target, and the state of it survives a stop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import AdaLoraAdapter, LoraAdapter
from llm_runner.errors import ConfigInvalid
from llm_runner.model.adapter import add_adapter
from llm_runner.model.load import load_base, load_tokenizer
from llm_runner.model.save import BaseName, save_adapter
from llm_runner.train.allocator import RankAllocator, build_allocator
from llm_runner.train.attention import PACKED_ATTENTION
from llm_runner.train.checkpoint import load_checkpoint, save_checkpoint
from llm_runner.train.forward import choose_forward
from llm_runner.train.learner import Learner
from peft import PeftModel
from safetensors.torch import load_file

from tests.support.rows import random_rows

STEPS = 10


def build(path: Path, **options: Any) -> tuple[PeftModel, Learner]:
    adapter = AdaLoraAdapter(type="adalora", **{"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 3, **options})
    torch.manual_seed(0)
    model = add_adapter(load_base(path, dtype=torch.float32), adapter, STEPS)
    base: Any = model.get_base_model()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=0.01)
    return model, Learner(base, choose_forward(base)[0], optimizer, 512, allocator=build_allocator(model))


def take_steps(learner: Learner, first: int, last: int) -> None:
    for step in range(first, last):
        learner.take_step(random_rows(4, seed=step).rows, 0.01, step)


def ranks(model: PeftModel) -> list[int]:
    """Directions of each layer that still do something."""
    return [int((value != 0).sum()) for name, value in model.named_parameters() if ".lora_E." in name]


@pytest.mark.proves("adapter.init_r", "adapter.target_r", "adapter.tinit", "adapter.tfinal")
def test_ranks_shrink_to_the_mean_that_was_asked_for(llama_path: Path) -> None:
    model, learner = build(llama_path)
    budgets = []
    for step in range(STEPS):
        take_steps(learner, step, step + 1)
        budgets.append(sum(ranks(model)))
    layers = len(ranks(model))
    assert budgets[0] == 6 * layers
    assert budgets[-1] == 2 * layers
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[6:] == [2 * layers] * 4


def test_without_anything_to_prune_ranks_stay(llama_path: Path) -> None:
    model, learner = build(llama_path, init_r=4, target_r=4)
    take_steps(learner, 0, STEPS)
    assert set(ranks(model)) == {4}


@pytest.mark.proves("adapter.delta_t")
def test_ranks_are_taken_away_at_every_so_many_steps_only(llama_path: Path) -> None:
    model, learner = build(llama_path, delta_t=3, tinit=0, tfinal=1)
    budgets = [sum(ranks(model))]
    for step in range(STEPS):
        take_steps(learner, step, step + 1)
        budgets.append(sum(ranks(model)))
    # In between the optimizer moves what was taken away.
    assert [step for step in range(1, STEPS + 1) if budgets[step] < budgets[step - 1]] == [3, 6, 9]


@pytest.mark.proves("adapter.beta1", "adapter.beta2")
def test_importance_is_smoothed_by_the_betas(llama_path: Path) -> None:
    """Equations 9 and 10 of the paper, after the second step."""
    model, learner = build(llama_path, beta1=0.6, beta2=0.3, tinit=5)
    importances = []
    for step in range(2):
        take_steps(learner, step, step + 1)
        importances.append(dict(model.base_model.rankallocator.ipt))  # type: ignore[union-attr]
    allocator: Any = model.base_model.rankallocator  # type: ignore[union-attr]
    for name, second in importances[1].items():
        mean = torch.zeros_like(second)
        uncertainty = torch.zeros_like(second)
        for one in (importances[0][name], second):
            mean = 0.6 * mean + 0.4 * one
            uncertainty = 0.3 * uncertainty + 0.7 * (one - mean).abs()
        torch.testing.assert_close(allocator.exp_avg_ipt[name], mean)
        torch.testing.assert_close(allocator.exp_avg_unc[name], uncertainty)
    assert any(bool(one.any()) for one in importances[0].values())


@pytest.mark.proves("adapter.orth_reg_weight")
def test_the_penalty_is_pefts(llama_path: Path) -> None:
    torch.manual_seed(0)
    adapter = AdaLoraAdapter(type="adalora", init_r=6, target_r=2)
    model, ids = add_adapter(load_base(llama_path, dtype=torch.float32), adapter, STEPS), torch.arange(2, 20)[None]
    base: Any = model.get_base_model()
    with torch.no_grad():
        own = model(input_ids=ids, labels=ids).loss - base(input_ids=ids, labels=ids).loss
    allocator = build_allocator(model)
    penalty = None if allocator is None else allocator.penalty()
    assert penalty is not None
    assert own > 0
    torch.testing.assert_close(penalty.detach(), own, rtol=1e-4, atol=1e-5)


@pytest.mark.proves("adapter.orth_reg_weight")
def test_no_penalty_is_asked_for_where_it_weighs_nothing(llama_path: Path) -> None:
    _, learner = build(llama_path, orth_reg_weight=0.0)
    assert learner.allocator is not None
    assert learner.allocator.penalty() is None


@pytest.mark.parametrize("stop", [1, 4, 8])
def test_a_restored_allocator_gives_out_the_same_ranks(llama_path: Path, stop: int, tmp_path: Path) -> None:
    whole_model, whole = build(llama_path)
    take_steps(whole, 0, stop)
    stored = save_checkpoint(tmp_path, stop, whole.snapshot())
    take_steps(whole, stop, STEPS)
    model, learner = build(llama_path)
    learner.restore(load_checkpoint(stored))
    take_steps(learner, stop, STEPS)
    assert ranks(model) == ranks(whole_model)
    torch.testing.assert_close(learner.trained, whole.trained, rtol=0, atol=0)


def test_other_adapters_need_no_allocator(llama_path: Path) -> None:
    lora = add_adapter(load_base(llama_path), LoraAdapter(type="lora"), STEPS)
    assert build_allocator(lora) is None
    assert isinstance(build_allocator(build(llama_path)[0]), RankAllocator)


@pytest.fixture
def stored(llama_path: Path, tmp_path: Path) -> tuple[PeftModel, Path]:
    """A run that has ended, with ranks that differ by layer."""
    model, learner = build(llama_path)
    take_steps(learner, 0, STEPS)
    folder = tmp_path / "stored"
    save_adapter(model, folder, base=BaseName("acme/base"), tokenizer=load_tokenizer(llama_path))
    return model, folder


def rows_of(model: PeftModel) -> list[int]:
    return [value.shape[0] for name, value in model.named_parameters() if ".lora_A." in name]


def logits_of(model: PeftModel) -> torch.Tensor:
    base: Any = model.get_base_model()
    base.set_attn_implementation("sdpa")
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(2, 60)[None]).logits  # type: ignore[no-any-return]


# PEFT reads the ranks that AdaLoRA left by names that it then says it does not know.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing", "ignore:The following rank_pattern keys")
def test_an_earlier_runs_ranks_are_those_that_are_gone_on_with(
    stored: tuple[PeftModel, Path], llama_path: Path, tmp_path: Path
) -> None:
    before, folder = stored
    assert len(set(ranks(before))) > 1
    model, learner = build(llama_path, pretrained_adapter_weights=str(folder))
    assert rows_of(model) == ranks(before)
    torch.testing.assert_close(logits_of(model), logits_of(before))
    learner.forward.model.set_attn_implementation(PACKED_ATTENTION)  # type: ignore[attr-defined]
    take_steps(learner, 0, STEPS)
    assert rows_of(model) == ranks(model) == ranks(before)
    expected = logits_of(model)
    assert not torch.allclose(expected, logits_of(before), atol=1e-3)
    save_adapter(model, tmp_path, base=BaseName("acme/base"), tokenizer=load_tokenizer(llama_path))
    again = PeftModel.from_pretrained(load_base(llama_path, dtype=torch.float32), str(tmp_path))
    torch.testing.assert_close(logits_of(again), expected)


def test_ranks_that_are_given_are_trained_in_float32_from_where_they_were(
    stored: tuple[PeftModel, Path], llama_path: Path
) -> None:
    adapter = AdaLoraAdapter(type="adalora", pretrained_adapter_weights=str(stored[1]))
    model = add_adapter(load_base(llama_path, dtype=torch.bfloat16), adapter, STEPS)
    kept = load_file(stored[1] / "adapter_model.safetensors")
    for name, value in model.named_parameters():
        if value.requires_grad:
            assert value.dtype == torch.float32
            assert torch.equal(value, kept[name.replace(".default", "")])


def test_what_updates_are_divided_by_is_not_trained_beside_a_base_in_bfloat16(llama_path: Path) -> None:
    adapter = AdaLoraAdapter(type="adalora", init_r=6, target_r=2)
    model = add_adapter(load_base(llama_path, dtype=torch.bfloat16), adapter, STEPS)
    learner = Learner(
        model.get_base_model(),  # type: ignore[arg-type]
        choose_forward(model.get_base_model())[0],  # type: ignore[arg-type]
        torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=0.1),
        512,
    )
    take_steps(learner, 0, 2)
    divisors = [float(value) for name, value in model.named_parameters() if ".ranknum." in name]
    assert divisors == [6.0] * len(rows_of(model))


def test_fewer_ranks_than_an_earlier_run_has_given_out_are_refused(
    stored: tuple[PeftModel, Path], llama_path: Path
) -> None:
    with pytest.raises(ConfigInvalid, match=r"adapter\.target_r: 1, but the adapter .* its ranks, 2 on average"):
        build(llama_path, target_r=1, pretrained_adapter_weights=str(stored[1]))
