"""Training on what the model says itself: a caption that scores better than its usual one is made
more probable, one that scores worse less.

Self-critical sequence training: Rennie et al., CVPR 2017; REINFORCE (Williams 1992) with the score
of the greedy caption as the baseline. It sharpens a model that has learned to talk by
cross-entropy, and needs one to start from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from core import decoding
from core.caption_files import reference_captions
from core.coco_utils import decode_captions
from core.metrics import CIDErD, tokenize

Array = np.ndarray


class SelfCritical:
    """Makes batches of sampled captions, each with the weight of its loss.

    Inputs:
    - data: from ``load_coco_data``; the reward is CIDEr-D against the training captions

    ``reward`` is the mean CIDEr-D, 0 to 1,000, of the greedy captions of the last epoch.
    """

    def __init__(self, data: Mapping):
        texts, _ = reference_captions(data, "train")
        self.images = np.array(sorted(texts))
        self.features, self.idx_to_word = data["train_features"], data["idx_to_word"]
        self.max_length = data["train_captions"].shape[1] - 1
        self.cider = CIDErD({i: list(map(tokenize, several)) for i, several in texts.items()})
        self.reward = 0.0

    def batches(
        self, model, batch_size: int, rng: np.random.Generator
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Every image once, shuffled: one sampled caption of each, drawn when it is asked for.

        Yields captions (N, T + 1), features (N, ...) and weights (N,). The gradient of
        ``sum over n of weights[n] * -log p(caption n) / N`` points to a higher expected score
        (Rennie et al., equation 8).
        """
        order, rewards = rng.permutation(self.images), []
        for start in range(0, len(order), batch_size):
            images = order[start : start + batch_size]
            features = self.features[images]
            sampled = decoding.sample(model, features, rng, self.max_length)
            usual = self._scores(images, decoding.greedy(model, features, self.max_length))
            rewards.append(usual)
            # In units of the COCO tools, where a good caption scores about 1.
            weights = (self._scores(images, sampled) - usual) / 100
            captions = np.insert(sampled, 0, model.start, axis=1)
            length = 1 + np.flatnonzero((captions != model.null).any(axis=0))[-1]
            yield captions[:, :length], features, weights
        self.reward = float(np.concatenate(rewards).mean())

    def _scores(self, images: Array, ids: Array) -> Array:
        said = map(tokenize, decode_captions(ids, self.idx_to_word))
        pairs = zip(images.tolist(), said, strict=True)
        return np.array([self.cider.score(image, words) for image, words in pairs])
