"""The embedded data set: pictures of one to three coloured shapes, with five captions each.

Drawn and described by this file from a seed, so nothing is downloaded, and every caption can be
checked against its picture. Written in the layout of ``core/coco_utils/folder.py``, with features
of the fixed CNN of ``core/encoders/fixed_cnn.py``.

    python -m core.shapes --out datasets/shapes
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.scenes import COLOURS, IMAGE_SIZE, KINDS, RADII, Shape, draw_scene, relations, render
from core.support.command_line import ArgumentParser, non_negative_int, progress, run_command
from core.support.files import DATASETS, read_json, require_free, try_out
from core.support.schema import Each, Entries, ListOf, Number, OneOf

Array = np.ndarray

VERSION = 2  # of what is drawn and said: raised when a seed gives other data than before
SPLIT_SIZES = {"train": 8000, "val": 300, "test": 300}
CAPTIONS_PER_IMAGE = 5
SCENES_FILE = "scenes.json"
_DRAW_AGAIN = "remove the folder and run python -m core.shapes again"
_SCENES = Each(
    ListOf(
        Entries(
            {
                "shapes": ListOf(
                    Entries(
                        {
                            "kind": OneOf(KINDS),
                            "colour": OneOf(list(COLOURS)),
                            "size": OneOf(list(RADII)),
                        },
                        ("kind", "colour", "size"),
                    )
                ),
                "boxes": ListOf(ListOf(Number(0, IMAGE_SIZE), length=4)),
            },
            ("shapes", "boxes"),
        )
    )
)
DEFAULT_FOLDER = DATASETS / "shapes"

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


def prepare_shapes(
    folder: str | Path = DEFAULT_FOLDER, seed: int = 0, sizes: Mapping[str, int] = SPLIT_SIZES
) -> Path:
    """Draws the data set and writes it to a folder, whole or not at all; about half a minute.

    Inputs:
    - folder: where to; nothing is done when this very data set is there already
    - seed: the same seed gives the same bytes
    - sizes: number of pictures in each split; at least 512 in train, for the PCA

    Returns the folder. Besides the layout of ``core/coco_utils/folder.py`` it holds ``images/`` and
    ``scenes.json``: for each split and picture its ``shapes`` (kind, colour, size) and their
    ``boxes`` (left, top, right, bottom, in pixels).

    Raises FileExistsError when the folder holds something else, another seed's pictures included.
    """
    from core.coco_utils import DATASET_FILE, build_vocabulary, save_coco_data
    from core.encoders import Extractor, fixed_cnn
    from core.encoders.pca import fit_pca

    folder = Path(folder)
    marker = folder / DATASET_FILE
    about = {"name": "shapes", "version": VERSION, "seed": seed, "sizes": dict(sizes)}
    there = read_json(marker, Entries({}, others=True), _DRAW_AGAIN) if marker.exists() else {}
    if about.items() <= there.items():
        return folder
    if there.get("name") == "shapes":
        raise FileExistsError(
            f"{folder}: holds embedded data of version {there.get('version')}, seed "
            f"{there.get('seed')}, expected version {VERSION}, seed {seed}; remove it, then they "
            "are drawn anew (runs that were trained on it cannot be used with the new ones)"
        )
    require_free(folder)
    try_out("--out", folder)

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
            about=about,
            extra={SCENES_FILE: {split: list(map(_as_json, scenes[split])) for split in scenes}},
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
    from core.fast.threads import in_parallel

    batches = [pictures[start : start + 50] for start in range(0, len(pictures), 50)]
    with progress(None, f"features of {split} pictures", total=len(batches)) as bar:

        def look(batch: list[Array]) -> Array:
            found = extractor(batch)
            bar.update()
            return found

        return np.concatenate(in_parallel(look, batches))


def _as_json(scene: Sequence[Shape]) -> dict:
    return {
        "shapes": [{"kind": s.kind, "colour": s.colour, "size": s.size} for s in scene],
        "boxes": [[round(edge, 2) for edge in s.box] for s in scene],
    }


def load_scenes(folder: str | Path, split: str) -> list[tuple[Shape, ...]]:
    """The scenes of a split, as ``prepare_shapes`` drew them (to a hundredth of a pixel).

    Raises FileNotFoundError, or ValueError for a damaged file.
    """
    scenes = []
    file = Path(folder) / SCENES_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; {_DRAW_AGAIN}")
    pictures = read_json(file, _SCENES, _DRAW_AGAIN)
    if split not in pictures:
        raise ValueError(f"{file}: has no scenes of {split}; {_DRAW_AGAIN}")
    for number, picture in enumerate(pictures[split]):
        shapes = []
        words_of, boxes = picture["shapes"], picture["boxes"]
        if len(words_of) != len(boxes) or not words_of:
            raise ValueError(
                f"{file}: {split} entry {number} has {len(words_of)} shapes and {len(boxes)} "
                f"boxes, expected a box a shape; {_DRAW_AGAIN}"
            )
        for words, (left, top, right, bottom) in zip(words_of, boxes, strict=True):
            if not (left < right and top < bottom):
                raise ValueError(
                    f"{file}: {split} entry {number} has a box that ends before it begins; "
                    f"{_DRAW_AGAIN}"
                )
            centre = (left + right) / 2, (top + bottom) / 2
            shapes.append(Shape(**words, x=centre[0], y=centre[1], radius=(right - left) / 2))
        scenes.append(tuple(shapes))
    return scenes


def main() -> None:
    parser = ArgumentParser(prog="python -m core.shapes", description=__doc__.split("\n")[0])
    parser.add_argument("--out", metavar="DIR", default=str(DEFAULT_FOLDER), help="data folder")
    parser.add_argument(
        "--seed", type=non_negative_int, default=0, help="another seed, other pictures"
    )
    arguments = parser.parse_args()
    print(f"pictures and captions of shapes: {prepare_shapes(arguments.out, arguments.seed)}")


if __name__ == "__main__":
    run_command(main)
