"""Do captions say what is in the picture, and does the model look at what it names?

    python -m core.grounding --checkpoint runs/attention

For models trained on the embedded data, whose pictures are known to the last shape. Captions are
found by beam search, as ``inference.py`` does, on pictures that were not trained on. What greedy
decoding says is counted as well: it is less often true, since it goes on with the sentence that it
began, certain of it or not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core import decoding
from core.checkpoint import load_checkpoint
from core.coco_utils import decode_captions
from core.models import build_model
from core.runs.data import load_data_of
from core.runs.settings import find_checkpoint
from core.scenes import IMAGE_SIZE, Shape
from core.shapes import caption_is_true, load_scenes
from core.support.command_line import ArgumentParser, progress, run_command

Array = np.ndarray

_BATCH = 256


@dataclass
class Pointing:
    """A word that names a shape, and where the model looked when it said so.

    - on_shape: whether the peak of the map is in the shape's box, or at most one cell from it
    - chance: the share of all cells of which the same holds
    """

    on_shape: bool
    chance: float


def pointing(words: Sequence[str], maps: Array, scene: Sequence[Shape]) -> list[Pointing]:
    """Checks the map of every word that names a shape of the picture: circle, square, triangle.

    Inputs:
    - words: of the caption; the colour stands before the kind
    - maps: (words, L) weights over a square grid, in reading order
    - scene: the shapes of the picture

    Names of shapes that are not there are left out: there is no box to look at.
    """
    side = round(maps.shape[1] ** 0.5)
    cell = IMAGE_SIZE / side
    centres = (np.arange(side) + 0.5) * cell
    found = []
    for t, word in enumerate(words):
        named = [s for s in scene if t and s.kind == word and s.colour == words[t - 1]]
        for shape in named:  # one at most: no two shapes share colour and kind
            left, top, right, bottom = shape.box
            across = (centres >= left - cell) & (centres <= right + cell)
            down = (centres >= top - cell) & (centres <= bottom + cell)
            near = (down[:, None] & across[None, :]).ravel()
            found.append(Pointing(bool(near[maps[t].argmax()]), float(near.mean())))
    return found


def report(model, data: dict, idx_to_word: Sequence[str], split: str) -> dict:
    """What the command prints, as a dict.

    Inputs:
    - model: a captioning model
    - data: the embedded data, from ``load_coco_data``
    - idx_to_word: the vocabulary
    - split: 'train', 'val' or 'test'

    Returns ``pictures``, ``true`` (share of the captions that are true of their picture),
    ``true_by_shapes`` (the same by the number of shapes) and ``true_greedy``. For a model with
    attention also ``names`` (how many words name a shape of the picture), ``names_on_shape`` (for
    what share of them the map peaks on that shape or within one cell of it),
    ``names_on_shape_by_chance``, and ``pictures_on_shape`` (the share of pictures in which that
    holds for every name).
    """
    scenes = load_scenes(data["source"]["folder"], split)
    captions, greedy, pointings = [], [], []
    for start in progress(range(0, len(scenes), _BATCH), "captioning"):
        features = np.asarray(data[f"{split}_features"][start : start + _BATCH])
        greedy += decode_captions(decoding.greedy(model, features), idx_to_word)
        ids = decoding.beam_search(model, features)[0][:, 0]
        captions += decode_captions(ids, idx_to_word)
        if model.grid:
            read = np.concatenate([np.full((len(ids), 1), model.start), ids], axis=1)
            maps = model.attention_weights(features, read).mean(axis=2)  # over the heads
            for row, of_words, scene in zip(ids, maps, scenes[start:], strict=False):
                pointings.append(pointing([idx_to_word[i] for i in row], of_words, scene))
    true, true_greedy = (
        np.array([caption_is_true(c, scene) for c, scene in zip(said, scenes, strict=True)])
        for said in (captions, greedy)
    )
    sizes = np.array([len(scene) for scene in scenes])
    out = {
        "pictures": len(scenes),
        "true": float(true.mean()),
        "true_by_shapes": {int(n): float(true[sizes == n].mean()) for n in np.unique(sizes)},
        "true_greedy": float(true_greedy.mean()),
    }
    names = [name for names in pointings for name in names]
    if names:
        out |= {
            "names": len(names),
            "names_on_shape": float(np.mean([name.on_shape for name in names])),
            "names_on_shape_by_chance": float(np.mean([name.chance for name in names])),
            "pictures_on_shape": float(
                np.mean([all(name.on_shape for name in names) for names in pointings if names])
            ),
        }
    return out


def main() -> None:
    parser = ArgumentParser(prog="python -m core.grounding", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN_OR_FILE", help="a run folder or a .npz file"
    )
    parser.add_argument(
        "--split", choices=["train", "val", "test"], default="val", help="which pictures"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    arguments = parser.parse_args()

    path = find_checkpoint("--checkpoint", arguments.checkpoint)
    checkpoint = load_checkpoint(path)
    data = load_data_of(checkpoint, num_samples=None)
    if not (data["source"]["folder"] / "scenes.json").is_file():
        raise ValueError(
            f"--checkpoint {path}: was not trained on the embedded data, and only of those pictures"
            " it is known what they show; train one with training.py --data shapes"
        )
    model = build_model(
        checkpoint.model, checkpoint.config, checkpoint.idx_to_word, checkpoint.decoder_params
    )
    result = report(model, data, checkpoint.idx_to_word, arguments.split)
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    by_shapes = ", ".join(f"{n}: {share:.1%}" for n, share in result["true_by_shapes"].items())
    print(
        f"true of the picture: {result['true']:.1%} of {result['pictures']} captions "
        f"(by number of shapes {by_shapes}; decoded greedily {result['true_greedy']:.1%})"
    )
    if "names" in result:
        print(
            f"looks at the shape that it names: {result['names_on_shape']:.1%} of "
            f"{result['names']} names (a random cell: {result['names_on_shape_by_chance']:.1%}), "
            f"for every name in {result['pictures_on_shape']:.1%} of the pictures"
        )


if __name__ == "__main__":
    run_command(main)
