"""Pictures of coloured shapes: what is in one, where it stands, and how it is drawn.

The pictures of the embedded data set; ``core/shapes.py`` describes them and makes the data folder.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

IMAGE_SIZE = 64

KINDS = ("circle", "square", "triangle")
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 90, 210),
    "yellow": (240, 210, 30),
    "purple": (130, 50, 170),
}
RADII = {"small": (6.0, 7.0), "large": (10.0, 11.5)}  # pixels, half the width of the box

_LEVEL = 4  # centres that differ by less, in pixels, stand level


@dataclass(frozen=True)
class Shape:
    """One shape of a picture; x to the right and y down, in pixels, from the top left corner."""

    kind: str
    colour: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in pixels."""
        x, y, r = self.x, self.y, self.radius
        return x - r, y - r, x + r, y + r

    @property
    def place(self) -> tuple[int, int]:
        """(row, column) of the centre, in the picture cut in three by three."""
        return int(self.y * 3 / IMAGE_SIZE), int(self.x * 3 / IMAGE_SIZE)


def relations(a: Shape, b: Shape) -> list[str]:
    """Where a is, seen from b: up to two of 'above', 'below', 'left', 'right'.

    Each says how the centres stand: above is higher up, however far to the side.
    """
    found = []
    if abs(a.y - b.y) > _LEVEL:
        found.append("above" if a.y < b.y else "below")
    if abs(a.x - b.x) > _LEVEL:
        found.append("left" if a.x < b.x else "right")
    return found


# ---------------------------------------------------------------------------------------------
# Drawing
# ---------------------------------------------------------------------------------------------


def draw_scene(rng: np.random.Generator) -> tuple[Shape, ...]:
    """One to three shapes that do not touch, differ in colour or kind, and stand clearly.

    Clearly: no centre within 2 pixels of a line between two places, and no two centres that differ
    by 2 to 6 pixels across or down. So each place and each relation is either true or false, for
    people too.
    """
    count = int(rng.choice((1, 2, 3), p=(0.35, 0.4, 0.25)))
    while True:
        shapes = tuple(_draw_shape(rng) for _ in range(count))
        if all(map(_placed_clearly, shapes)) and all(
            _apart(a, b) for a, b in itertools.combinations(shapes, 2)
        ):
            return shapes


def _draw_shape(rng: np.random.Generator) -> Shape:
    kind, colour, size = (_pick(rng, words) for words in (KINDS, COLOURS, RADII))
    radius = float(rng.uniform(*RADII[size]))
    x, y = rng.uniform(radius + 1, IMAGE_SIZE - radius - 1, size=2)
    return Shape(kind, colour, size, float(x), float(y), radius)


def _pick(rng: np.random.Generator, words: Iterable[str]) -> str:
    words = list(words)
    return words[rng.integers(len(words))]  # many times faster than rng.choice


def _placed_clearly(shape: Shape) -> bool:
    lines = IMAGE_SIZE / 3, IMAGE_SIZE * 2 / 3
    return all(abs(c - line) >= 2 for c in (shape.x, shape.y) for line in lines)


def _apart(a: Shape, b: Shape) -> bool:
    across, down = abs(a.x - b.x), abs(a.y - b.y)
    return (
        (a.kind, a.colour) != (b.kind, b.colour)
        and max(across, down) >= a.radius + b.radius + 2
        and all(abs(distance - _LEVEL) >= 2 for distance in (across, down))
    )


def silhouette(kind: str, u: Array, v: Array) -> Array:
    """Whether the points (u, v) lie in a shape whose box is -1 .. 1 both ways; u right, v down."""
    if kind == "circle":
        return u**2 + v**2 <= 1
    if kind == "square":
        return (abs(u) <= 0.9) & (abs(v) <= 0.9)
    return (v <= 0.9) & (2 * abs(u) <= v + 1)  # triangle


def render(shapes: Sequence[Shape], rng: np.random.Generator) -> Array:
    """The picture, (64, 64, 3) uint8: shapes on a light grey, both with a little noise.

    Edges are anti-aliased: each pixel is the mean of 4 x 4 points.
    """
    samples = 4
    points = (np.arange(IMAGE_SIZE * samples) + 0.5) / samples
    picture = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), rng.uniform(215, 240))
    for shape in shapes:
        # The pixels of its box, for it covers no others.
        left, top = (max(0, int(c - shape.radius)) for c in (shape.x, shape.y))
        right, bottom = (int(c + shape.radius) + 1 for c in (shape.x, shape.y))
        box = picture[top:bottom, left:right]
        u = (points[None, left * samples : right * samples] - shape.x) / shape.radius  # -1 .. 1
        v = (points[top * samples : bottom * samples, None] - shape.y) / shape.radius
        inside = silhouette(shape.kind, u, v)
        # The counts of points, first down and then across: sums of bytes, and exact.
        counts = inside.view(np.uint8).reshape(len(box), samples, -1).sum(axis=1, dtype=np.uint8)
        counts = counts.reshape(*box.shape[:2], samples).sum(axis=2, dtype=np.uint8)
        cover = counts / samples**2
        colour = np.clip(np.array(COLOURS[shape.colour]) + rng.normal(0, 6, size=3), 0, 255)
        box += cover[:, :, None] * (colour - box)
    picture += rng.normal(0, 3, size=picture.shape)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)
