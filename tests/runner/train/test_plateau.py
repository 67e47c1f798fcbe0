"""A plateau against torch's own, what it watches, and across a resume."""

import pytest
import torch
from llm_runner.train.evaluate import Evaluation
from llm_runner.train.plateau import Plateau
from torch.optim import lr_scheduler

LOSSES = [3.0, 2.0, 2.1, 2.0, 2.2, 1.9, 1.9, 1.9, 1.9, 1.9, 1.9, 1.9, 1.5, 1.6, 1.6, 1.6, 1.6]


def of_loss(loss: float) -> Evaluation:
    return Evaluation(loss, 0.5, 10)


def torch_plateau(losses: list[float], patience: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, threshold=0.0)
    found = []
    for loss in losses:
        scheduler.step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.proves("trainer.learning_rate_scheduler.reduce_on_plateau_patience")
@pytest.mark.parametrize("patience", [0, 1, 2, 3])
def test_a_plateau_changes_the_factor_when_torchs_does(patience: int) -> None:
    plateau, found = Plateau(most_changes=100, patience=patience, rate=0.5), []
    for loss in LOSSES:
        plateau.observe(of_loss(loss), None)
        found.append(plateau.factor)
    assert found == torch_plateau(LOSSES, patience)


@pytest.mark.proves(
    "trainer.learning_rate_scheduler.reduce_on_plateau", "trainer.learning_rate_scheduler.reduce_on_plateau_rate"
)
def test_a_plateau_changes_it_so_often_only_and_says_when() -> None:
    plateau = Plateau(most_changes=2, patience=0, rate=0.1)
    said = [plateau.observe(of_loss(1.0), None) for _ in range(20)]
    assert said == [False, True, True, *[False] * 17]
    assert plateau.factor == pytest.approx(0.01)


@pytest.mark.parametrize(("watches_training", "best"), [(True, 1.0), (False, 3.0)])
def test_a_plateau_watches_the_rows_that_it_is_told_to(watches_training: bool, best: float) -> None:
    plateau = Plateau(most_changes=1, patience=0, rate=0.5, watches_training=watches_training)
    plateau.observe(of_loss(1.0), of_loss(3.0))
    assert plateau.best == best


def test_without_a_hold_out_the_training_is_watched() -> None:
    plateau = Plateau(most_changes=1, patience=0, rate=0.5, watches_training=False)
    plateau.observe(of_loss(2.0), None)
    assert plateau.best == 2.0


def test_a_plateau_goes_on_where_it_was() -> None:
    whole = Plateau(most_changes=9, patience=1, rate=0.5)
    for loss in LOSSES[:8]:
        whole.observe(of_loss(loss), None)
    other = Plateau(most_changes=9, patience=1, rate=0.5)
    other.load_state_dict(whole.state_dict())
    for loss in LOSSES[8:]:
        whole.observe(of_loss(loss), None)
        other.observe(of_loss(loss), None)
    assert other == whole
