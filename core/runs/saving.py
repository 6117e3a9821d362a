"""What a run saves after each epoch, and how it goes on from there, bit for bit."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.captioning_solver import CaptioningSolver
from core.checkpoint import Checkpoint, save_checkpoint
from core.coco_utils import caption_limit
from core.optim import RULES, numbers_of
from core.runs.lock import Lock
from core.support.files import write_text

_SECONDS_BETWEEN_PICTURES = 60


class Saving:
    """Writes the files of a run; it is the solver's ``after_epoch``.

    best.npz comes before last.npz, and that before metrics.jsonl: a run that is killed in between
    resumes from the epoch before, and writes the same files again.

    Inputs:
    - folder: of the run
    - checkpoint: what the checkpoints say besides the training (model, vocabulary, extractor, ...)
    - lock: of the folder, checked before anything is written there; None where nobody else writes
    """

    def __init__(self, folder: str | Path, checkpoint: Checkpoint, lock: Lock | None = None):
        self.folder, self.checkpoint, self.lock = Path(folder), checkpoint, lock
        self.drawn = time.monotonic()

    def __call__(self, solver: CaptioningSolver) -> None:
        self._check_lock()
        params = solver.model.params
        if solver.best_epoch == solver.epoch:
            training = {"epoch": solver.epoch, "max_length": caption_limit(solver.data)}
            best = replace(self.checkpoint, params=params, training=training)
            save_checkpoint(self.folder / "best.npz", best)
        training = {
            "epoch": solver.epoch,
            "max_length": caption_limit(solver.data),
            "history": solver.history,
            "loss_history": solver.loss_history,
            "shuffling": solver.rng.bit_generator.state,
            "dropout": solver.model.rng.bit_generator.state,
        }
        optimizer = solver.engine.configs
        last = replace(self.checkpoint, params=params, optimizer=optimizer, training=training)
        save_checkpoint(self.folder / "last.npz", last)
        self.write_metrics(solver.history)
        if time.monotonic() - self.drawn > _SECONDS_BETWEEN_PICTURES:
            self.draw(solver.history)
            self.drawn = time.monotonic()

    def write_metrics(self, history: Sequence[Mapping]) -> None:
        """metrics.jsonl: a row an epoch."""
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in history))

    def draw(self, history: Sequence[Mapping]) -> None:
        """loss.png."""
        self._check_lock()
        from core.show.plots import plot_losses

        plot_losses(history, self.folder / "loss.png")

    def _check_lock(self) -> None:
        if self.lock:
            self.lock.check()


def restore(solver: CaptioningSolver, checkpoint: Checkpoint, name: str | Path = "it") -> None:
    """Takes a solver back to where ``last.npz`` was written; ``train()`` goes on from there.

    Raises ValueError, with the name of the file, when the checkpoint holds no training state, as
    ``best.npz`` does, or not all of it.
    """
    training = checkpoint.training
    if "history" not in training:
        raise ValueError("the checkpoint holds no training state; resume from last.npz")
    if fault := _fault_of_state(solver, checkpoint):
        raise ValueError(
            f"{name}: does not hold the whole state of a training ({fault}); start another run, "
            "with --init from this one's best.npz"
        )
    solver.history, solver.loss_history = training["history"], training["loss_history"]
    solver.rng.bit_generator.state = training["shuffling"]
    solver.model.rng.bit_generator.state = training["dropout"]
    solver.model.params = checkpoint.params
    solver.engine.configs = checkpoint.optimizer


def _fault_of_state(solver: CaptioningSolver, checkpoint: Checkpoint) -> str | None:
    """What is missing for going on bit for bit, or None."""
    training, select = checkpoint.training, solver.best.select
    for name in ("loss_history", "shuffling", "dropout"):
        if name not in training:
            return f"no {name}"
    epochs = [row["epoch"] for row in training["history"]]
    if epochs != list(range(1, training.get("epoch", 0) + 1)):
        return f"epoch {training.get('epoch')}, and a history of {len(epochs)} rows"
    if any(row.get(select) is None for row in training["history"]):
        return f"no {select} of an epoch, by which the best one is chosen"
    # What a rule remembers after a step; a rule that forgot it would go on with another step.
    config = numbers_of(solver.engine.update_rule, {})
    _, config = RULES[solver.engine.update_rule](np.zeros(1), np.zeros(1), config)
    for parameter in solver.engine.configs if epochs else ():
        if missing := config.keys() - checkpoint.optimizer.get(parameter, {}).keys():
            return f"no {min(missing)} of {parameter} in its optimizer"
    return None
