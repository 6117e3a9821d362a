"""Pictures of a run, written to PNG files: loss curves, photos with their captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # without pyplot: no screen is needed, no global state kept

from core.files import atomic_file

Array = np.ndarray

# Okabe and Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"


def plot_losses(history: Sequence[dict], path: str | Path) -> None:
    """Training and validation loss by epoch; the best epoch is marked.

    Inputs:
    - history: rows of ``CaptioningSolver.history``
    - path: of the PNG file
    """
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    marker = "o" if len(epochs) < 30 else None
    for name, colour in (("train", BLUE), ("val", ORANGE)):
        losses = [row[f"{name}_loss"] for row in history]
        if None in losses:
            continue
        label = {"train": "training", "val": "validation"}[name]
        axes.plot(epochs, losses, color=colour, marker=marker, markersize=4, label=label)
        best = int(np.argmin(losses))
        axes.annotate(
            f"{losses[best]:.3f}",
            (epochs[best], losses[best]),
            xytext=(0, 6),
            textcoords="offset points",
            ha="right" if best > len(epochs) / 2 else "left",
            color=colour,
        )
    axes.set(xlabel="epoch", ylabel="loss (nats a token)", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(figure, path)


def plot_captions(
    pictures: Sequence[Array | None],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    path: str | Path,
) -> None:
    """A grid of pictures, each over its caption and, in grey, one reference.

    Inputs:
    - pictures: (h, w, 3) uint8 arrays; None leaves the place empty
    - captions: one a picture
    - references: for each picture, the captions that people wrote; may be empty
    - path: of the PNG file
    """
    columns = min(5, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.7 * columns, 3.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, caption, written in zip(
        axes.flat, pictures, captions, references, strict=False
    ):
        if picture is not None:
            axis.imshow(picture)
        else:
            axis.text(0.5, 0.5, "picture not\non this machine", ha="center", color=GREY)
        axis.text(
            0.5, -0.04, _wrap(caption), transform=axis.transAxes, ha="center", va="top", fontsize=9
        )
        if written and caption not in written:
            lines = _wrap(caption).count("\n") + 1
            axis.text(
                0.5,
                -0.04 - 0.075 * lines,
                _wrap(f"({written[0]})"),
                transform=axis.transAxes,
                ha="center",
                va="top",
                fontsize=8,
                color=GREY,
            )
    _save(figure, path)


def _wrap(text: str) -> str:
    return textwrap.fill(text, 30) or "(no words)"


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
