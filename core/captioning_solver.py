"""Trains a captioning model: minibatches, update rule, validation, checkpoints.

The solver asks a model for ``params``, ``rng`` and ``null``, and an engine for losses and steps:
``NumpyEngine`` here, ``core.torch_models.TorchEngine`` for the twins. It knows nothing else of
either.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core import optim
from core.checkpoint import Checkpoint, save_checkpoint
from core.coco_utils import minibatches
from core.support.files import write_text

_EVALUATION_BATCH = 256
LOSSES = ("val_loss", "train_loss")
_LINES_PER_RUN = 20  # printed where there is no terminal to draw a progress bar on
_SECONDS_BETWEEN_PICTURES = 60
_STEPS_BETWEEN_AVERAGES = 20  # parameters move little in so many steps; copying them takes time


class NumpyEngine:
    """One step of training with hand-written gradients.

    Inputs:
    - model: a model of ``core.models``
    - update_rule, optim_config, clip_norm: as for ``CaptioningSolver``

    ``configs`` holds, for each parameter, the config of its update rule: its numbers, and what it
    remembers. It goes into the checkpoints, and may be assigned, which copies the arrays: both they
    and the model's parameters are written into by ``update``.
    """

    def __init__(self, model, update_rule: str, optim_config: Mapping, clip_norm: float | None):
        self.model, self.rule, self.clip_norm = model, update_rule, clip_norm
        self.configs = {name: optim_config for name in model.params}
        self._own: dict[str, np.ndarray] = {}  # the parameters that were put there by ``update``
        self.base_rate = optim.numbers_of(update_rule, optim_config)["learning_rate"]

    def compute(
        self, features: np.ndarray, captions: np.ndarray, weights: np.ndarray | None = None
    ) -> float:
        """The loss of a batch; keeps its gradients for ``update``."""
        loss, self.grads = self.model.loss(features, captions, weights)
        return float(loss)

    def evaluate(self, features: np.ndarray, captions: np.ndarray) -> float:
        """The cross-entropy of a batch, without dropout and gradients."""
        return float(self.model.evaluate(features, captions))

    def update(self) -> None:
        """Clips the gradients and moves the parameters."""
        scale = 1.0
        if self.clip_norm is not None:
            scale, _ = optim.clip_factor(self.grads, self.clip_norm)
        params = self.model.params
        for name, parameter in params.items():
            if parameter is not self._own.get(name):  # put there by someone who may still need it
                params[name] = self._own[name] = parameter.copy(order="C")
        optim.update_in_place(self.rule, params, self.grads, self.configs, scale)

    @property
    def configs(self) -> dict[str, dict]:
        return self._configs

    @configs.setter
    def configs(self, configs: Mapping[str, Mapping]) -> None:
        def own(value):
            return value.copy(order="C") if isinstance(value, np.ndarray) else value

        self._configs = {
            name: {key: own(value) for key, value in config.items()}
            for name, config in configs.items()
        }

    @property
    def learning_rate(self) -> float:
        return next(iter(self.configs.values()))["learning_rate"]

    def set_learning_rate(self, factor: float) -> None:
        """That part of the learning rate that it was built with."""
        for config in self.configs.values():
            config["learning_rate"] = factor * self.base_rate


class CaptioningSolver:
    """Trains a model on a data dict; ``train()`` does the work.

    Inputs:
    - model: a captioning model
    - data: from ``load_coco_data``; at least the training split
    - update_rule: a name in ``core.optim.RULES``
    - optim_config: numbers of the update rule, e.g. ``{'learning_rate': 1e-3}``
    - schedule: how the learning rate falls: 'decay', by a factor after each epoch, or 'cosine',
      along half a wave to 0 at the end of ``num_epochs`` (Loshchilov and Hutter, ICLR 2017)
    - lr_decay: the factor
    - warmup: steps in which the learning rate rises from 0 first
    - batch_size: captions in a batch
    - num_epochs: passes over all training captions, each caption once a pass, shuffled
    - clip_norm: largest norm of all gradients together; None does not clip
    - average: what is validated, and kept as the best, is a running mean of the parameters, which
      every 20 steps holds on to this share of itself (after Polyak and Juditsky 1992, with a past
      that fades); 0: the parameters themselves
    - patience: stop after this many epochs without a better score; None never stops early
    - select: what makes an epoch the best one: 'val_loss' or 'train_loss', the lowest, or the name
      of one of ``scores``, the highest. Without a validation split always 'train_loss'.
    - verbose: show a progress bar, or a few lines where there is no terminal
    - print_every: steps between updates of the figures beside the bar
    - rng: shuffles; ``default_rng(0)`` when None
    - run_folder: where checkpoints, ``metrics.jsonl`` and ``loss.png`` go; None writes nothing
    - checkpoint: what the checkpoints say besides the training (model, vocabulary, extractor, ...);
      needed with run_folder
    - bucketed: whether captions of much the same length come in one batch
    - workers: threads that read batches ahead; 0: none
    - scores: called with the model after each epoch; what it returns, numbers by name, higher for
      better (a metric on free-running captions), goes into the row of the epoch
    - objective: makes the batches out of what the model says (``core.recipes.self_critical``),
      instead of the training captions
    - engine: (model, update_rule, optim_config, clip_norm) -> what takes the steps

    After and during training:
    - loss_history: the loss of each step, as ``model.loss`` returns it (nats a caption)
    - history: a row for each epoch: epoch, train_loss (what is minimised, a penalty included) and
      val_loss (cross-entropy alone) in nats a token, their perplexities, learning_rate,
      tokens_per_second, seconds
    - epoch: number of epochs done

    Raises ValueError for an unknown update rule or score and for numbers out of range.
    """

    def __init__(
        self,
        model,
        data: Mapping,
        *,
        update_rule: str = "adam",
        optim_config: Mapping | None = None,
        schedule: str = "decay",
        lr_decay: float = 1.0,
        warmup: int = 0,
        batch_size: int = 100,
        num_epochs: int = 10,
        clip_norm: float | None = None,
        average: float = 0.0,
        patience: int | None = None,
        select: str = "val_loss",
        verbose: bool = True,
        print_every: int = 10,
        rng: np.random.Generator | None = None,
        run_folder: str | Path | None = None,
        checkpoint: Checkpoint | None = None,
        bucketed: bool = False,
        workers: int = 0,
        scores: Callable[[object], Mapping[str, float]] | None = None,
        objective=None,
        engine: Callable = NumpyEngine,
    ):
        if update_rule not in optim.RULES:
            expected = ", ".join(optim.RULES)
            raise ValueError(f"update_rule: found {update_rule!r}, expected one of {expected}")
        if min(batch_size, num_epochs, 1 if patience is None else patience) < 1:
            raise ValueError(
                f"batch_size, num_epochs, patience: found {batch_size}, {num_epochs}, {patience}, "
                "expected at least 1"
            )
        self.model, self.data = model, data
        self.engine = engine(model, update_rule, optim_config or {}, clip_norm)
        if schedule not in ("decay", "cosine"):
            raise ValueError(f"schedule: found {schedule!r}, expected 'decay' or 'cosine'")
        self.schedule, self.lr_decay, self.warmup = schedule, lr_decay, warmup
        self.batch_size, self.num_epochs = batch_size, num_epochs
        self.patience = patience
        self.average, self.averaged = average, {}
        if scores is None and select not in LOSSES:
            raise ValueError(f"select: found {select!r}, expected {' or '.join(LOSSES)}")
        self.select = select if "val_captions" in data else "train_loss"
        self.scores, self.workers, self.bucketed = scores, workers, bucketed
        self.objective = objective
        self.verbose, self.print_every = verbose, max(1, print_every)
        self.rng = rng if rng is not None else np.random.default_rng(0)
        self.run_folder = None if run_folder is None else Path(run_folder)
        self.checkpoint = checkpoint

        self.epoch = 0
        self.loss_history: list[float] = []
        self.history: list[dict] = []

    # -- training -----------------------------------------------------------------------------

    def train(self) -> list[dict]:
        """Trains up to ``num_epochs`` epochs in all; returns ``history``.

        Raises ValueError when the loss stops being a number.
        """
        steps = self._steps_per_epoch
        on_terminal = self.verbose and sys.stderr.isatty()
        bar = tqdm(
            total=steps * self.num_epochs,
            initial=steps * self.epoch,
            desc="training",
            unit="step",
            disable=not on_terminal,
        )
        started, epochs_before = time.monotonic(), self.epoch
        drawn = started
        # A loss that overflows ends the run with an error of its own, without NumPy's warnings.
        with bar, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            while self.epoch < self.num_epochs and not self._out_of_patience():
                row = self._train_epoch(bar)
                with self._as_kept():
                    if "val_captions" in self.data:
                        row["val_loss"] = self.evaluate("val")
                        row["val_perplexity"] = _perplexity(row["val_loss"])
                    if self.scores is not None:
                        row |= self._scored()
                    if self.objective is not None:
                        row["reward"] = self.objective.reward
                    self.epoch += 1
                    self.history.append(row)
                    self._save_best()
                self._save()
                last = self.epoch == self.num_epochs or self._out_of_patience()
                if self.verbose:
                    seconds = time.monotonic() - started
                    left = seconds / (self.epoch - epochs_before) * (self.num_epochs - self.epoch)
                    self._report(row, left, on_terminal, last)
                if time.monotonic() - drawn > _SECONDS_BETWEEN_PICTURES:
                    self._draw()
                    drawn = time.monotonic()
        self._draw()
        return self.history

    def _train_epoch(self, bar: tqdm) -> dict:
        """One pass over the training captions; returns the epoch's row of ``history``."""
        started = time.perf_counter()
        total_loss, total_tokens = 0.0, 0
        for captions, features, *weights in self._batches():
            loss = self._step(features, captions, *weights)
            total_loss += loss * len(captions)
            total_tokens += self._count_tokens(captions)
            bar.update()
            if len(self.loss_history) % self.print_every == 0:
                rate = total_tokens / (time.perf_counter() - started)
                bar.set_postfix_str(
                    f"epoch {self.epoch + 1}, loss {total_loss / total_tokens:.3f} nats a token, "
                    f"{rate:,.0f} tokens/s"
                )
        seconds = time.perf_counter() - started
        train_loss = total_loss / max(1, total_tokens)
        return {
            "epoch": self.epoch + 1,
            "train_loss": train_loss,
            "train_perplexity": _perplexity(train_loss),
            "val_loss": None,
            "val_perplexity": None,
            "learning_rate": self.engine.learning_rate,
            "tokens_per_second": total_tokens / seconds,
            "seconds": seconds,
        }

    def _batches(self) -> Iterator[tuple]:
        """Captions, features and, by some objectives, weights."""
        if self.objective is not None:
            return self.objective.batches(self.model, self.batch_size, self.rng)
        return minibatches(
            self.data,
            "train",
            self.batch_size,
            self.model.null,
            self.rng,
            bucketed=self.bucketed,
            workers=self.workers,
        )

    def _step(
        self, features: np.ndarray, captions: np.ndarray, weights: np.ndarray | None = None
    ) -> float:
        """Loss, gradients, clipping, update."""
        self.engine.set_learning_rate(self._part_of_learning_rate())
        loss = self._finite(self.engine.compute(features, captions, weights))
        self.engine.update()
        self.loss_history.append(loss)
        if self.average and len(self.loss_history) % _STEPS_BETWEEN_AVERAGES == 0:
            self._add_to_average()
        return loss

    def _add_to_average(self) -> None:
        """The first means reach back less far: there is no past yet."""
        number = len(self.loss_history) // _STEPS_BETWEEN_AVERAGES
        keep = min(self.average, number / (number + 10))
        for name, parameter in self.model.params.items():
            mean = self.averaged.get(name, parameter)
            self.averaged[name] = keep * mean + (1 - keep) * parameter

    @contextmanager
    def _as_kept(self) -> Iterator[None]:
        """The model with the mean of its parameters, if there is one, for the time of the block."""
        if not self.averaged:
            yield
            return
        own = dict(self.model.params)
        self.model.params = own | self.averaged
        try:
            yield
        finally:
            self.model.params = own

    def _part_of_learning_rate(self) -> float:
        """Of the next step, by the schedule."""
        steps = len(self.loss_history)
        warm = min(1.0, (steps + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "decay":
            return warm * self.lr_decay**self.epoch
        total = self._steps_per_epoch * self.num_epochs
        return warm * (1 + math.cos(math.pi * steps / total)) / 2

    @property
    def _steps_per_epoch(self) -> int:
        if self.objective is not None:
            return self.objective.steps(self.batch_size)
        return math.ceil(len(self.data["train_captions"]) / self.batch_size)

    def evaluate(self, split: str) -> float:
        """The loss of a split in nats a token, without dropout.

        On at most as many captions as are trained on, so that looking costs no more than training.
        """
        total_loss, total_tokens, most = 0.0, 0, len(self.data["train_captions"])
        for captions, features in minibatches(
            self.data, split, _EVALUATION_BATCH, self.model.null, most=most, workers=self.workers
        ):
            total_loss += self._finite(self.engine.evaluate(features, captions)) * len(captions)
            total_tokens += self._count_tokens(captions)
        return total_loss / max(1, total_tokens)

    def _scored(self) -> dict[str, float]:
        scores = dict(self.scores(self.model))
        if self.select not in (*LOSSES, *scores):
            raise ValueError(
                f"select: found {self.select!r}, expected one of {', '.join((*LOSSES, *scores))}"
            )
        return scores

    def _finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss is {loss} after {len(self.loss_history)} steps; "
                "lower learning_rate or set clip_norm, then start again"
            )
        return float(loss)

    def _count_tokens(self, captions: np.ndarray) -> int:
        """Words that are scored: all but the first column, without <NULL>."""
        return int(np.count_nonzero(captions[:, 1:] != self.model.null))

    # -- the best epoch -----------------------------------------------------------------------

    @property
    def best_epoch(self) -> int:
        """The epoch with the best score so far; 0 before the first."""
        scores = [row[self.select] for row in self.history]
        best = np.argmin if self.select in LOSSES else np.argmax
        return int(best(scores)) + 1 if scores else 0

    def _out_of_patience(self) -> bool:
        return self.patience is not None and self.epoch - self.best_epoch >= self.patience

    # -- files --------------------------------------------------------------------------------

    def _save_best(self) -> None:
        """best.npz, when this epoch is the best.

        Before last.npz and metrics.jsonl: a run that is killed in between resumes from the epoch
        before, and writes the same files again.
        """
        if self.run_folder is not None and self.best_epoch == self.epoch:
            training = {"epoch": self.epoch}
            best = replace(self.checkpoint, params=self.model.params, training=training)
            save_checkpoint(self.run_folder / "best.npz", best)

    def _save(self) -> None:
        """last.npz, then metrics.jsonl."""
        if self.run_folder is None:
            return
        optimizer = {name: dict(config) for name, config in self.engine.configs.items()}
        for name in optimizer.keys() & self.averaged.keys():
            optimizer[name]["average"] = self.averaged[name]
        last = replace(
            self.checkpoint,
            params=self.model.params,
            optimizer=optimizer,
            training={
                "epoch": self.epoch,
                "history": self.history,
                "loss_history": self.loss_history,
                "shuffling": self.rng.bit_generator.state,
                "dropout": self.model.rng.bit_generator.state,
            },
        )
        save_checkpoint(self.run_folder / "last.npz", last)
        self.write_metrics()

    def write_metrics(self) -> None:
        """metrics.jsonl from ``history``: a row an epoch."""
        rows = "".join(json.dumps(row) + "\n" for row in self.history)
        write_text(self.run_folder / "metrics.jsonl", rows)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to where ``last.npz`` was written; ``train()`` then continues bit for bit.

        Raises ValueError when the checkpoint holds no training state, as ``best.npz`` does.
        """
        training = checkpoint.training
        if "history" not in training:
            raise ValueError("the checkpoint holds no training state; resume from last.npz")
        self.epoch = training["epoch"]
        self.history = training["history"]
        self.loss_history = training["loss_history"]
        self.rng.bit_generator.state = training["shuffling"]
        self.model.rng.bit_generator.state = training["dropout"]
        self.model.params = checkpoint.params
        configs = {name: dict(config) for name, config in checkpoint.optimizer.items()}
        averaged = {name: config.pop("average", None) for name, config in configs.items()}
        self.averaged = {name: mean for name, mean in averaged.items() if mean is not None}
        self.engine.configs = configs

    def _draw(self) -> None:
        if self.run_folder is not None and self.history:
            from core.show.plots import plot_losses

            plot_losses(self.history, self.run_folder / "loss.png")

    def _report(self, row: dict, seconds_left: float, on_terminal: bool, last: bool) -> None:
        every = max(1, self.num_epochs // _LINES_PER_RUN)
        if not (last or self.epoch == 1 or self.epoch % every == 0):
            return
        parts = [f"epoch {self.epoch:>3} of {self.num_epochs}"]
        for split in ("train", "val"):
            if row[f"{split}_loss"] is not None:
                loss, perplexity = row[f"{split}_loss"], row[f"{split}_perplexity"]
                parts.append(f"{split} {loss:.4f} nats a token (perplexity {perplexity:,.2f})")
        if self.scores is not None:
            parts.append(f"{self.select} {row[self.select]:.2f}")
        parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
        if not on_terminal and not last:
            parts.append(f"{seconds_left:,.0f} s left")
        tqdm.write(", ".join(parts), file=sys.stdout)
        sys.stdout.flush()


def _perplexity(loss: float) -> float:
    """exp(loss): among how many equally likely words the model hesitates."""
    return math.exp(min(loss, 700))  # exp(710) overflows
