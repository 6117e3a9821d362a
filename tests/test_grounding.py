"""Whether a map points at what a word names, on maps that are made here; maps over pictures."""

from __future__ import annotations

import numpy as np
import pytest

from core.grounding import pointing, report
from core.scenes import Shape
from core.show.plots import plot_attention, upsample

# Boxes of 12 pixels in a picture of 64, cut into 8 x 8 cells: rows and columns 1 and 2 hold the
# red circle, rows and columns 5 and 6 the blue square.
SCENE = (
    Shape("circle", "red", "small", x=16, y=16, radius=6),
    Shape("square", "blue", "small", x=48, y=48, radius=6),
)
WORDS = "a red circle and a blue square".split()


def peak_at(row: int, column: int) -> np.ndarray:
    maps = np.full((len(WORDS), 8, 8), 0.01)
    maps[:, row, column] = 0.5
    return maps.reshape(len(WORDS), 64)


@pytest.mark.parametrize(
    ("cell", "circle", "square"),
    [
        ((1, 2), True, False),
        ((0, 0), True, False),
        ((3, 3), True, False),
        ((4, 4), False, True),
        ((1, 4), False, False),
        ((5, 6), False, True),
        ((7, 7), False, True),
        ((0, 7), False, False),
    ],
)
def test_a_peak_on_or_next_to_the_shape_counts(cell, circle, square):
    found = pointing(WORDS, peak_at(*cell), SCENE)
    assert [name.on_shape for name in found] == [circle, square]
    # 4 x 4 of the 64 cells are in the box or next to it
    assert [name.chance for name in found] == [0.25, 0.25]


def test_the_map_of_the_very_word_counts():
    maps = peak_at(1, 1)
    maps[6] = peak_at(6, 6)[6]
    assert [name.on_shape for name in pointing(WORDS, maps, SCENE)] == [True, True]
    assert [name.on_shape for name in pointing(WORDS, np.roll(maps, 1, axis=0), SCENE)] == [
        True,
        False,
    ]


def test_shapes_that_are_not_there_are_left_out():
    words = "a blue circle and a red square".split()
    assert pointing(words, peak_at(1, 1), SCENE) == []
    assert pointing(["circle"], peak_at(1, 1)[:1], SCENE) == []


class Oracle:
    """Says what is at the place of the first shape, and looks right or left of it."""

    null, start, end, unknown, grid = 0, 1, 2, 3, True

    def __init__(self, idx_to_word, captions, cells):
        self.idx_to_word, self.captions, self.cells = idx_to_word, captions, cells

    def begin(self, features):
        return [0, features[:, 0, 0].astype(int)]

    def step(self, state, tokens):
        t, images = state
        log_probs = np.full((len(images), len(self.idx_to_word)), -50.0)
        for row, image in enumerate(images):
            words = [*self.captions[image].split(), "<END>"]
            log_probs[row, self.idx_to_word.index(words[t])] = 0
        return log_probs, [t + 1, images]

    def select(self, state, rows):
        return [state[0], state[1][rows]]

    def attention_weights(self, features, captions):
        maps = np.zeros((len(captions), captions.shape[1] - 1, 1, 64))
        for image, (row, column) in enumerate(self.cells):
            maps[image, :, :, 8 * row + column] = 1
        return maps


def test_a_report_counts_what_is_true_and_seen(monkeypatch, tmp_path):
    words = ["<NULL>", "<START>", "<END>", "<UNK>", *"a red blue circle square and".split()]
    scenes = [SCENE[:1], SCENE[:1], SCENE, SCENE]
    captions = ["a red circle", "a blue circle", "a blue square", "a red circle and a blue square"]
    cells = [(1, 1), (1, 1), (0, 7), (5, 5)]
    monkeypatch.setattr("core.grounding.load_scenes", lambda folder, split: scenes)
    features = np.arange(4.0).reshape(4, 1, 1)
    data = {"source": {"folder": tmp_path}, "val_features": features}
    assert report(Oracle(words, captions, cells), data, words, "val") == {
        "pictures": 4,
        "true": 0.75,
        "true_by_shapes": {1: 0.5, 2: 1.0},
        "true_greedy": 0.75,
        "names": 4,
        "names_on_shape": 0.5,
        "names_on_shape_by_chance": 0.25,
        "pictures_on_shape": pytest.approx(1 / 3),
    }


# ---------------------------------------------------------------------------------------------
# The picture
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "column"), [(1, 1), (6, 3), (0, 7)])
def test_a_map_over_the_picture_is_brightest_at_its_cell(row, column):
    light = upsample(peak_at(row, column)[0], 64)
    assert light.shape == (64, 64)
    assert light.max() == 1
    y, x = np.argwhere(light > 0.5).mean(axis=0)
    assert (int(y // 8), int(x // 8)) == (row, column)


def test_maps_that_are_no_grid_cannot_be_drawn(tmp_path):
    picture = np.zeros((8, 8, 3), np.uint8)
    for locations in (1, 3, 5):
        maps = np.full((1, locations), 1 / locations)
        with pytest.raises(ValueError, match=f"{locations} locations"):
            plot_attention([picture], [["word"]], [maps], [""], tmp_path / "map.png")
    assert not list(tmp_path.iterdir())
