"""Batches of captions with the features of their images, drawn from a loaded data folder."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from core.coco_utils.words import SPECIAL_WORDS

Array = np.ndarray


def sample_coco_minibatch(
    data: Mapping,
    batch_size: int = 100,
    split: str = "train",
    rng: np.random.Generator | None = None,
) -> tuple[Array, Array, Array]:
    """A random minibatch, without repetition; CS231n's draws with repetition.

    Inputs:
    - data: from ``load_coco_data``
    - batch_size: number of captions; at most as many as there are
    - split: 'train', 'val' or 'test'
    - rng: draws the captions; NumPy's global generator when None, so that ``np.random.seed`` holds,
      as it does in CS231n's notebooks

    Returns:
    - captions: (N, T)
    - features: (N, ...) of the images that they describe
    - urls: (N,) of those images
    """
    if f"{split}_captions" not in data:
        there = [name.removesuffix("_captions") for name in data if name.endswith("_captions")]
        raise ValueError(f"split: found {split!r}, expected {' or '.join(there)}, as in the data")
    total = len(data[f"{split}_captions"])
    choice = np.random.choice if rng is None else rng.choice
    rows = choice(total, size=min(batch_size, total), replace=False)
    image_idxs = data[f"{split}_image_idxs"][rows]
    captions = data[f"{split}_captions"][rows]
    features = np.asarray(data[f"{split}_features"][image_idxs])
    return captions, features, data[f"{split}_urls"][image_idxs]


def minibatches(
    data: Mapping,
    split: str,
    batch_size: int,
    null: int,
    rng: np.random.Generator | None = None,
    most: int | None = None,
    bucketed: bool = False,
    workers: int = 0,
) -> Iterator[tuple[Array, Array]]:
    """Every caption of a split once, in batches; shuffled when there is a generator.

    Inputs:
    - data: from ``load_coco_data``. With an entry ``captions_together`` that is true, the captions
      of an image follow one another, in whatever order the images come.
    - split, batch_size, null, rng
    - most: that many captions at the most, evenly spaced over the split
    - bucketed: captions of much the same length come together, so that little is padded; shuffled
      all the same: the captions of 50 batches are sorted, and the batches come in any order
    - workers: threads that read the next batches while one is computed with. Threads, not
      processes: reading files and decoding pictures do not hold the interpreter's lock, and no open
      file has to survive in another process.

    Yields captions (N, T') and features (N, ...). T' is as long as the longest caption of the batch
    needs: columns that hold nothing but ``null`` add nothing to a loss and are cut.
    """
    captions, image_idxs = data[f"{split}_captions"], data[f"{split}_image_idxs"]
    features = data[f"{split}_features"]
    order = np.arange(len(captions)) if rng is None else rng.permutation(len(captions))
    if most is not None and most < len(order):
        order = order[np.arange(most) * len(order) // most]
    if rng is not None and data.get("captions_together"):
        place = rng.permutation(len(data[f"{split}_urls"]))  # of each image
        order = order[np.argsort(place[image_idxs[order]], kind="stable")]

    def read(start: int) -> tuple[Array, Array]:
        rows = order[start : start + batch_size]
        batch = captions[rows]
        used = np.flatnonzero((batch != null).any(axis=0))
        length = max(2, used[-1] + 1) if len(used) else 2
        return batch[:, :length], features[image_idxs[rows]]

    starts = np.arange(0, len(order), batch_size)
    if bucketed and rng is not None:
        lengths = np.count_nonzero(captions != null, axis=1)
        windows = np.split(order, np.arange(50 * batch_size, len(order), 50 * batch_size))
        order = np.concatenate([w[np.argsort(lengths[w], kind="stable")] for w in windows])
        starts = rng.permutation(starts)
    yield from _read_ahead(read, starts, workers) if workers else map(read, starts)


def null_of(model) -> int:
    """The id that pads captions: 0 in every data folder, unless the model says otherwise."""
    return getattr(model, "null", getattr(model, "_null", 0))


def _read_ahead(read: Callable, items: Iterable, workers: int) -> Iterator:
    """``map(read, items)``, two items a thread ahead of what is asked for."""
    items, waiting = iter(items), deque()
    pool = ThreadPoolExecutor(workers)
    try:
        waiting += [pool.submit(read, item) for item in islice(items, 2 * workers)]
        while waiting:
            yield waiting.popleft().result()
            waiting += [pool.submit(read, item) for item in islice(items, 1)]
    finally:
        pool.shutdown(cancel_futures=True)


def take_samples(data: Mapping, count: int, rng: np.random.Generator) -> dict:
    """A copy of the data with ``count`` training captions of as many different images.

    Raises ValueError when there are fewer training images with a caption.
    """
    # One caption of each image: the first in a random order.
    shuffled = rng.permutation(len(data["train_captions"]))
    _, firsts = np.unique(data["train_image_idxs"][shuffled], return_index=True)
    if count > len(firsts):
        raise ValueError(
            f"num_samples: found {count}, but there are captions of {len(firsts)} images only"
        )
    rows = rng.choice(shuffled[firsts], size=count, replace=False)
    taken = dict(data)
    taken["train_captions"] = data["train_captions"][rows]
    taken["train_image_idxs"] = data["train_image_idxs"][rows]
    return taken


def without_long_captions(data: Mapping, most: int) -> dict:
    """A copy of the data without training and validation captions of more than ``most`` words.

    A long caption is left out whole: cut short, it would teach to stop in mid-sentence, or never
    to stop. A warning counts the captions, and the images that have no other.

    Raises ValueError when no caption of a split is left.
    """
    kept, null = dict(data), data["word_to_idx"]["<NULL>"]
    for split in [split for split in ("train", "val") if f"{split}_captions" in data]:
        captions, image_idxs = data[f"{split}_captions"], data[f"{split}_image_idxs"]
        lengths = np.count_nonzero(captions != null, axis=1) - 2  # <START>, <END>
        short = lengths <= most
        if short.all():
            continue
        if not short.any():
            raise ValueError(
                f"--max_words {most}: leaves no caption of {split}, whose shortest has "
                f"{lengths.min():,} words; give a larger number"
            )
        lost = np.setdiff1d(image_idxs, image_idxs[short])
        warnings.warn(
            f"{data['source']['folder']}: {np.count_nonzero(~short):,} of {len(short):,} {split} "
            f"captions have more than {most:,} words, the longest {lengths.max():,}, and are left "
            f"out, {len(lost):,} images with them; --max_words N sets another limit",
            stacklevel=2,
        )
        kept[f"{split}_captions"] = captions[short, : most + 2]
        kept[f"{split}_image_idxs"] = image_idxs[short]
    return kept


def share_of_unknown(data: Mapping, split: str) -> float:
    """Which part of the words of a split's captions is <UNK>; 1 when there are no words."""
    ids = data["word_to_idx"]
    words = data[f"{split}_captions"]
    words = words[~np.isin(words, [ids[name] for name in ("<NULL>", "<START>", "<END>")])]
    return float(np.mean(words == ids["<UNK>"])) if words.size else 1.0


def caption_limit(data: Mapping) -> int:
    """How many words, <END> included, a decoder may say: as many as the longest training caption.

    At least 30: a model may well say more of a picture than anyone did of those it learned from.
    """
    null = list(data["idx_to_word"]).index(SPECIAL_WORDS[0])
    used = np.flatnonzero((data["train_captions"] != null).any(axis=0))
    return max(30, int(used.max(initial=0)))
