"""Words and their ids: a vocabulary of captions, captions as ids, and ids as sentences again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Array = np.ndarray

SPECIAL_WORDS = ("<NULL>", "<START>", "<END>", "<UNK>")


def build_vocabulary(captions: Sequence[Sequence[str]], min_count: int = 1) -> list[str]:
    """idx_to_word: the special words, then every word that occurs at least ``min_count`` times.

    Inputs:
    - captions: training captions, each a list of words
    - min_count: rarer words become <UNK>

    Frequent words first; words as frequent as each other in alphabetical order.
    """
    counts: dict[str, int] = {}
    for words in captions:
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    kept = [word for word, count in counts.items() if count >= min_count]
    return [*SPECIAL_WORDS, *sorted(kept, key=lambda word: (-counts[word], word))]


def encode_captions(
    captions: Sequence[Sequence[str]], word_to_idx: Mapping[str, int], length: int
) -> Array:
    """Lists of words -> (M, length) int32 ids: <START> words <END>, padded with <NULL>."""
    null, start, end, unknown = (word_to_idx[word] for word in SPECIAL_WORDS)
    encoded = np.full((len(captions), length), null, dtype=np.int32)
    for row, words in zip(encoded, captions, strict=True):
        ids = [start, *(word_to_idx.get(word, unknown) for word in words), end]
        row[: len(ids)] = ids
    return encoded


def decode_captions(captions: Array, idx_to_word: Sequence[str]) -> list[str] | str:
    """Word ids -> sentences.

    Inputs:
    - captions: (N, T) ids, or (T,) for one caption
    - idx_to_word: the vocabulary

    Returns a list of N strings, or one string. A sentence ends before its first <END>; <START> and
    <NULL> are left out.
    """
    captions = np.asarray(captions)
    if captions.ndim == 1:
        return decode_captions(captions[None], idx_to_word)[0]
    sentences = []
    for row in captions:
        words = []
        for index in row:
            word = idx_to_word[index]
            if word == "<END>":
                break
            if word not in ("<NULL>", "<START>"):
                words.append(word)
        sentences.append(" ".join(words))
    return sentences
