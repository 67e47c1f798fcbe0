"""Checkpoints are whole or passed over, and the right ones are kept."""

from pathlib import Path

import pytest
import torch
from llm_runner.train.checkpoint import (
    Snapshot,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    prune_checkpoints,
    save_checkpoint,
    step_of,
)


def snapshot(value: float) -> Snapshot:
    return Snapshot({"weight": torch.full((3, 2), value)}, {"step": int(value), "random": torch.get_rng_state()})


def steps_in(folder: Path) -> list[int]:
    return [step_of(path) for path in list_checkpoints(folder)]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 12, snapshot(5.0))
    found = load_checkpoint(path)
    assert path.name == "step-00000012"
    assert found.weights["weight"].tolist() == [[5.0, 5.0]] * 3
    assert found.state["step"] == 5


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 12, snapshot(5.0))
    found = load_checkpoint(save_checkpoint(tmp_path, 12, snapshot(6.0)))
    assert found.state["step"] == 6


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def overwrite(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["trained.safetensors", "state.pt", "digests.json"])
@pytest.mark.parametrize("damage", [cut, overwrite, Path.unlink])
def test_a_torn_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, name: str, damage: object) -> None:
    save_checkpoint(tmp_path, 1, snapshot(1.0))
    damage(save_checkpoint(tmp_path, 2, snapshot(2.0)) / name)  # type: ignore[operator]
    warnings: list[str] = []
    found = load_newest(tmp_path, warnings.append)
    assert found is not None
    assert found.state["step"] == 1
    (warning,) = warnings
    assert warning.startswith("checkpoint step-00000002 is not whole and is passed over: ")


def test_a_torn_checkpoint_does_not_take_the_place_of_a_whole_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, snapshot(1.0))
    (save_checkpoint(tmp_path, 9, snapshot(9.0)) / "state.pt").unlink()
    load_newest(tmp_path, lambda _: None)
    save_checkpoint(tmp_path, 2, snapshot(2.0))
    prune_checkpoints(tmp_path, keep=1, also=set())
    assert steps_in(tmp_path) == [2]


def test_a_process_that_died_while_writing_left_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".step-00000003.partial").mkdir()
    assert list_checkpoints(tmp_path) == []
    assert load_newest(tmp_path, pytest.fail) is None
    save_checkpoint(tmp_path, 3, snapshot(3.0))
    assert steps_in(tmp_path) == [3]


def test_the_newest_are_kept_and_the_best_with_them(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10, 20):
        save_checkpoint(tmp_path, step, snapshot(float(step)))
    removed = prune_checkpoints(tmp_path, keep=2, also={2})
    assert [step_of(path) for path in removed] == [1, 3]
    assert steps_in(tmp_path) == [2, 10, 20]


def test_nothing_in_a_checkpoint_can_run_code(tmp_path: Path) -> None:
    class Command:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("owned",)

    path = save_checkpoint(tmp_path, 1, Snapshot({}, {"innocent": Command()}))
    with pytest.raises(Exception, match="Weights only load failed"):
        load_checkpoint(path)
