"""The losses over pairs: TRL's own figures for the same log-probabilities, and what the papers say besides.

The figures are what TRL 1.16 gives (DPOTrainer, KTOTrainer and its experimental ORPOTrainer, in float32) where its
model says these log-probabilities.
"""

import math

import pytest
import torch
from llm_api.config import DpoTrainer, KtoTrainer, OrpoTrainer, PreferenceTrainer
from llm_runner.train.preference import Answers, Dpo, Ipo, Kto, Method, Orpo, build_method

CHOSEN = Answers(
    torch.tensor([-12.5, -30.25, -4.0, -55.5]),
    torch.tensor([6, 11, 4, 20]),
    torch.tensor([-14.0, -28.75, -9.5, -60.0]),
)
REJECTED = Answers(
    torch.tensor([-20.0, -18.5, -7.25, -90.0]),
    torch.tensor([8, 5, 3, 31]),
    torch.tensor([-17.5, -18.0, -8.0, -70.5]),
)
DIVERGENCE = 1.8125
"""TRL's, of mismatched sequences with ratios 3, -1.5, 5, 0.5, -1, 5.5, 3.5 and -0.5."""


def answers(log_probs: float, targets: int = 4, reference: float = -8.0) -> Answers:
    return Answers(torch.tensor([log_probs]), torch.tensor([targets]), torch.tensor([reference]))


@pytest.mark.proves("trainer.dpo_beta", "trainer.dpo_loss_type", "trainer.kto_beta")
@pytest.mark.parametrize(
    ("method", "loss"),
    [
        (Dpo(0.1), 0.4569592773914337),
        (Dpo(0.5), 0.29748764634132385),
        (Ipo(0.1), 19.31525993347168),
        (Kto(0.1, DIVERGENCE), 0.4184703230857849),
        (Kto(0.3, DIVERGENCE), 0.34769710898399353),
    ],
    ids=str,
)
def test_the_loss_is_trls(method: Method, loss: float) -> None:
    assert method.losses(CHOSEN, REJECTED).mean().item() == pytest.approx(loss, rel=1e-6)


@pytest.mark.proves("trainer.orpo_beta")
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_orpo_is_the_likelihood_of_chosen_answers_and_trls_odds_ratio(beta: float) -> None:
    odds = torch.tensor([0.04878238961100578, 0.031568240374326706, 0.015556663274765015, 0.06273659318685532])
    likelihood = CHOSEN.log_probs / CHOSEN.targets
    torch.testing.assert_close(Orpo(beta).losses(CHOSEN, REJECTED), -likelihood + beta / 0.1 * odds)


@pytest.mark.parametrize(("method", "margin"), [(Dpo(0.1), 0.79375), (Kto(0.3), 2.38125)], ids=str)
def test_rewards_are_trls_too(method: Method, margin: float) -> None:
    better, worse = method.rewards(CHOSEN), method.rewards(REJECTED)
    assert better is not None
    assert worse is not None
    assert (better - worse).mean().item() == pytest.approx(margin, rel=1e-6)
    assert (better > worse).tolist() == [True, False, True, True]


@pytest.mark.proves("trainer.dpo_label_smoothing")
@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothing_takes_a_share_of_the_pairs_the_other_way_round(smoothing: float) -> None:
    plain, turned = Dpo(0.1).losses(CHOSEN, REJECTED), Dpo(0.1).losses(REJECTED, CHOSEN)
    expected = (1 - smoothing) * plain + smoothing * turned
    torch.testing.assert_close(Dpo(0.1, smoothing).losses(CHOSEN, REJECTED), expected)


def test_smoothing_by_half_wants_no_margin_at_all() -> None:
    margins = [Dpo(1.0, 0.5).losses(answers(-8.0 + margin), answers(-8.0)).item() for margin in (-1.0, 0.0, 1.0)]
    assert margins[1] == pytest.approx(math.log(2))
    assert margins[0] == pytest.approx(margins[2])
    assert margins[0] > margins[1]


def test_ipo_is_content_with_its_margin_and_no_more() -> None:
    """4 targets each: a margin of 1 / (2 * 0.25) = 2 a token."""
    losses = [Ipo(0.25).losses(answers(-8.0 + 4 * margin), answers(-8.0)).item() for margin in (0.0, 2.0, 4.0)]
    assert losses == pytest.approx([4.0, 0.0, 4.0])


def test_kto_counts_gains_from_the_divergence_on() -> None:
    method = Kto(1.0, divergence=2.0)
    assert method.losses(answers(-6.0), answers(-6.0)).item() == pytest.approx(0.5)
    assert method.losses(answers(20.0), answers(-40.0)).item() == pytest.approx(0.0, abs=1e-6)
    assert method.losses(answers(-40.0), answers(20.0)).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("log_prob", [0.0, -1e-6, -0.6, -0.8, -30.0, -2000.0])
def test_odds_of_sure_and_of_hopeless_answers_have_gradients_that_are_numbers(log_prob: float) -> None:
    log_probs = torch.tensor([log_prob], requires_grad=True)
    one, other = (Answers(log_probs, torch.tensor([1])), Answers(torch.tensor([-1.0]), torch.tensor([1])))
    for chosen, rejected in ((one, other), (other, one)):
        (gradient,) = torch.autograd.grad(Orpo(0.1).losses(chosen, rejected).sum(), log_probs)
        assert torch.isfinite(gradient).all()


@pytest.mark.proves("trainer.dpo_beta", "trainer.dpo_loss_type", "trainer.dpo_label_smoothing")
@pytest.mark.parametrize(
    ("trainer", "method"),
    [
        (DpoTrainer(type="dpo"), Dpo(0.1, 0.0)),
        (DpoTrainer(type="dpo", dpo_beta=0.5, dpo_label_smoothing=0.2), Dpo(0.5, 0.2)),
        (DpoTrainer(type="dpo", dpo_beta=0.3, dpo_loss_type="ipo"), Ipo(0.3)),
        (KtoTrainer(type="kto", kto_beta=0.2), Kto(0.2)),
        (OrpoTrainer(type="orpo", orpo_beta=0.4), Orpo(0.4)),
    ],
    ids=lambda value: value.type if isinstance(value, PreferenceTrainer) else str(value),
)
def test_a_trainer_is_its_method_with_its_numbers(trainer: PreferenceTrainer, method: Method) -> None:
    assert build_method(trainer) == method
