"""Drawings of ideas: boxes, arrows and shaded cells in one style, for every lesson.

Sizes are inches, and letters are large against them: a drawing is read on a phone, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch, Rectangle

from core.show.plots import BLUE, GREY, ORANGE

SIZE = 12  # points of a letter
_LINE = 1.3  # points of a border or an arrow
# kind -> border, filling, how round (inches), line style
_BOXES = {
    "value": (BLUE, "#EAF2F8", 0.02, "-"),
    "op": (GREY, "white", 0.14, "-"),
    "given": (GREY, "#EEEEEE", 0.02, "-"),
    "gradient": (ORANGE, "#FDF0E6", 0.02, "-"),
    "wrong": (ORANGE, "white", 0.02, "--"),
}
_ARROWS = {
    "value": (BLUE, "-"),
    "gradient": (ORANGE, "-"),
    "grey": (GREY, "-"),
    "wrong": (ORANGE, "--"),
}


class Box(NamedTuple):
    """A box of a drawing: its centre and its size, in inches."""

    x: float
    y: float
    width: float
    height: float

    def edge(self, towards: tuple[float, float]) -> tuple[float, float]:
        """Where the line from the centre to a point leaves the box."""
        dx, dy = towards[0] - self.x, towards[1] - self.y
        share = max(2 * abs(dx) / self.width, 2 * abs(dy) / self.height)
        return (self.x + dx / share, self.y + dy / share) if share else (self.x, self.y)


class Sketch:
    """A drawing of ``width`` by ``height`` inches; (0, 0) is its lower left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = plt.figure(figsize=(width, height))
        self.figure.set_layout_engine("none")  # what is drawn stays where it was put
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")

    def box(
        self,
        x: float,
        y: float,
        text: str,
        kind: str = "value",
        width: float = 0.9,
        height: float = 0.42,
        size: float = SIZE,
    ) -> Box:
        """Draws a box around (x, y) with a text in it; returns it, for arrows.

        ``kind`` is 'value', 'op' (round), 'given' (grey), 'gradient' (orange) or 'wrong' (dashed).
        """
        border, filling, rounding, line = _BOXES[kind]
        self.axes.add_patch(
            FancyBboxPatch(
                (x - width / 2 + rounding, y - height / 2 + rounding),
                width - 2 * rounding, height - 2 * rounding,
                boxstyle=f"round,pad={rounding}", edgecolor=border, facecolor=filling,
                linewidth=_LINE, linestyle=line, zorder=2,
            )
        )  # fmt: skip
        self.text(x, y, text, size=size)
        return Box(x, y, width, height)

    def arrow(
        self,
        start: Box | tuple[float, float],
        end: Box | tuple[float, float],
        text: str = "",
        kind: str = "value",
        bend: float = 0.0,
    ) -> None:
        """Draws an arrow between boxes or points, with a text beside its middle.

        ``kind`` is 'value', 'gradient', 'grey' or 'wrong' (dashed); ``bend`` is how far the arrow
        leaves the straight line to its right, as a share of its length.
        """
        colour, line = _ARROWS[kind]
        from_, to = (end_[:2] for end_ in (start, end))
        tail = start.edge(to) if isinstance(start, Box) else start
        tip = end.edge(from_) if isinstance(end, Box) else end
        self.axes.annotate(
            "", tip, tail, zorder=1,
            arrowprops={
                "arrowstyle": "-|>", "color": colour, "linewidth": _LINE, "linestyle": line,
                "shrinkA": 0, "shrinkB": 1, "connectionstyle": f"arc3,rad={bend}",
            },
        )  # fmt: skip
        if text:
            way = np.subtract(tip, tail)
            # An arc's middle is half its bend away from the line; the text clears it.
            right = np.array((way[1], -way[0]))
            length = np.linalg.norm(right) or 1.0
            side = np.sign(bend) or (-1.0 if way[0] >= 0 else 1.0)
            middle = np.add(tail, tip) / 2 + right * bend / 2 + right / length * side * 0.15
            self.text(*middle, text, colour=colour, size=SIZE - 1)

    def text(
        self, x: float, y: float, text: str, colour: str = "black", size: float = SIZE
    ) -> None:
        """Writes a text around (x, y)."""
        self.axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=size, zorder=3)

    def cells(
        self,
        x: float,
        y: float,
        values: Sequence | np.ndarray,
        size: float = 0.3,
        labels: Sequence | None = None,
    ) -> Box:
        """Draws numbers from 0 to 1 as shaded cells around (x, y): a mask, weights, a vector.

        Inputs:
        - values: a row, or rows from top to bottom; 0 is white, 1 dark blue
        - size: of a cell, in inches
        - labels: texts of the same shape, written into the cells

        Returns the box around them.
        """
        values = np.atleast_2d(np.asarray(values, dtype=float))
        rows, columns = values.shape
        texts = np.full(values.shape, "") if labels is None else np.atleast_2d(labels)
        left, top = x - columns * size / 2, y + rows * size / 2
        for (row, column), value in np.ndenumerate(values):
            corner = left + column * size, top - (row + 1) * size
            shade = plt.get_cmap("Blues")(0.8 * float(np.clip(value, 0, 1)))
            self.axes.add_patch(
                Rectangle(corner, size, size, facecolor=shade, edgecolor=GREY, zorder=2)
            )
            if texts[row, column] != "":
                colour = "white" if value > 0.6 else "black"
                centre = corner[0] + size / 2, corner[1] + size / 2
                self.text(*centre, str(texts[row, column]), colour, min(SIZE, 36 * size))
        return Box(x, y, columns * size, rows * size)

    def show(self) -> None:
        """Shows the drawing."""
        plt.show()
