"""How a training says how far it is: a bar on a terminal, elsewhere a few lines."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_LINES_PER_RUN = 20  # printed where there is no terminal to draw a bar on


class TrainingProgress:
    """Shows what a ``CaptioningSolver`` does, unless it is not ``verbose``; a context."""

    def __init__(self, solver):
        steps = solver.source.steps(solver.batch_size)
        self.solver, self.started, self.epochs_before = solver, time.monotonic(), solver.epoch
        self.on_terminal = solver.verbose and sys.stderr.isatty()
        self.bar = tqdm(
            total=steps * solver.num_epochs,
            initial=steps * solver.epoch,
            desc="training",
            unit="step",
            disable=not self.on_terminal,
        )

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def step(self, loss: float, tokens_per_second: float) -> None:
        """After a step: the figures of its epoch so far."""
        self.bar.update()
        if len(self.solver.loss_history) % self.solver.print_every == 0:
            self.bar.set_postfix_str(
                f"epoch {self.solver.epoch + 1}, loss {loss:.3f} nats per token, "
                f"{tokens_per_second:,.0f} tokens/s"
            )

    def epoch(self) -> None:
        """After an epoch: a line on it, or nothing, so that no run prints more than some lines."""
        solver, row = self.solver, self.solver.history[-1]
        number, epochs = solver.epoch, solver.num_epochs
        told = solver.is_done or number == 1 or number % max(1, epochs // _LINES_PER_RUN) == 0
        if not (solver.verbose and told):
            return
        parts = [f"epoch {number:>3} of {epochs}"]
        for split in ("train", "val"):
            if row[f"{split}_loss"] is not None:
                loss, perplexity = row[f"{split}_loss"], row[f"{split}_perplexity"]
                more = f"perplexity {perplexity:,.2f}" if perplexity is not None else solver.loss_is
                parts.append(f"{split} {loss:.4f} nats per token ({more})")
        trained, held_out = (len(solver.data.get(f"{s}_captions", ())) for s in ("train", "val"))
        if held_out > trained:  # see CaptioningSolver.evaluate
            parts[-1] += f" on {trained:,} of {held_out:,} captions"
        if solver.best.scores is not None:
            of = getattr(solver.best.scores, "scored", "")
            parts.append(f"{solver.best.select} {row[solver.best.select]:.2f}{of and f' on {of}'}")
        parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
        if not (self.on_terminal or solver.is_done):
            of_an_epoch = (time.monotonic() - self.started) / (number - self.epochs_before)
            parts.append(f"{of_an_epoch * (epochs - number):,.0f} s left")
        tqdm.write(", ".join(parts), file=sys.stdout)
        sys.stdout.flush()
