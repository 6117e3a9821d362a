"""BLEU, ROUGE-L and CIDEr-D of captions: the numbers of the COCO scorers, without Java.

Every score is on the scale from 0 to 100 that papers print. CIDEr-D alone can be more, 1,000 at the
most; the COCO tools print 0.54 for what is 54 here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from core.metrics.ptb import ptb_tokenize

Words = Sequence[str]
Candidates = Mapping[Hashable, Words]
References = Mapping[Hashable, Sequence[Words]]
Vector = tuple[dict[tuple[str, ...], float], list[float], int]  # see ``CIDErD._vector``

LONGEST = 4  # n-grams of 1 to 4 words
METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D")
# The COCO scorer adds these, so as never to divide by 0: a precision of 0/0 counts as 1e-6.
_TINY, _SMALL = 1e-15, 1e-9
_BETA = 1.2
_SIGMA = 6.0


def ngrams(words: Words) -> Counter[tuple[str, ...]]:
    """How often each run of 1 to 4 words occurs."""
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, LONGEST + 1)
        for start in range(len(words) - n + 1)
    )


# ---------------------------------------------------------------------------------------------
# The metrics
# ---------------------------------------------------------------------------------------------


def bleu(candidates: Candidates, references: References) -> dict[str, float]:
    """BLEU-1 to BLEU-4 of a corpus: how many n-grams of the candidates are in the references.

    Inputs:
    - candidates: for each image its caption, a list of words
    - references: for each image its reference captions, lists of words

    Returns ``BLEU-1`` to ``BLEU-4``, 0 to 100: BLEU-n is the geometric mean of the precisions of
    1-grams to n-grams, times the brevity penalty exp(1 - 1/ratio) where the ratio is below 1; and
    ``length ratio``, words of the candidates per word of the references. Counted over the whole
    corpus: no mean of the images' scores. Of the references of an image, the one whose length is
    closest counts, the shorter one where two are.

    Raises ValueError when the images of the two differ, or one has no reference.

    Source: Papineni et al., "BLEU", ACL 2002, section 2; the constants are the COCO scorer's.
    """
    _check(candidates, references)
    correct, guessed = np.zeros(LONGEST), np.zeros(LONGEST)
    length = reference_length = 0
    for image, words in candidates.items():
        right, said, closest = _matches(words, _Counted(references[image]))
        correct += right
        guessed += said
        length += len(words)
        reference_length += closest
    precisions = (correct + _TINY) / (guessed + _SMALL)
    means = np.cumprod(precisions) ** (1 / np.arange(1, LONGEST + 1))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    scores = 100 * min(1.0, math.exp(1 - 1 / ratio)) * means
    return dict(zip(METRICS, scores.tolist(), strict=False)) | {"length ratio": ratio}


class _Counted:
    """The references of an image, counted for BLEU: n-grams at the most, and numbers of words."""

    def __init__(self, references: Sequence[Words]):
        self.most: Counter = Counter()
        for reference in references:
            self.most |= ngrams(reference)
        self.lengths = sorted(map(len, references))


def _matches(words: Words, wanted: _Counted) -> tuple[list[int], list[int], int]:
    """Of 1-grams to 4-grams how many are right and how many there are; the closest length."""
    right = [0] * LONGEST
    # Clipped: a word said more often than in any one reference is right only so many times.
    for ngram, count in ngrams(words).items():
        right[len(ngram) - 1] += min(count, wanted.most[ngram])
    said = [max(0, len(words) - n) for n in range(LONGEST)]
    # The lengths rise: of two that are as close, ``min`` takes the shorter.
    return right, said, min(wanted.lengths, key=lambda length: abs(length - len(words)))


class SentenceBLEU:
    """BLEU-4 of single captions, as a reward: that of a corpus is no mean of these.

    Most captions have no 4-gram right, and would all have 0. So 1 is added to the right ones and to
    all, for 2-grams to 4-grams; a caption with no word right has 0 all the same.

    Inputs:
    - references: for each image its reference captions, lists of words

    Raises ValueError when an image has no reference.

    Source: Papineni et al., "BLEU", ACL 2002, section 2; the 1 is that of Lin and Och, "ORANGE",
    Coling 2004, section 4.
    """

    def __init__(self, references: References):
        _check_references(references)
        self._counted = {image: _Counted(several) for image, several in references.items()}

    def score(self, image: Hashable, words: Words) -> float:
        """BLEU-4 of one caption of an image, a list of words; 0 to 100."""
        if image not in self._counted:
            raise ValueError(f"BLEU: image {image!r} has no references")
        right, said, closest = _matches(words, self._counted[image])
        if not right[0]:
            return 0.0
        precision = right[0] / said[0]
        for n in range(1, LONGEST):
            precision *= (right[n] + 1) / (said[n] + 1)
        return 100 * precision ** (1 / LONGEST) * min(1.0, math.exp(1 - closest / len(words)))


def rouge_l(candidates: Candidates, references: References) -> float:
    """ROUGE-L: the longest common subsequence of words, as COCO counts it; mean over the images.

    Inputs as those of ``bleu``. Returns 0 to 100. Of an image, precision P is the longest common
    subsequence over the length of the candidate, recall R over that of the reference, each the best
    over the references, which may be two different ones: (1 + b²) P R / (R + b² P), b = 1.2.

    Raises ValueError as ``bleu`` does.

    Source: Lin, "ROUGE", ACL 2004 workshop, section 3, equations 2 to 4; b is the COCO scorer's.
    """
    _check(candidates, references)
    scores = []
    for image, words in candidates.items():
        # To the COCO scorer, no words are one empty word: two captions without words are the same.
        words = words or [""]
        common = [(_common(words, r or [""]), len(r) or 1) for r in references[image]]
        precision = max(same / len(words) for same, _ in common)
        recall = max(same / length for same, length in common)
        scores.append(
            (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision) if recall else 0.0
        )
    return 100 * float(np.mean(scores))


def _common(one: Words, other: Words) -> int:
    """The length of the longest common subsequence: a row of dynamic programming in one number.

    Bit j of ``row`` is 0 where the length grows at word j of ``other``: long captions take no time.

    Source: Hyyrö, "Bit-parallel LCS-length computation revisited", AWOCA 2004, section 3.
    """
    where: dict[str, int] = {}
    for j, word in enumerate(other):
        where[word] = where.get(word, 0) | 1 << j
    full = (1 << len(other)) - 1
    row = full
    for word in one:
        matches = row & where.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(other) - row.bit_count()


class CIDErD:
    """CIDEr-D: likeness to the references, where n-grams that few images have count the most.

    The references are counted once; then any number of captions can be scored, one by one, as
    self-critical training does. A corpus has the mean of the scores of its captions.

    Inputs:
    - references: for each image its reference captions, lists of words

    Raises ValueError when there are fewer than two images, or one without a reference.

    Source: Vedantam, Zitnick and Parikh, "CIDEr", CVPR 2015: equations 1 to 3, and what the section
    on gameability adds for the D: clipping, and a Gaussian penalty on the difference in length.
    """

    def __init__(self, references: References):
        _check_references(references)
        if len(references) < 2:
            raise ValueError(
                "CIDEr-D: found 1 image, expected at least 2: an n-gram weighs log(images / images "
                "that have it), which is 0 for all of one image; score more images, or use BLEU "
                "and ROUGE-L"
            )
        self.references = references
        frequency: Counter = Counter()
        for captions in references.values():
            frequency.update(set().union(*map(ngrams, captions)))
        self._of_unseen = math.log(len(references))
        self._weights = {
            ngram: self._of_unseen - math.log(count) for ngram, count in frequency.items()
        }
        self._vectors: dict[Hashable, list[Vector]] = {}

    def score(self, image: Hashable, words: Words) -> float:
        """CIDEr-D of one caption of an image, a list of words; 0 to 1,000, as papers print it."""
        return self.mean_score([image], words)

    def mean_score(self, images: Sequence[Hashable], words: Words) -> float:
        """The mean of ``score`` of one caption over several images."""
        caption = self._vector(words)
        likeness = [
            sum(_likeness(caption, reference) for reference in references) / len(references)
            for references in map(self._of_image, images)
        ]
        # CIDEr-D has a factor of 10 by definition; 100 is for the scale.
        return 10 * 100 * sum(likeness) / len(likeness)

    def _of_image(self, image: Hashable) -> list[Vector]:
        """The references of an image, counted when they are first asked for."""
        if image not in self._vectors:
            if image not in self.references:
                raise ValueError(f"CIDEr-D: image {image!r} has no references")
            self._vectors[image] = [self._vector(r) for r in self.references[image]]
        return self._vectors[image]

    def _vector(self, words: Words) -> Vector:
        """Weight of each n-gram, norm for each n, and number of words."""
        weights = {
            ngram: count * self._weights.get(ngram, self._of_unseen)
            for ngram, count in ngrams(words).items()
        }
        squares = [0.0] * LONGEST
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        return weights, [math.sqrt(square) for square in squares], len(words)


def _likeness(caption: Vector, reference: Vector) -> float:
    """The mean over n of the cosine of two captions' n-grams, less for another length: 0 to 1."""
    vector, norms, length = caption
    wanted, reference_norms, reference_length = reference
    products = [0.0] * LONGEST
    for ngram, weight in vector.items():
        if ngram in wanted:
            # Clipped: to say a word again and again does not make it more alike.
            products[len(ngram) - 1] += min(weight, wanted[ngram]) * wanted[ngram]
    cosines = sum(
        product / (norm * reference_norm)
        for product, norm, reference_norm in zip(products, norms, reference_norms, strict=True)
        if product
    )
    return cosines / LONGEST * math.exp(-((length - reference_length) ** 2) / (2 * _SIGMA**2))


def cider_d(candidates: Candidates, references: References) -> float:
    """CIDEr-D of a corpus, 0 to 1,000: the mean of ``CIDErD.score`` over the images.

    Inputs as those of ``bleu``. Raises ValueError as ``bleu`` and ``CIDErD`` do.
    """
    _check(candidates, references)
    cider = CIDErD(references)
    return float(np.mean([cider.score(image, words) for image, words in candidates.items()]))


def score(
    candidates: Mapping[Hashable, str], references: Mapping[Hashable, Sequence[str]]
) -> dict[str, float | None]:
    """All metrics of captions given as text; they are taken apart by ``ptb_tokenize``.

    Inputs:
    - candidates: for each image its caption
    - references: for each image its reference captions

    Returns ``BLEU-1`` to ``BLEU-4``, ``ROUGE-L`` and ``CIDEr-D``, 0 to 100 (CIDEr-D: to 1,000), and
    the ``length ratio`` of ``bleu``. Of one image CIDEr-D is None: it weighs n-grams by how few
    images have them.

    Raises ValueError as ``bleu`` does.
    """
    return score_words(*tokenized(candidates, references))


def score_words(candidates: Candidates, references: References) -> dict[str, float | None]:
    """What ``score`` returns, of captions that are lists of words already."""
    by_bleu = bleu(candidates, references)
    ratio = by_bleu.pop("length ratio")
    return by_bleu | {
        "ROUGE-L": rouge_l(candidates, references),
        "CIDEr-D": cider_d(candidates, references) if len(references) > 1 else None,
        "length ratio": ratio,
    }


def tokenized(candidates: Mapping, references: Mapping) -> tuple[dict, dict]:
    """Candidates and references given as text -> the same as lists of words."""
    for image, caption in candidates.items():
        if not isinstance(caption, str) or isinstance(references.get(image), str):
            raise ValueError(
                f"image {image!r}: expected text as its caption and a list of texts as its "
                "references; score_words takes lists of words"
            )
    return (
        {image: ptb_tokenize(caption) for image, caption in candidates.items()},
        {image: [ptb_tokenize(c) for c in captions] for image, captions in references.items()},
    )


def _check(candidates: Candidates, references: References) -> None:
    _check_references(references)
    if candidates.keys() != references.keys():
        odd = next(iter(candidates.keys() ^ references.keys()))
        found = "a caption, no references" if odd in candidates else "references, no caption"
        raise ValueError(f"image {odd!r}: found {found}; score the same images on both sides")
    for image, words in candidates.items():
        _check_words(image, words)


def _check_references(references: References) -> None:
    if not references:
        raise ValueError("found no images, expected at least one with its references")
    for image, captions in references.items():
        if not captions:
            raise ValueError(f"image {image!r}: found no references, expected at least one")
        for words in captions:
            _check_words(image, words)


def _check_words(image: Hashable, words: Words) -> None:
    if isinstance(words, str):
        raise ValueError(
            f"image {image!r}: found the text {words!r}, expected a list of words; "
            "core.metrics.ptb_tokenize makes one"
        )
