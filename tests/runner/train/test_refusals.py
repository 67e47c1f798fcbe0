"""What can't be done is said before anything is fetched, all of it at once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_runner.errors import ConfigInvalid
from llm_runner.train.refusals import check_config

from tests.support.runs import build_run

CPU = torch.device("cpu")


def check(folder: Path, adapter: dict[str, Any] | None, **trainer: Any) -> str:
    config = {"trainer": {"type": "finetune", **trainer}, **({} if adapter is None else {"adapter": adapter})}
    with pytest.raises(ConfigInvalid) as caught:
        check_config(build_run(folder, folder / "no-model", config), CPU)
    return str(caught.value)


def test_everything_that_can_not_be_done_is_named_with_what_to_do(tmp_path: Path) -> None:
    message = check(
        tmp_path,
        {"type": "adalora"},
        increase_batch_size_on_plateau=2,
        layers_to_freeze_regex="embed.*",
    )
    assert [line.split(":")[0] for line in message.splitlines()] == [
        "trainer.increase_batch_size_on_plateau",
        "trainer.layers_to_freeze_regex",
    ]


def test_adalora_may_have_batches_that_grow_where_its_number_of_steps_is_written(tmp_path: Path) -> None:
    config = {
        "adapter": {"type": "adalora"},
        "trainer": {"type": "finetune", "increase_batch_size_on_plateau": 1, "train_steps": 9},
    }
    assert check_config(build_run(tmp_path, tmp_path / "no-model", config), CPU).train_steps == 9


def test_an_optimizer_that_can_not_be_used_is_refused_here_already(tmp_path: Path) -> None:
    assert "trainer.optimizer.type: lbfgs can't be used here" in check(tmp_path, None, optimizer={"type": "lbfgs"})


@pytest.mark.proves("trainer.type")
def test_a_trainer_that_trains_nothing_is_no_fine_tune(tmp_path: Path) -> None:
    run = build_run(tmp_path, tmp_path / "no-model", {"trainer": {"type": "none"}})
    with pytest.raises(ConfigInvalid, match=r"write `trainer: \{type: finetune\}`"):
        check_config(run, CPU)


@pytest.mark.proves("trainer.type")
def test_what_can_be_done_gives_the_trainer(tmp_path: Path) -> None:
    run = build_run(tmp_path, tmp_path / "no-model", {"trainer": {"type": "finetune", "epochs": 7}})
    assert check_config(run, CPU).epochs == 7
