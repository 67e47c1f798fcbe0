"""Checkpoints of a run: written aside, renamed when whole, checked before they are used.

A checkpoint is a folder ``step-00000120`` with the trained weights (safetensors), everything else that the next step
depends on (``state.pt``: optimizer, random numbers, counters) and the digests of both. A process that dies while
writing leaves a folder that is never taken for a checkpoint. Moving them to other places is not done here.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_WEIGHTS, _STATE, _DIGESTS = "trained.safetensors", "state.pt", "digests.json"


@dataclass(frozen=True)
class Snapshot:
    """All that a stopped run needs to go on as if nothing had happened."""

    weights: dict[str, torch.Tensor]
    """Trained parameters by name."""
    state: dict[str, Any]
    """Tensors, numbers, text, lists and mappings only: it is read back without running any code."""


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Oldest first; whole ones and torn ones alike."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def save_checkpoint(folder: Path, step: int, snapshot: Snapshot) -> Path:
    target = checkpoint_path(folder, step)
    aside = folder / f".{target.name}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.weights.items()}, aside / _WEIGHTS)
    torch.save(snapshot.state, aside / _STATE)
    digests = {name: _digest(aside / name) for name in (_WEIGHTS, _STATE)}
    (aside / _DIGESTS).write_text(json.dumps(digests))
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    return target


def load_checkpoint(path: Path) -> Snapshot:
    """Raises ValueError saying what is wrong with a torn one."""
    if (fault := _fault_of(path)) is not None:
        raise ValueError(fault)
    return Snapshot(load_file(path / _WEIGHTS), torch.load(path / _STATE, map_location="cpu", weights_only=True))


def load_newest(folder: Path, warn: Callable[[str], None]) -> Snapshot | None:
    """The newest whole checkpoint; ``warn`` is told of each torn one that is passed over.

    Torn ones are removed, so that they don't count among those that are kept.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path)
        except ValueError as error:
            warn(f"checkpoint {path.name} is not whole and is passed over: {error}")
            shutil.rmtree(path)
    return None


def prune_checkpoints(folder: Path, *, keep: int, also: set[int]) -> list[Path]:
    """Removes all but the newest ``keep`` and the steps in ``also``; returns what it removed."""
    extra = [path for path in list_checkpoints(folder)[:-keep] if step_of(path) not in also]
    for path in extra:
        shutil.rmtree(path)
    return extra


def _fault_of(path: Path) -> str | None:
    try:
        expected = json.loads((path / _DIGESTS).read_text())
    except (OSError, ValueError):
        return f"{_DIGESTS} is missing or unreadable"
    for name in (_WEIGHTS, _STATE):
        if not (path / name).is_file():
            return f"{name} is missing"
        if _digest(path / name) != expected.get(name):
            return f"{name} is not what was written"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
