"""Trains a captioning model: epochs, learning rate, clipping, validation, the best epoch.

Read ``CaptioningSolver.train`` first, then ``_train_epoch`` and ``_step``. The small classes before
it say how to step (the engine), how fast (``Schedule``), on what (``ShuffledCaptions``) and until
when (``BestEpoch``). The solver writes no files: what wants some is called after each epoch, as
``core/runs/saving.py`` is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from core import optim
from core.coco_utils import minibatches, null_of
from core.support.choices import SCHEDULES
from core.support.progress import TrainingProgress

Array = np.ndarray

EVALUATION_BATCH = 256
LOSSES = ("val_loss", "train_loss")


class NumpyEngine:
    """One step of training by the definitions: what ``--engine plain`` runs.

    ``--engine numpy`` takes ``core.fast.FastEngine``.

    Inputs:
    - model: a model of ``core.models``
    - update_rule, optim_config, clip_norm: as for ``CaptioningSolver``

    ``configs`` holds, for each parameter, the config of its update rule: its numbers, and what it
    remembers. It goes into checkpoints, and may be assigned.
    """

    def __init__(self, model, update_rule: str, optim_config: Mapping, clip_norm: float | None):
        self.model, self.update_rule, self.clip_norm = model, update_rule, clip_norm
        numbers = optim.numbers_of(update_rule, optim_config)
        self.configs = {name: dict(numbers) for name in model.params}
        self.base_rate = numbers["learning_rate"]

    def compute(self, features: Array, captions: Array, weights: Array | None = None) -> float:
        """The loss of a batch; keeps its gradients for ``update``."""
        given = () if weights is None else (weights,)  # CS231n's models know of none
        found = self.model.loss(features, captions, *given)
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)):
            raise ValueError("the model's loss(features, captions) returned no loss, grads")
        loss, self.grads = found
        for name, w in self.model.params.items():
            shape = np.shape(self.grads[name]) if name in self.grads else "none"
            if shape != w.shape:
                found = f"found {shape}, expected shape {w.shape}"
                raise ValueError(f"the model's gradient of {name}: {found}")
        return float(loss)

    def evaluate(self, features: Array, captions: Array) -> float:
        """The cross-entropy of a batch, without dropout and gradients."""
        evaluate = getattr(self.model, "evaluate", lambda *batch: self.model.loss(*batch)[0])
        return float(evaluate(features, captions))

    def update(self) -> None:
        """Clips the gradients and moves the parameters."""
        grads, params = self.grads, self.model.params
        if self.clip_norm is not None:
            grads, _ = optim.clip_gradient_norm(grads, self.clip_norm)
        rule = optim.RULES[self.update_rule]
        for name, w in params.items():
            params[name], self.configs[name] = rule(w, grads[name], self.configs[name])

    @property
    def learning_rate(self) -> float:
        return next(iter(self.configs.values()))["learning_rate"]

    def set_learning_rate(self, part: float) -> None:
        """That part of the learning rate that it was built with."""
        for config in self.configs.values():
            config["learning_rate"] = part * self.base_rate


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes from step to step.

    - name: 'decay', by the factor ``lr_decay`` after each epoch, or 'cosine', along half a wave to
      0, which it would reach one step after the last (Loshchilov and Hutter, ICLR 2017)
    - warmup: steps in which it rises from 0 first
    """

    name: str = "decay"
    lr_decay: float = 1.0
    warmup: int = 0

    def __post_init__(self):
        if self.name not in SCHEDULES:
            expected = " or ".join(map(repr, SCHEDULES))
            raise ValueError(f"schedule: found {self.name!r}, expected {expected}")

    def part(self, step: int, steps_per_epoch: int, num_epochs: int) -> float:
        """Of the rate that was asked for, what is left at a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.name == "decay":
            return warm * self.lr_decay ** (step // steps_per_epoch)
        return warm * (1 + math.cos(math.pi * step / (steps_per_epoch * num_epochs))) / 2


@dataclass(frozen=True)
class ShuffledCaptions:
    """A source of batches: every training caption once an epoch, shuffled.

    - data: from ``load_coco_data``
    - bucketed: captions of much the same length come in one batch
    - workers: threads that read batches ahead, those of the validation too; 0: none
    """

    data: Mapping
    bucketed: bool = False
    workers: int = 0

    def steps(self, batch_size: int) -> int:
        """How many batches there are in an epoch."""
        return math.ceil(len(self.data["train_captions"]) / batch_size)

    def batches(self, model, batch_size: int, rng: np.random.Generator) -> Iterator[tuple]:
        """An epoch of captions (N, T + 1) and features (N, ...); other sources add weights (N,)."""
        how = {"bucketed": self.bucketed, "workers": self.workers}
        return minibatches(self.data, "train", batch_size, null_of(model), rng, **how)

    def figures(self) -> dict[str, float]:
        """What a source has to say of the epoch, for its row in ``history``."""
        return {}


@dataclass(frozen=True)
class BestEpoch:
    """What makes an epoch the best one, and how long to wait for a better one.

    - select: 'val_loss' or 'train_loss', the lowest, or the name of one of ``scores``, the highest
    - scores: called with the model after each epoch; what it returns, numbers by name, higher for
      better (a metric on free-running captions), goes into the row of the epoch
    - patience: stop after this many epochs without a better one; None never stops early
    """

    select: str = "val_loss"
    scores: Callable[[object], Mapping[str, float]] | None = None
    patience: int | None = None

    def __post_init__(self):
        if self.scores is None and self.select not in LOSSES:
            raise ValueError(f"select: found {self.select!r}, expected {' or '.join(LOSSES)}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience: found {self.patience}, expected at least 1")

    def scores_of(self, model) -> dict[str, float]:
        """Raises ValueError when the score to select by is not among them."""
        scores = dict(self.scores(model)) if self.scores is not None else {}
        if self.select not in (known := (*LOSSES, *scores)):
            raise ValueError(f"select: found {self.select!r}, expected one of {', '.join(known)}")
        return scores

    def of(self, history: Sequence[Mapping]) -> int:
        """The best epoch, counted from 1; 0 before the first."""
        scores = [row[self.select] for row in history]
        best = np.argmin if self.select in LOSSES else np.argmax
        return int(best(scores)) + 1 if scores else 0


class CaptioningSolver:
    """Trains a model on a data dict; ``train()`` does the work.

    Inputs:
    - model: a captioning model; all that it needs are ``params`` and ``loss(features, captions)``.
      Without ``evaluate`` its validation is that loss too, with whatever dropout is in it.
    - data: from ``load_coco_data``; at least the training split
    - update_rule: a name in ``core.optim.RULES``
    - optim_config: numbers of the update rule, e.g. ``{'learning_rate': 1e-3}``
    - lr_decay: factor on the learning rate after each epoch
    - schedule: how the learning rate goes, when there is more to say of it than ``lr_decay``
    - batch_size: captions in a batch
    - num_epochs: passes over all training captions
    - clip_norm: largest norm of all gradients together; None does not clip
    - source: where batches come from; ``ShuffledCaptions(data)`` when None
    - best: what makes an epoch the best; without a validation split it is always 'train_loss'
    - after_epoch: called with the solver when an epoch is in ``history``
    - engine: (model, update_rule, optim_config, clip_norm) -> what takes the steps
    - rng: shuffles; ``default_rng(0)`` when None
    - verbose: show a progress bar, or a few lines where there is no terminal
    - print_every: steps between updates of the figures beside the bar

    After and during training:
    - loss_history: the loss of each step, as ``model.loss`` returns it (nats per caption)
    - history: a row for each epoch: epoch, train_loss (what is minimised) and val_loss
      (cross-entropy alone) in nats per token, their perplexities (None for a train_loss with
      weights, see ``more_than_cross_entropy``), learning_rate, tokens_per_second, seconds
    - epoch, best_epoch: number of epochs done, and which of them is the best so far

    Raises ValueError for an unknown update rule or score, for numbers out of range and for a split
    without captions.
    """

    def __init__(
        self,
        model,
        data: Mapping,
        *,
        update_rule: str = "adam",
        optim_config: Mapping | None = None,
        lr_decay: float = 1.0,
        schedule: Schedule | None = None,
        batch_size: int = 100,
        num_epochs: int = 10,
        clip_norm: float | None = None,
        source=None,
        best: BestEpoch | None = None,
        after_epoch: Callable[[CaptioningSolver], None] | None = None,
        engine: Callable = NumpyEngine,
        rng: np.random.Generator | None = None,
        verbose: bool = True,
        print_every: int = 10,
    ):
        if min(batch_size, num_epochs) < 1:
            raise ValueError(
                f"batch_size, num_epochs: found {batch_size}, {num_epochs}, expected at least 1"
            )
        for name in ("train_captions", "val_captions"):
            if name in data and len(data[name]) == 0:
                raise ValueError(f"{name}: holds none; leave the split out, or give it captions")
        if schedule is not None and lr_decay != 1:
            raise ValueError("lr_decay: is part of the schedule; give it there, or no schedule")
        self.model, self.data = model, data
        self.engine = engine(model, update_rule, optim_config or {}, clip_norm)
        self.schedule = schedule or Schedule(lr_decay=lr_decay)
        self.batch_size, self.num_epochs = batch_size, num_epochs
        self.source = source or ShuffledCaptions(data)
        self.best = best or BestEpoch()
        if "val_captions" not in data:
            self.best = replace(self.best, select="train_loss")
        self.after_epoch = after_epoch
        self.rng = rng if rng is not None else np.random.default_rng(0)
        self.verbose, self.print_every = verbose, max(1, print_every)
        self.loss_history: list[float] = []
        self.history: list[dict] = []
        self.loss_is = ""  # where it is more than the cross-entropy, what

    def train(self) -> list[dict]:
        """Trains up to ``num_epochs`` epochs in all; returns ``history``.

        Raises ValueError when the loss stops being a number.
        """
        # A loss that overflows ends the run with an error of its own, without NumPy's warnings.
        quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
        with TrainingProgress(self) as progress, quiet:
            while not self.is_done:
                self.history.append(self._train_epoch(progress) | self._validate())
                if self.after_epoch is not None:
                    self.after_epoch(self)
                progress.epoch()
        return self.history

    @property
    def epoch(self) -> int:
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        return self.best.of(self.history)

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done, or the last better one is too long ago."""
        patience = self.best.patience
        waited = patience is not None and self.epoch - self.best_epoch >= patience
        return waited or self.epoch >= self.num_epochs

    def _train_epoch(self, progress: TrainingProgress) -> dict:
        """One pass over the batches of an epoch; returns its row of ``history``."""
        started = time.perf_counter()
        total_loss, total_tokens, weights = 0.0, 0, []
        batches = self.source.batches(self.model, self.batch_size, self.rng)
        for captions, features, *weights in batches:
            loss = self._step(features, captions, *weights)
            total_loss += loss * len(captions)
            total_tokens += self._count_tokens(captions)
            seconds = time.perf_counter() - started
            progress.step(total_loss / max(1, total_tokens), total_tokens / seconds)
        seconds = time.perf_counter() - started
        self.loss_is = "weighted by the reward" if weights else more_than_cross_entropy(self.model)
        train_loss = _nats_a_token(total_loss, total_tokens, "train")
        return {
            "epoch": self.epoch + 1,
            "train_loss": train_loss,
            "train_perplexity": None if self.loss_is else _perplexity(train_loss),
            "learning_rate": self.engine.learning_rate,
            "tokens_per_second": total_tokens / seconds,
            "seconds": seconds,
        }

    def _step(self, features: Array, captions: Array, weights: Array | None = None) -> float:
        """Learning rate, loss, gradients, update."""
        steps_per_epoch = self.source.steps(self.batch_size)
        part = self.schedule.part(len(self.loss_history), steps_per_epoch, self.num_epochs)
        self.engine.set_learning_rate(part)
        loss = self._finite(self.engine.compute(features, captions, weights))
        self.engine.update()
        self.loss_history.append(loss)
        return loss

    def _validate(self) -> dict:
        """What is found out after an epoch, for its row."""
        losses = {"val_loss": None, "val_perplexity": None}
        if "val_captions" in self.data:
            loss = self.evaluate("val")
            losses = {"val_loss": loss, "val_perplexity": _perplexity(loss)}
        return losses | self.best.scores_of(self.model) | self.source.figures()

    def evaluate(self, split: str) -> float:
        """The loss of a split in nats per token, without dropout.

        On at most as many captions as are trained on, so that looking costs no more than training.
        """
        total_loss, total_tokens, most = 0.0, 0, len(self.data["train_captions"])
        how = {"most": most, "workers": self.source.workers}
        batches = minibatches(self.data, split, EVALUATION_BATCH, null_of(self.model), **how)
        for captions, features in batches:
            total_loss += self._finite(self.engine.evaluate(features, captions)) * len(captions)
            total_tokens += self._count_tokens(captions)
        return _nats_a_token(total_loss, total_tokens, split)

    def _finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss is {loss} after {len(self.loss_history)} steps; "
                "lower learning_rate or set clip_norm, then start again"
            )
        return loss

    def _count_tokens(self, captions: Array) -> int:
        """Words that are scored: all but the first column, without <NULL>."""
        return int(np.count_nonzero(captions[:, 1:] != null_of(self.model)))


def more_than_cross_entropy(model) -> str:
    """What makes a model's training loss another number than the cross-entropy; '' for nothing."""
    model = getattr(model, "decoder", model)  # of a model whose encoder learns, too
    if getattr(model, "label_smoothing", 0):
        return "with smoothed labels"
    return "with its penalty" if getattr(model, "double_stochastic", 0) else ""


def _nats_a_token(loss: float, tokens: int, split: str) -> float:
    if tokens == 0:
        raise ValueError(f"{split}_captions: hold no word to score, found only <NULL>")
    return loss / tokens


def _perplexity(loss: float) -> float:
    """exp(loss): among how many equally likely words the model hesitates."""
    return math.exp(min(loss, 700))  # exp(710) overflows
