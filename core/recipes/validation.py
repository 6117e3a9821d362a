"""Scores of free-running captions while a model is trained, to choose the best epoch by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core import decoding, metrics
from core.coco_utils import caption_limit, decode_captions
from core.metrics.caption_files import reference_captions

MOST = 500  # images
BEAM_SIZE = 3
_BATCH = 100


class CaptionScores:
    """Captions images of a split by beam search, as ``inference.py`` does, and scores them.

    References are as the vocabulary has them, so these scores serve to compare epochs;
    ``core.metrics`` has those to compare with others'.

    Inputs:
    - data: from ``load_coco_data``
    - split: whose images
    - most: number of images, evenly spaced over the split
    - beam_size: of the search
    """

    NAMES = ("BLEU-4", "CIDEr-D")

    def __init__(
        self, data: Mapping, split: str = "val", most: int = MOST, beam_size: int = BEAM_SIZE
    ):
        self.features, self.idx_to_word = data[f"{split}_features"], data["idx_to_word"]
        self.how = {"beam_size": beam_size, "max_length": caption_limit(data)}
        texts, _ = reference_captions(data, split)
        count = min(most, len(texts))
        if count < 2:
            raise ValueError(
                f"CIDEr-D: found {count} image in {split}, expected at least 2; choose the epoch "
                "by its loss, or hold more images out"
            )
        which = f"the {count:,}" if count == len(texts) else f"{count:,} of the {len(texts):,}"
        self.scored = f"{which} images of {split}"  # in words, for those who show the scores
        self.images = np.array(sorted(texts))[np.arange(count) * len(texts) // count]
        self.references = {
            i: [metrics.ptb_tokenize(t) for t in texts[i]] for i in self.images.tolist()
        }

    def __call__(self, model) -> dict[str, float]:
        """The scores of a model, 0 to 100 (CIDEr-D to 1,000)."""
        said: dict[int, list[str]] = {}
        for start in range(0, len(self.images), _BATCH):
            images = self.images[start : start + _BATCH]
            ids, _ = decoding.beam_search(model, self.features[images], **self.how)
            for image, text in zip(
                images.tolist(), decode_captions(ids[:, 0], self.idx_to_word), strict=True
            ):
                said[image] = metrics.ptb_tokenize(text)
        scores = metrics.score_words(said, self.references)
        return {name: scores[name] for name in self.NAMES}
