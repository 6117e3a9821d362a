"""What scores are held against: other images' captions, one caption for all, people's captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence

import numpy as np

from core.coco_utils import plain_words
from core.metrics.scores import score_words, tokenized


def controls(
    candidates: Mapping[Hashable, str],
    references: Mapping[Hashable, Sequence[str]],
    training: Collection[str] | None = None,
) -> dict:
    """What to hold scores against: other images' captions, one caption for all, people's captions.

    Inputs:
    - candidates, references: as those of ``score``
    - training: the training captions, where they are known

    Returns

    - ``distinct``: share of the captions that differ from one another
    - ``novel``: share of the captions that are no training caption; None when those are not known
    - ``shuffled``: scores when each image gets the caption of another one, drawn from a fixed seed
    - ``constant``, ``constant caption``: scores when each image gets the commonest candidate
    - ``people``: scores of each reference against the others of its image, one fewer than the
      candidates are held against; None when no image has two

    Raises ValueError as ``score`` does, and for one image alone.
    """
    if len(candidates) < 2:
        raise ValueError(
            f"controls: found {len(candidates)} image, expected at least 2: captions are shuffled "
            "over the images"
        )
    said, wanted = tokenized(candidates, references)
    # Each gets the caption of the next in a random circle, so that no image keeps its own.
    circle = np.random.default_rng(0).permutation(len(said))
    images = list(said)
    shuffled = {
        images[i]: said[images[j]] for i, j in zip(circle, np.roll(circle, -1), strict=True)
    }
    commonest, _ = Counter(map(tuple, said.values())).most_common(1)[0]
    # One corpus of all of them: a round for each k has the same scores within 0.3 (Flickr8k).
    people = {
        (image, k): (captions[k], [*captions[:k], *captions[k + 1 :]])
        for image, captions in wanted.items()
        if len(captions) > 1
        for k in range(len(captions))
    }
    novel = None
    if training is not None:
        # Compared as training saw them, for which "t-shirt" and "t shirt" are the same.
        known = {tuple(plain_words(caption)) for caption in training}
        novel = float(np.mean([tuple(plain_words(c)) not in known for c in candidates.values()]))
    return {
        "distinct": len(set(map(tuple, said.values()))) / len(said),
        "novel": novel,
        "shuffled": score_words(shuffled, wanted),
        "constant": score_words(dict.fromkeys(said, commonest), wanted),
        "constant caption": " ".join(commonest),
        "people": score_words(
            {pair: one for pair, (one, _) in people.items()},
            {pair: others for pair, (_, others) in people.items()},
        )
        if people
        else None,
    }
