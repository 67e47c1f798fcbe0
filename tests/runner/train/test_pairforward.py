"""Pairs through a model: losses, gradients and steps are those of a textbook's loop over the papers' formulas."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from llm_api.config import LoraAdapter
from llm_runner.data.pairs import Pair, PairRows
from llm_runner.model.adapter import add_adapter
from llm_runner.train.evaluate import evaluate
from llm_runner.train.forward import NoisyForward, PaddedForward, choose_forward
from llm_runner.train.learner import Learner
from llm_runner.train.lora import fuse_lora
from llm_runner.train.pairforward import PairForward, score_reference
from llm_runner.train.preference import Dpo, Ipo, Kto, Method, Orpo
from peft import PeftModel
from torch.nn.functional import logsigmoid

from tests.support.models import build_model, llama_config
from tests.support.pairs import pairs_in, plain_log_probs, random_pairs, target_counts

RATE, BETA = 0.5, 0.3
METHODS: dict[str, Method] = {"dpo": Dpo(BETA, 0.1), "ipo": Ipo(BETA), "kto": Kto(BETA), "orpo": Orpo(BETA)}


def build(*, moved: bool = False) -> PeftModel:
    """A tiny model with LoRA; ``moved`` is one that was trained a little."""
    model = add_adapter(build_model(llama_config()), LoraAdapter(type="lora", r=4, dropout=0.0), 9)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if moved and "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator) / 4)
    return model


def pair_forward(model: PeftModel, method: Method, *, padded: bool = False) -> PairForward:
    base: Any = model.get_base_model()
    fuse_lora(model)
    return PairForward(PaddedForward(base) if padded else choose_forward(base)[0], method)


def plain_ratios(model: PeftModel, pairs: Sequence[Pair], place: int) -> torch.Tensor:
    """The reference is the model with its adapter switched off."""
    with torch.no_grad(), model.disable_adapter():
        reference = plain_log_probs(model, pairs, place)
    return plain_log_probs(model, pairs, place) - reference


def plain_dpo(model: PeftModel, pairs: Sequence[Pair]) -> torch.Tensor:
    margins = BETA * (plain_ratios(model, pairs, 0) - plain_ratios(model, pairs, 1))
    return -(0.9 * logsigmoid(margins) + 0.1 * logsigmoid(-margins)).mean()


def plain_ipo(model: PeftModel, pairs: Sequence[Pair]) -> torch.Tensor:
    chosen, rejected = (plain_ratios(model, pairs, place) / target_counts(pairs, place) for place in (0, 1))
    return ((chosen - rejected - 1 / (2 * BETA)) ** 2).mean()


def plain_kto(model: PeftModel, pairs: Sequence[Pair]) -> torch.Tensor:
    with torch.no_grad():
        divergence = torch.cat([plain_ratios(model, pairs, place) for place in (2, 3)]).mean().clamp(min=0)
    desirable = 1 - torch.sigmoid(BETA * (plain_ratios(model, pairs, 0) - divergence))
    undesirable = 1 - torch.sigmoid(BETA * (divergence - plain_ratios(model, pairs, 1)))
    return torch.cat([desirable, undesirable]).mean()


def plain_orpo(model: PeftModel, pairs: Sequence[Pair]) -> torch.Tensor:
    likely, unlikely = ((plain_log_probs(model, pairs, place) / target_counts(pairs, place)) for place in (0, 1))
    chances = [log_probs.double().exp() for log_probs in (likely, unlikely)]
    odds = [chance / (1 - chance) for chance in chances]
    return (-likely - BETA * logsigmoid(torch.log(odds[0] / odds[1]))).mean()


PLAIN: dict[str, Callable[[PeftModel, Sequence[Pair]], torch.Tensor]] = {
    "dpo": plain_dpo, "ipo": plain_ipo, "kto": plain_kto, "orpo": plain_orpo,
}  # fmt: skip


def filled(rows: PairRows, method: Method) -> PairRows:
    """With the reference's scores, by the model before it was trained."""
    if method.scores:
        score_reference(pair_forward(build(), method), rows, range(len(rows)), 64, lambda: False)
    return rows


def trained_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.proves("trainer.type")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("tokens_per_forward", [1, 70, 4096])
def test_a_step_is_that_of_the_papers_formula_however_it_is_cut(name: str, tokens_per_forward: int) -> None:
    method = METHODS[name]
    plain, ours = build(moved=True), build(moved=True)
    rows = filled(random_pairs(6, scores=method.scores), method)
    loss = PLAIN[name](plain, pairs_in(rows))
    optimizer = torch.optim.SGD([value for value in plain.parameters() if value.requires_grad], lr=RATE)
    loss.backward()
    optimizer.step()
    base: Any = ours.get_base_model()
    trained = [value for value in ours.parameters() if value.requires_grad]
    learner = Learner(
        base, pair_forward(ours, method), torch.optim.SGD(trained, lr=RATE), tokens_per_forward, divisor=len
    )
    before = trained_weights(ours)
    result = learner.take_step(pairs_in(rows), RATE, 0)
    assert result.loss == pytest.approx(loss.item(), rel=1e-5)
    assert result.tokens == int(rows.lengths.sum())
    torch.testing.assert_close(trained_weights(ours), trained_weights(plain), rtol=1e-4, atol=1e-6)
    assert max((before[name] - value).abs().max() for name, value in trained_weights(ours).items()) > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_a_padded_pass_says_the_same(name: str) -> None:
    method, model = METHODS[name], build(moved=True)
    rows = filled(random_pairs(5, scores=method.scores), method)
    losses = []
    for padded in (False, True):
        forward = pair_forward(build(moved=True), method, padded=padded)
        losses.append(evaluate(forward, rows, tokens_per_forward=100))
    assert losses[0].loss == pytest.approx(losses[1].loss, rel=1e-5)
    assert losses[0].loss == pytest.approx(PLAIN[name](model, pairs_in(rows)).item(), rel=1e-5)


@pytest.mark.parametrize("method", [Dpo(BETA), Kto(BETA)], ids=["dpo", "kto"])
def test_the_reference_is_the_base_where_the_adapter_starts_as_nothing(method: Method) -> None:
    rows, model = filled(random_pairs(5, scores=method.scores), method), build(moved=True)
    with torch.no_grad(), model.disable_adapter():
        expected = [plain_log_probs(model, pairs_in(rows), place) for place in range(method.scores)]
    torch.testing.assert_close(torch.from_numpy(rows.reference).float(), torch.stack(expected, 1), rtol=1e-5, atol=1e-4)


@pytest.mark.proves("trainer.kto_beta")
@pytest.mark.parametrize("tokens_per_forward", [1, 80, 4096])
def test_the_divergence_is_the_mean_ratio_of_prompts_with_other_prompts_answers(tokens_per_forward: int) -> None:
    """Here the reference is the model that was moved: it finds random tokens less likely than the base does."""
    rows, base, moved = random_pairs(6, scores=4), build(), build(moved=True)
    score_reference(pair_forward(build(moved=True), Kto(BETA)), rows, range(6), 64, lambda: False)
    pairs = pairs_in(rows)
    with torch.no_grad():
        ratios = [plain_log_probs(base, pairs, place) - plain_log_probs(moved, pairs, place) for place in range(4)]
    divergence = torch.cat(ratios[2:]).mean()
    assert divergence > 0.02
    losses = (1 - torch.sigmoid(BETA * (ratios[0] - divergence)), 1 - torch.sigmoid(BETA * (divergence - ratios[1])))
    forward = pair_forward(base, Kto(BETA))
    found = evaluate(forward, rows, tokens_per_forward=tokens_per_forward)
    assert found.loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert isinstance(forward.method, Kto)
    assert forward.method.divergence == pytest.approx(divergence.item(), rel=1e-3)


def test_rewards_and_the_chosen_answers_tokens_are_told_besides() -> None:
    method, model = Dpo(BETA), build(moved=True)
    rows = filled(random_pairs(7, scores=2), method)
    pairs = pairs_in(rows)
    with torch.no_grad():
        margins = BETA * (plain_ratios(model, pairs, 0) - plain_ratios(model, pairs, 1))
        chosen = plain_log_probs(model, pairs, 0)
    found = evaluate(pair_forward(model, method), rows, tokens_per_forward=50)
    assert found.reward_accuracy == pytest.approx((margins > 0).float().mean().item())
    assert 0 < found.reward_accuracy < 1
    assert found.reward_margin == pytest.approx(margins.mean().item(), abs=1e-5)
    assert found.targets == int(target_counts(pairs, 0).sum())
    assert found.answer_loss == pytest.approx(-chosen.sum().item() / found.targets, rel=1e-5)
    assert found.perplexity == pytest.approx(torch.exp(-chosen.sum() / found.targets).item(), rel=1e-4)


def test_a_method_without_a_reference_has_no_rewards() -> None:
    found = evaluate(pair_forward(build(moved=True), Orpo(BETA)), random_pairs(3, scores=0), tokens_per_forward=50)
    assert (found.reward_accuracy, found.reward_margin) == (None, None)


def test_noise_is_for_the_trained_pass_alone() -> None:
    model = build()
    base: Any = model.get_base_model()
    forward = PairForward(NoisyForward(base, choose_forward(base)[0], 20.0), Dpo(BETA))
    rows, plain = random_pairs(3, scores=2), filled(random_pairs(3, scores=2), Dpo(BETA))
    base.train()
    score_reference(forward, rows, range(3), 100, lambda: False)
    assert base.training
    assert rows.reference.tolist() == pytest.approx(plain.reference, abs=1e-4)
    assert forward(pairs_in(rows)).trained.item() / 3 != pytest.approx(0.693147, abs=1e-4)
