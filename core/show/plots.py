"""Pictures of a run, written to PNG files: loss curves, photos with captions, attention maps."""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # without pyplot: no screen is needed, no global state kept
from PIL import Image

from core.support.files import atomic_file

Array = np.ndarray

# Words that come from data: "$" is a dollar in them, and begins no mathematics.
_AS_IT_IS = {"parse_math": False}
# Okabe and Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", GREY, "#000000")


def plot_losses(history: Sequence[dict], path: str | Path) -> None:
    """Training and validation loss by epoch; the best epoch is marked.

    Of self-critical training the curves are CIDEr-D: its training loss is weighted by the reward.

    Inputs:
    - history: rows of ``CaptioningSolver.history``
    - path: of the PNG file
    """
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    marker = "o" if len(epochs) < 30 else None
    names, best_of, what = ("train_loss", "val_loss"), np.argmin, "loss (nats per token)"
    if "reward" in history[-1]:
        names, best_of = ("train_CIDEr-D", "CIDEr-D"), np.argmax
        what = "CIDEr-D of its own captions"
    for name, label, colour in zip(names, ("training", "validation"), (BLUE, ORANGE), strict=True):
        values = [row.get(name) for row in history]
        if None in values:
            continue
        axes.plot(epochs, values, color=colour, marker=marker, markersize=4, label=label)
        best = int(best_of(values))
        axes.annotate(
            f"{values[best]:.3f}",
            (epochs[best], values[best]),
            xytext=(0, 6),
            textcoords="offset points",
            ha="right" if best >= len(epochs) / 2 else "left",
            color=colour,
        )
    axes.set(xlabel="epoch", ylabel=what, ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(figure, path)


def plot_runs(runs: Mapping[str, Sequence[dict]], path: str | Path) -> None:
    """Validation loss and, where they were taken, the scores by epoch, of several runs.

    Inputs:
    - runs: for each run its rows of ``CaptioningSolver.history``; those without any are left out
    - path: of the PNG file
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    for axes, (column, label) in zip(
        figure.subplots(1, 3),
        (
            ("val_loss", "validation loss (nats per token)"),
            ("BLEU-4", "BLEU-4 while training"),
            ("CIDEr-D", "CIDEr-D while training"),
        ),
        strict=True,
    ):
        for i, (name, rows) in enumerate(runs.items()):
            points = [(row["epoch"], row[column]) for row in rows if column in row]
            if points:
                colour, marker = COLOURS[i % len(COLOURS)], "osv^D"[i % 5]
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, ms=4, label=name)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(
        *axes.get_legend_handles_labels(), loc="outside right center", frameon=False
    )
    for text in legend.get_texts():
        text.set(**_AS_IT_IS)
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
    texts = [
        (_wrap(caption), _wrap(f"({written[0]})") if written and caption not in written else "")
        for caption, written in zip(captions, references, strict=True)
    ]
    lines = [caption.count("\n") + reference.count("\n") + 3 for caption, reference in texts]
    picture_height, line_height = 2.7, 0.17  # inches
    heights = []
    for start in range(0, len(pictures), columns):
        heights += [picture_height, line_height * max(lines[start : start + columns])]
    figure = Figure(figsize=(picture_height * columns, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for axis in axes.flat:
        axis.axis("off")
    for i, (picture, (caption, reference)) in enumerate(zip(pictures, texts, strict=True)):
        above, below = axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        if picture is not None:
            above.imshow(picture)
        else:
            above.text(0.5, 0.5, "picture not\non this machine", ha="center", color=GREY)
        text = {"ha": "center", "va": "top", "fontsize": 9, "linespacing": 1.1, **_AS_IT_IS}
        below.text(0.5, 1, caption, **text)
        below.text(0.5, 1, "\n" * (caption.count("\n") + 1) + reference, color=GREY, **text)
    _save(figure, path)


def plot_attention(
    pictures: Sequence[Array],
    words: Sequence[Sequence[str]],
    maps: Sequence[Array],
    labels: Sequence[str],
    path: str | Path,
) -> None:
    """A row for each picture: for each word of its caption the picture, bright where it was looked.

    Lightness alone shows the map, so that colours stay those of the picture. The brightest point of
    each is its largest weight, given below the word: a map that is even everywhere is bright
    everywhere.

    Inputs:
    - pictures: (h, w, 3) uint8 arrays, square
    - words: for each picture, its words
    - maps: for each picture, (words, L) weights over a square grid, in reading order
    - labels: what to write at the left of each row; may be empty
    - path: of the file

    Raises ValueError when L is no square of at least 4.
    """
    columns = 1 + max(map(len, words))
    width, height, gap = 1.3, 1.7, 0.08  # inches of a picture with its word above, and between
    figure = Figure(figsize=(width * columns, height * len(pictures)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")

    def place(row: int, column: int, picture: Array, above: str, small: str) -> None:
        left, bottom = column * width + gap / 2, (len(pictures) - 1 - row) * height + gap / 2
        side = width - gap
        axes.imshow(picture, extent=(left, left + side, bottom, bottom + side), aspect="auto")
        text = {"ha": "center", "va": "baseline", **_AS_IT_IS}
        axes.text(left + side / 2, bottom + side + 0.2, above, fontsize=9, **text)
        axes.text(left + side / 2, bottom + side + 0.05, small, fontsize=7, color=GREY, **text)

    for row, picture in enumerate(pictures):
        place(row, 0, picture, "", labels[row])
        for t, (word, weights) in enumerate(zip(words[row], maps[row], strict=True)):
            light = upsample(weights, len(picture))[:, :, None]
            seen = (picture * (0.15 + 0.85 * light)).astype(np.uint8)
            place(row, 1 + t, seen, word, f"{weights.max():.2f}")
    axes.set(xlim=(0, width * columns), ylim=(0, height * len(pictures)))  # imshow changes them
    _save(figure, path)


def upsample(weights: Array, size: int) -> Array:
    """(L,) weights of a square grid -> (size, size), smooth, with 1 as the largest."""
    side = round(len(weights) ** 0.5)
    if side**2 != len(weights) or side < 2:
        raise ValueError(
            f"attention over {len(weights)} locations cannot be drawn, expected a square grid; "
            "use a model that was trained on grid features"
        )
    cells = Image.fromarray(weights.reshape(side, side).astype(np.float32))
    smooth = np.asarray(cells.resize((size, size), Image.Resampling.BILINEAR))
    return smooth / smooth.max()


def _wrap(text: str) -> str:
    return textwrap.fill(text, 30) or "(no words)"


def _save(figure: Figure, path: str | Path) -> None:
    """Raises ValueError, with the name of the file, for what matplotlib cannot draw.

    Letters that its fonts lack are drawn as boxes; a warning says how many there are.
    """
    with atomic_file(path) as temporary, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            figure.savefig(temporary, dpi=120)
        except (ValueError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
            raise ValueError(
                f"{path}: the figure could not be drawn ({reason}); take fewer images"
            ) from error
    lacking = {}
    for warning in caught:
        text = str(warning.message)
        if glyph := re.match(r"Glyph (\d+) .* missing from font", text):
            lacking[chr(int(glyph[1]))] = None
        else:
            warnings.warn(text, warning.category, stacklevel=3)
    if lacking:
        warnings.warn(
            f"{path}: {len(lacking)} letters that the font has not ({''.join(lacking)[:20]}) are "
            "boxes; name a font that has them in a file matplotlibrc, for instance: "
            "font.family: DejaVu Sans, Noto Sans CJK SC",
            stacklevel=3,
        )
