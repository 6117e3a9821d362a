"""The embedded data set: pictures of one to three coloured shapes, with five captions each.

Drawn and described by this file from a seed, so nothing is downloaded, and every caption can be
checked against its picture. Written in the layout of ``core/coco_utils.py``, with features of the
fixed CNN of ``core/encoders/fixed_cnn.py``.

    python -m core.shapes --out datasets/shapes
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.command_line import ArgumentParser, progress, run_command, seed_int

Array = np.ndarray

IMAGE_SIZE = 64
SPLIT_SIZES = {"train": 2000, "val": 300, "test": 300}
CAPTIONS_PER_IMAGE = 5
DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "datasets" / "shapes"

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

PLACES = {  # (row, column) of the picture cut in three by three
    (0, 0): "at the top left",
    (0, 1): "at the top",
    (0, 2): "at the top right",
    (1, 0): "on the left",
    (1, 1): "in the middle",
    (1, 2): "on the right",
    (2, 0): "at the bottom left",
    (2, 1): "at the bottom",
    (2, 2): "at the bottom right",
}
RELATIONS = {
    "above": ("above", "over"),
    "below": ("below", "under"),
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
}
# How a picture is described: {a} {b} {c} are different shapes, {relation} stands between a and b,
# {place} is where a is. The number is how many shapes the words say there are (0: they do not say).
TEMPLATES = {
    1: (
        ("{a}", 0),
        ("{a} {place}", 0),
        ("there is {a}", 0),
        ("there is {a} {place}", 0),
        ("{a} is {place}", 0),
        ("the picture shows {a}", 0),
        ("one shape {a}", 1),
    ),
    2: (
        ("{a} {relation} {b}", 0),
        ("there is {a} {relation} {b}", 0),
        ("{a} is {relation} {b}", 0),
        ("{a} and {b}", 0),
        ("the picture shows {a} and {b}", 0),
        ("two shapes {a} and {b}", 2),
    ),
    3: (
        ("{a} {b} and {c}", 0),
        ("three shapes {a} {b} and {c}", 3),
        ("three shapes with {a} {relation} {b}", 3),
    ),
}


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
    size = str(rng.choice(list(RADII)))
    radius = float(rng.uniform(*RADII[size]))
    x, y = rng.uniform(radius + 1, IMAGE_SIZE - radius - 1, size=2)
    kind, colour = str(rng.choice(KINDS)), str(rng.choice(list(COLOURS)))
    return Shape(kind, colour, size, float(x), float(y), radius)


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
        u = (points[None, :] - shape.x) / shape.radius  # -1 .. 1 across the box
        v = (points[:, None] - shape.y) / shape.radius
        inside = silhouette(shape.kind, u, v)
        cover = inside.reshape(IMAGE_SIZE, samples, IMAGE_SIZE, samples).mean(axis=(1, 3))
        colour = np.clip(np.array(COLOURS[shape.colour]) + rng.normal(0, 6, size=3), 0, 255)
        picture += cover[:, :, None] * (colour - picture)
    picture += rng.normal(0, 3, size=picture.shape)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------
# Describing, and checking a description
# ---------------------------------------------------------------------------------------------


def describe(
    shapes: Sequence[Shape], rng: np.random.Generator, count: int = CAPTIONS_PER_IMAGE
) -> list[str]:
    """``count`` different captions that are true of the picture."""
    templates = [template for template, _ in TEMPLATES[len(shapes)]]
    if len(shapes) == 3:
        templates += ["{a} {relation} {b}", "{a} is {relation} {b}"]  # two of the three
    captions: dict[str, None] = {}  # a set that keeps its order
    while len(captions) < count:
        template = templates[rng.integers(len(templates))]
        order = [shapes[i] for i in rng.permutation(len(shapes))]
        words = {name: _noun_phrase(shape, rng) for name, shape in zip("abc", order, strict=False)}
        words["place"] = PLACES[order[0].place]
        if len(order) > 1:
            which = str(rng.choice(relations(order[0], order[1])))
            words["relation"] = str(rng.choice(RELATIONS[which]))
        captions[template.format(**words)] = None
    return list(captions)


def _noun_phrase(shape: Shape, rng: np.random.Generator) -> str:
    size = f"{shape.size} " if rng.random() < 0.5 else ""
    return f"a {size}{shape.colour} {shape.kind}"


def _alternatives(words) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


def _pattern(template: str) -> re.Pattern:
    """The template as a regular expression with a group for each thing that it says."""
    fields = {
        name: rf"a (?:(?P<{name}_size>{_alternatives(RADII)}) )?"
        rf"(?P<{name}_colour>{_alternatives(COLOURS)}) (?P<{name}_kind>{_alternatives(KINDS)})"
        for name in "abc"
    }
    fields["place"] = f"(?P<place>{_alternatives(PLACES.values())})"
    fields["relation"] = f"(?P<relation>{_alternatives(sum(RELATIONS.values(), ()))})"
    return re.compile(template.format(**fields))


_PATTERNS = [(_pattern(template), said) for group in TEMPLATES.values() for template, said in group]
_PLACE_OF = {words: place for place, words in PLACES.items()}
_RELATION_OF = {words: name for name, several in RELATIONS.items() for words in several}


def caption_is_true(caption: str, shapes: Sequence[Shape]) -> bool:
    """Whether a caption is a sentence of the grammar and everything that it says holds.

    A shape that the words name must be in the picture with that colour, kind and (if said) size;
    two names stand for two shapes; a place, a relation and a number must be right. Shapes that the
    words leave out do not matter.
    """
    for pattern, said in _PATTERNS:
        match = pattern.fullmatch(caption.strip())
        if match and (not said or said == len(shapes)):
            names = [name for name in "abc" if match.groupdict().get(f"{name}_kind")]
            if any(
                _holds(match.groupdict(), dict(zip(names, chosen, strict=True)))
                for chosen in itertools.permutations(shapes, len(names))
            ):
                return True
    return False


def _holds(said: dict, shapes: dict[str, Shape]) -> bool:
    for name, shape in shapes.items():
        for property_ in ("size", "colour", "kind"):
            word = said.get(f"{name}_{property_}")
            if word is not None and word != getattr(shape, property_):
                return False
    if said.get("place") and _PLACE_OF[said["place"]] != shapes["a"].place:
        return False
    return not said.get("relation") or (
        _RELATION_OF[said["relation"]] in relations(shapes["a"], shapes["b"])
    )


# ---------------------------------------------------------------------------------------------
# The data folder
# ---------------------------------------------------------------------------------------------


def prepare(
    folder: str | Path = DEFAULT_FOLDER, seed: int = 0, sizes: Mapping[str, int] = SPLIT_SIZES
) -> Path:
    """Draws the data set and writes it to a folder, whole or not at all; about ten seconds.

    Inputs:
    - folder: where to; nothing is done when the data set is there already
    - seed: the same seed gives the same bytes
    - sizes: number of pictures in each split; at least 512 in train, for the PCA

    Returns the folder. Besides the layout of ``core/coco_utils.py`` it holds ``images/`` and
    ``scenes.json``: for each split and picture its ``shapes`` (kind, colour, size) and their
    ``boxes`` (left, top, right, bottom, in pixels).

    Raises FileExistsError when the folder holds something else.
    """
    from core.coco_utils import DATASET_FILE, build_vocabulary, save_coco_data
    from core.encoders import Extractor, fixed_cnn
    from core.encoders.pca import fit_pca
    from core.files import read_json

    folder = Path(folder)
    marker = folder / DATASET_FILE
    if marker.exists() and read_json(marker).get("name") == "shapes":
        return folder

    rng = np.random.default_rng(seed)
    scenes = _draw_different_scenes(rng, sizes)
    pictures, captions = {}, {}
    for split, split_scenes in scenes.items():
        bar = progress(split_scenes, f"drawing {split} pictures")
        pictures[split] = [render(scene, rng) for scene in bar]
        captions[split] = [
            (i, caption.split())
            for i, scene in enumerate(split_scenes)
            for caption in describe(scene, rng)
        ]
    words = [words for _, words in captions["train"]]

    cells = Extractor("fixed_cnn", "grid")
    grid = {split: _extract(cells, pictures[split], split) for split in scenes}
    raw = {"pooled": {split: fixed_cnn.strips(grid[split]) for split in scenes}, "grid": grid}
    features, extractors = {}, {}
    for kind, output, width in (("pooled", "strips", 512), ("grid", "grid", 40)):
        train = raw[kind]["train"]
        # Each location is projected by itself; fitted on training pictures only.
        extractor = Extractor(
            "fixed_cnn", output, pca=fit_pca(train.reshape(-1, train.shape[-1]), width)
        )
        features[kind] = {split: extractor.pca(raw[kind][split]) for split in scenes}
        extractors[kind] = extractor.specification, extractor.arrays

    urls = {
        split: [f"images/{split}/{i:05d}.png" for i in range(len(pictures[split]))]
        for split in scenes
    }
    try:
        save_coco_data(
            folder,
            captions,
            build_vocabulary(words),
            urls,
            features,
            extractors,
            image_root=".",
            name="shapes",
            extra={"scenes.json": {split: list(map(_as_json, scenes[split])) for split in scenes}},
            pictures={
                url: picture
                for split in scenes
                for url, picture in zip(urls[split], pictures[split], strict=True)
            },
        )
    except OSError:
        if not marker.exists():  # else another process was faster, and wrote the same
            raise
    return folder


def _draw_different_scenes(
    rng: np.random.Generator, sizes: Mapping[str, int]
) -> dict[str, list[tuple[Shape, ...]]]:
    """The scenes of each split, no two alike.

    Alike means the same shapes on the same points of a raster of two pixels: hard to tell apart for
    a person, and a leak if one were trained on and the other tested.
    """
    seen = set()
    scenes: dict[str, list] = {}
    for split, size in sizes.items():
        scenes[split] = []
        while len(scenes[split]) < size:
            scene = draw_scene(rng)
            key = frozenset((s.kind, s.colour, s.size, s.x // 2, s.y // 2) for s in scene)
            if key not in seen:
                seen.add(key)
                scenes[split].append(scene)
    return scenes


def _extract(extractor, pictures: list[Array], split: str) -> Array:
    starts = progress(range(0, len(pictures), 50), f"features of {split} pictures")
    return np.concatenate([extractor(pictures[start : start + 50]) for start in starts])


def _as_json(scene: Sequence[Shape]) -> dict:
    return {
        "shapes": [{"kind": s.kind, "colour": s.colour, "size": s.size} for s in scene],
        "boxes": [[round(edge, 2) for edge in s.box] for s in scene],
    }


def load_scenes(folder: str | Path, split: str) -> list[tuple[Shape, ...]]:
    """The scenes of a split, as ``prepare`` drew them (positions to a hundredth of a pixel)."""
    from core.files import read_json

    scenes = []
    for picture in read_json(Path(folder) / "scenes.json")[split]:
        shapes = []
        for words, (left, top, right, bottom) in zip(
            picture["shapes"], picture["boxes"], strict=True
        ):
            centre = (left + right) / 2, (top + bottom) / 2
            shapes.append(Shape(**words, x=centre[0], y=centre[1], radius=(right - left) / 2))
        scenes.append(tuple(shapes))
    return scenes


def main() -> None:
    parser = ArgumentParser(prog="python -m core.shapes", description=__doc__.split("\n")[0])
    parser.add_argument("--out", metavar="DIR", default=str(DEFAULT_FOLDER), help="data folder")
    parser.add_argument("--seed", type=seed_int, default=0, help="another seed, other pictures")
    arguments = parser.parse_args()
    print(f"pictures and captions of shapes: {prepare(arguments.out, arguments.seed)}")


if __name__ == "__main__":
    run_command(main)
