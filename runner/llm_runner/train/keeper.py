"""Keeps a run's checkpoints where the run was told to, and tells its reporter how it goes.

A local folder holds the newest and the best checkpoints; for an s3:// address each is copied there too, so that a pod
on another node can go on. What a checkpoint holds is decided elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from llm_api.report import Progress
from llm_api.run import RunCheckpoints, S3Settings

from llm_runner.data.pairs import PairRows
from llm_runner.report.reporter import Reporter
from llm_runner.store.fetch import download_folder
from llm_runner.store.publish import delete_folder, list_folders, publish_folder
from llm_runner.store.uri import local_path, scheme_of
from llm_runner.train.checkpoint import (
    Snapshot,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    prune_checkpoints,
    save_checkpoint,
)
from llm_runner.train.evaluate import Evaluation
from llm_runner.train.learner import Learner
from llm_runner.train.plateau import Plateau
from llm_runner.train.ranks import ALONE, Ranks
from llm_runner.train.state import LoopState


@dataclass(frozen=True)
class CheckpointPlace:
    """Where the checkpoints of one run are."""

    settings: RunCheckpoints
    s3: S3Settings
    work_path: Path

    @property
    def is_remote(self) -> bool:
        return scheme_of(self.settings.uri) == "s3"

    @property
    def folder(self) -> Path:
        return self.work_path / "checkpoints" if self.is_remote else local_path(self.settings.uri)

    def uri_of(self, path: Path) -> str:
        return f"{self.settings.uri.rstrip('/')}/{path.name}"

    def load_newest(self, reporter: Reporter) -> Snapshot | None:
        if self.is_remote:
            self._fetch()
        return load_newest(self.folder, reporter.warning)

    def load(self, step: int) -> Snapshot:
        return load_checkpoint(checkpoint_path(self.folder, step))

    def save(self, step: int, snapshot: Snapshot, best_step: int | None) -> None:
        path = save_checkpoint(self.folder, step, snapshot)
        if self.is_remote:
            publish_folder(path, self.uri_of(path), self.s3)
        also = set() if best_step is None else {best_step}
        for removed in prune_checkpoints(self.folder, keep=self.settings.keep, also=also):
            if self.is_remote:
                delete_folder(self.uri_of(removed), self.s3)

    def clear(self) -> None:
        """Removes all of them: the artifact is stored, and a finished run has nothing to go on with."""
        delete_folder(str(self.folder), self.s3)
        if self.is_remote:
            delete_folder(self.settings.uri, self.s3)

    def _fetch(self) -> None:
        """Brings what another machine saved, torn ones too: whether one is whole is asked of all of them later."""
        here = {path.name for path in list_checkpoints(self.folder)}
        for name in list_folders(self.settings.uri, self.s3):
            if name.startswith("step-") and name not in here:
                aside = self.folder / f".{name}.partial"
                download_folder(self.uri_of(Path(name)), aside, self.s3).rename(self.folder / name)


@dataclass(frozen=True)
class Keeper:
    """Implements ``loop.Listener``."""

    place: CheckpointPlace
    learner: Learner
    plateau: Plateau
    growth: Plateau
    identity: dict[str, Any]
    """What must be the same for a checkpoint to be of this run."""
    reporter: Reporter
    pairs: Sequence[PairRows] = ()
    """Tables whose reference is kept, too."""
    ranks: Ranks = ALONE
    """The first of them writes and reads for all."""

    def stepped(self, state: LoopState) -> None:
        self.reporter.step(to_progress(state))

    def evaluated(self, state: LoopState, hold_out: Evaluation, training: Evaluation | None) -> None:
        self.reporter.evaluated(state.step, hold_out)
        if training is not None:
            rewards = training.reward_accuracy
            also = "" if rewards is None else f", reward accuracy {rewards:.1%}"
            self.reporter.info(f"step {state.step}: loss {training.loss:.4f}{also} on all training rows")

    def grew(self, state: LoopState) -> None:
        self.reporter.info(f"no better for a while: from step {state.step} on a step takes {state.rows_per_step} rows")

    def save(self, state: LoopState) -> None:
        snapshot = self.learner.snapshot()
        plateaus = {"plateau": self.plateau.state_dict(), "growth": self.growth.state_dict()}
        reference = [torch.from_numpy(rows.reference) for rows in self.pairs]
        own = {"loop": state.state_dict(), **plateaus, "reference": reference, "identity": self.identity}
        if self.ranks.is_first:
            self.place.save(state.step, Snapshot(snapshot.weights, {**snapshot.state, **own}), state.best_step)
        self.ranks.wait()

    def resume(self) -> LoopState:
        """The state to go on from: the newest checkpoint of this very run, or a fresh one."""
        snapshot = self.ranks.from_first(lambda: self.place.load_newest(self.reporter))
        if snapshot is None:
            return LoopState()
        if snapshot.state["identity"] != self.identity:
            self.reporter.warning("the checkpoints found are of another config, data or model; training starts anew")
            self.clear()
            return LoopState()
        if not _fits(snapshot, self.learner):
            self.reporter.warning(
                "the checkpoints found are of other ranks than EVA chooses on this machine; training starts anew"
            )
            self.clear()
            return LoopState()
        self.learner.restore(snapshot)
        self.plateau.load_state_dict(snapshot.state["plateau"])
        self.growth.load_state_dict(snapshot.state["growth"])
        for rows, stored in zip(self.pairs, snapshot.state["reference"], strict=True):
            rows.reference[:] = stored.numpy()
        state = LoopState.from_state_dict(snapshot.state["loop"])
        state.resumed_from_step = state.step
        self.reporter.info(f"resumed after step {state.step} of {state.total_steps}")
        return state

    def restore_best(self, state: LoopState) -> None:
        """Puts the best weights back, if later ones were worse."""
        if state.best_step is None or state.best_step == state.step:
            return
        best_step = state.best_step
        snapshot = self.ranks.from_first(lambda: self._load_best(best_step))
        if snapshot is None:
            state.best_step = state.step
            return
        self.learner.load_weights(snapshot.weights)
        if self.learner.allocator is not None:
            self.learner.allocator.load_state_dict(snapshot.state["allocator"])
        self.reporter.info(f"the weights after step {state.best_step} did best on the hold-out and are kept")

    def clear(self) -> None:
        if self.ranks.is_first:
            self.place.clear()

    def _load_best(self, step: int) -> Snapshot | None:
        try:
            return self.place.load(step)
        except ValueError as error:
            self.reporter.warning(f"the best checkpoint, of step {step}, is lost: {error}; the last is kept")
            return None


def _fits(snapshot: Snapshot, learner: Learner) -> bool:
    """A start that is worked out anew may come out with other shapes on another machine."""
    shapes = {name: value.shape for name, value in learner.trained.items()}
    return {name: value.shape for name, value in snapshot.weights.items()} == shapes


def to_progress(state: LoopState) -> Progress:
    point = state.curve[-1]
    seconds_per_step = state.train_seconds / state.step
    return Progress(
        phase="Training",
        step=state.step,
        of=state.total_steps,
        resumed_from_step=state.resumed_from_step,
        epoch=point.epoch,
        loss=point.train_loss,
        learning_rate=point.learning_rate,
        tokens_per_second=state.tokens_per_second,
        eta_seconds=seconds_per_step * (state.total_steps - state.step),
    )
