"""Training on what the model says itself: a caption that scores better than what it is held against
is made more probable, one that scores worse less.

Self-critical sequence training (Rennie et al., CVPR 2017): REINFORCE (Williams 1992), held against
the greedy caption, or against the other samples of the same image (Luo, arXiv:2003.09971), which
are as good as itself on average, so that the weights are as often above 0 as below. It sharpens a
model that has learned to talk by cross-entropy, and needs one to start from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from core import decoding
from core.coco_utils import caption_limit, decode_captions
from core.metrics import CIDErD, SentenceBLEU, ptb_tokenize
from core.metrics.caption_files import reference_captions

Array = np.ndarray

# Words to draw from. A model trained with label smoothing keeps a tenth for words that it does not
# mean: without this most samples hold one of them, and what is learned is to say anything else.
# The loss is that of drawing from these (``CaptioningModel.top_k``).
TOP_K = 10


class SelfCritical:
    """A source of batches for the solver: sampled captions, each with the weight of its loss.

    Inputs:
    - data: from ``load_coco_data``; the reward is a score against the training captions
    - samples: of each image; of 1 the greedy caption is what it is held against
    - bleu_reward: the reward is CIDEr-D and so many times BLEU-4, both as papers print them

    In CIDEr-D what few images share weighs most; BLEU-4 counts all runs of words alike.
    """

    workers = 0  # that read ahead: a caption is sampled from the model of that moment

    def __init__(self, data: Mapping, samples: int = 5, bleu_reward: float = 0.0):
        texts, _ = reference_captions(data, "train")
        self.images, self.samples = np.array(sorted(texts)), samples
        self.features, self.idx_to_word = data["train_features"], data["idx_to_word"]
        self.max_length = caption_limit(data)
        references = {i: list(map(ptb_tokenize, several)) for i, several in texts.items()}
        self.metrics, self.worth = [CIDErD(references)], [1.0]
        if bleu_reward:
            self.metrics.append(SentenceBLEU(references))
            self.worth.append(bleu_reward)
        self.means = np.zeros(len(self.metrics))  # of what the last captions were held against

    def steps(self, batch_size: int) -> int:
        """How many batches there are in an epoch."""
        return math.ceil(len(self.images) / self._images(batch_size))

    def figures(self) -> dict[str, float]:
        """What there is to say of the last epoch, for its row."""
        return {"reward": float(self.means @ self.worth), "train_CIDEr-D": float(self.means[0])}

    def _images(self, batch_size: int) -> int:
        """How many images there are in a batch of about so many captions."""
        return max(1, batch_size // self.samples)

    def batches(
        self, model, batch_size: int, rng: np.random.Generator
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Every image once, shuffled: sampled captions of each, drawn when they are asked for.

        Yields captions (N, T + 1), features (N, ...) and weights (N,); the captions of an image
        follow one another. The gradient of ``sum over n of weights[n] * -log p(caption n) / N``
        points to a higher expected score (Rennie et al., equation 8).
        """
        order, means = rng.permutation(self.images), []
        together = self._images(batch_size)
        for start in range(0, len(order), together):
            images = np.repeat(order[start : start + together], self.samples)
            features = self.features[images]
            sampled = decoding.sample(model, features, rng, self.max_length, top_k=TOP_K)
            scores = self._scores(images, sampled)
            against = self._held_against(model, images, features, scores)
            means.append(against)
            captions = np.insert(sampled, 0, model.start, axis=1)
            length = 1 + np.flatnonzero((captions != model.null).any(axis=0))[-1]
            # In units of the COCO tools, where a good caption scores about 1.
            yield captions[:, :length], features, (scores - against) @ self.worth / 100
        self.means = np.concatenate(means).mean(axis=0)

    def _held_against(self, model, images: Array, features, scores: Array) -> Array:
        if self.samples == 1:
            return self._scores(images, decoding.greedy(model, features, self.max_length))
        of_image = scores.reshape(-1, self.samples, len(self.metrics))
        others = of_image.sum(axis=1, keepdims=True) - of_image
        return (others / (self.samples - 1)).reshape(scores.shape)

    def _scores(self, images: Array, ids: Array) -> Array:
        """Captions (N, T) of images (N,) -> what each metric (M of them) says, (N, M)."""
        said = map(ptb_tokenize, decode_captions(ids, self.idx_to_word))
        pairs = zip(images.tolist(), said, strict=True)
        return np.array([[m.score(image, words) for m in self.metrics] for image, words in pairs])
