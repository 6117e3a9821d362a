"""A small CNN that nobody trained: its filters are written down.

It plays the part of a pretrained encoder for the embedded pictures, in NumPy, so that the first
steps need neither PyTorch nor a download. Layer by layer::

    colours      1 x 1 convolution and softmax: which colour of the palette is this pixel?
    silhouettes  13 x 13 convolution, at half the size: how well does this colour fill the outline
                 of this kind, and leave free what is around it?
    pooling      the strongest response in each cell of an 8 x 8 grid
    competition  among the outlines of one colour in one cell the best takes about two thirds
"""

from __future__ import annotations

from functools import cache

import numpy as np

from core.scenes import COLOURS, IMAGE_SIZE, KINDS, RADII, silhouette

Array = np.ndarray

GRID = 8  # the grid has GRID x GRID locations
_FILTER = 13  # pixels at half the size of the picture: the largest shape and a margin
_BACKGROUND = (228, 228, 228)
_OUTLINES = len(COLOURS) * len(KINDS) * len(RADII)  # the first channels
_POSITION = 12  # the last channels, which say where a cell is


def filter_outputs(images: Array) -> dict[str, Array]:
    """(N, 64, 64, 3) uint8 pictures -> grid (N, 64, C), strips (N, 19 (C - 12)), float32."""
    grid = grid_features(images)
    return {"grid": grid, "strips": strips(grid)}


def grid_features(images: Array) -> Array:
    """The features of each cell of each picture.

    Inputs:
    - images: (N, 64, 64, 3) uint8

    Returns (N, 64, C) float32; cells in reading order. The channels are the responses to each
    colour, kind and size, the share of each colour in the cell, and the cell's position.

    Raises ValueError for pictures of another size.
    """
    if images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ValueError(
            f"images: found shape {images.shape}, expected (N, {IMAGE_SIZE}, {IMAGE_SIZE}, 3)"
        )
    colours = _pool(_colour_layer(images), 2, np.mean)  # (N, 32, 32, colours)
    responses = _silhouette_layer(colours, 4)  # (N, 8, 8, colours, outlines)
    cells = [_competition(responses), _pool(colours, 4, np.mean)]
    cells.append(np.broadcast_to(position_code(), (len(images), GRID, GRID, _POSITION)))
    return np.concatenate(cells, axis=3).reshape(len(images), GRID * GRID, -1)


def strips(grid: Array) -> Array:
    """One vector a picture: what there is, and where, in numbers that a linear layer can compare.

    (N, 64, C) -> (N, 19 (C - 12)). For each channel

    - the strongest response in all, from the top down to each row, and from the left to each
      column: the later it steps up, the further down or right the shape is (after the spatial
      pyramids of Lazebnik, Schmid and Ponce, CVPR 2006);
    - that times how far below and how far right of the middle of all shapes its centre lies: a
      difference of positions, that is a relation, is no linear function of what there is.

    The cells' positions are the same in every picture and are left out.
    """
    N = len(grid)
    cells = _without_echoes(grid[..., :-_POSITION].reshape(N, GRID, GRID, -1))
    rows = np.maximum.accumulate(cells.max(axis=2), axis=1)
    columns = np.maximum.accumulate(cells.max(axis=1), axis=1)
    strongest = rows[:, -1]
    outlines = cells[..., :_OUTLINES].sum(axis=-1, keepdims=True)
    offsets = [strongest * (_centre(cells, axis) - _centre(outlines, axis)) for axis in (1, 2)]
    parts = [strongest, rows.reshape(N, -1), columns.reshape(N, -1), *offsets]
    return np.concatenate(parts, axis=1)


def _centre(cells: Array, axis: int) -> Array:
    """(N, h, w, C) -> (N, C): where the responses of each channel lie along one axis, in cells."""
    weights = cells**2 + 1e-6
    weights = weights.sum(axis=3 - axis)  # of each row, or of each column
    weights /= weights.sum(axis=1, keepdims=True)
    return np.arange(GRID, dtype=cells.dtype) @ weights


def _colour_layer(images: Array) -> Array:
    """(N, 64, 64, 3) -> (N, 64, 64, colours): a soft choice of the nearest colour of the palette.

    ``-|x - p|^2 = 2 p.x - |p|^2 - |x|^2``, and the last term is the same for every colour p, so the
    nearest colour is a linear layer and a softmax.
    """
    palette = np.array([*COLOURS.values(), _BACKGROUND], dtype=np.float32) / 255
    x = images.astype(np.float32) / 255
    scores = 40 * (x @ (2 * palette.T) - (palette**2).sum(axis=1))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores[..., :-1]


def _silhouette_layer(colours: Array, size: int = 1) -> Array:
    """(N, h, w, colours) -> (N, h / size, w / size, colours, outlines).

    The same filters on each colour; of each block of size x size the strongest response.
    """
    N, h, w, C = colours.shape
    margin = _FILTER // 2
    maps = colours.transpose(0, 3, 1, 2).reshape(N * C, h, w)
    out = np.zeros((N * C, h // size, w // size, len(KINDS) * len(RADII)), np.float32)
    # The filters have norm 1, so a map of norm 1 answers none with more than 1: too little to count
    # below. Most colours are not in a picture.
    seen = np.flatnonzero((maps**2).sum(axis=(1, 2)) > 1)
    padded = np.pad(maps[seen], ((0, 0), (margin, margin), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (_FILTER, _FILTER), axis=(1, 2))
    responses = windows.reshape(len(seen), h * w, _FILTER**2) @ _silhouette_filters()
    out[seen] = _pool(responses.reshape(len(seen), h, w, -1), size, np.max)
    return out.reshape(N, C, *out.shape[1:]).transpose(0, 2, 3, 1, 4)


@cache
def _silhouette_filters() -> Array:
    """(169, kinds * sizes): each outline with mean 0 and norm 1, so that it answers itself best."""
    samples = 8  # per pixel and direction, for smooth edges
    points = (np.arange(_FILTER * samples) + 0.5) / samples - _FILTER / 2
    filters = []
    for kind in KINDS:
        for smallest, largest in RADII.values():
            radius = (smallest + largest) / 4  # the mean, at half the size of the picture
            inside = silhouette(kind, points[None, :] / radius, points[:, None] / radius)
            inside = inside.reshape(_FILTER, samples, _FILTER, samples).mean(axis=(1, 3)).ravel()
            template = inside - inside.mean()
            filters.append(template / np.linalg.norm(template))
    return np.stack(filters, axis=-1).astype(np.float32)


def _competition(responses: Array) -> Array:
    """(N, h, w, colours, outlines) -> (N, h, w, colours * outlines).

    The share of each outline (a softmax) times how far the best of its colour stands out.
    """
    best = responses.max(axis=-1, keepdims=True)
    share = np.exp(4 * (responses - best))
    share /= share.sum(axis=-1, keepdims=True)
    return (share * np.maximum(best - 1, 0)).reshape(*responses.shape[:3], -1)


def _without_echoes(cells: Array) -> Array:
    """(N, h, w, C) -> the same, outlines weakened where a neighbouring cell sees them more clearly.

    At the rim of a shape other outlines of its colour fit as well.
    """
    responses = cells[..., :_OUTLINES].reshape(*cells.shape[:3], len(COLOURS), -1)
    clear = responses.sum(axis=-1, keepdims=True)
    padded = np.pad(clear, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0)))
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2)).max(
        axis=(-2, -1)
    )
    kept = (responses * np.exp(clear - around)).reshape(*cells.shape[:3], _OUTLINES)
    return np.concatenate([kept, cells[..., _OUTLINES:]], axis=3)


@cache
def position_code() -> Array:
    """(GRID, GRID, 12): sines and cosines of the cell's row and column, three wavelengths each."""
    angle = np.pi * (np.arange(GRID) + 0.5)[:, None] / GRID * np.array([1, 2, 3])
    waves = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)  # (GRID, 6)
    rows = np.broadcast_to(waves[:, None], (GRID, GRID, 6))
    columns = np.broadcast_to(waves[None, :], (GRID, GRID, 6))
    return (0.5 * np.concatenate([rows, columns], axis=2)).astype(np.float32)


def _pool(x: Array, size: int, reduce) -> Array:
    """(N, h, w, ...) -> (N, h / size, w / size, ...): one value for each block of size x size."""
    N, h, w = x.shape[:3]
    return reduce(x.reshape(N, h // size, size, w // size, size, *x.shape[3:]), axis=(2, 4))
