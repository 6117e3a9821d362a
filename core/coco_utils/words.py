"""Words and their ids: captions as words, a vocabulary, captions as ids, ids as sentences again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from core.layers import as_array, check_word_ids

Array = np.ndarray

SPECIAL_WORDS = ("<NULL>", "<START>", "<END>", "<UNK>")
MANY_UNKNOWN = 0.2  # share of <UNK> among the words of captions above which there is a warning

# ---------------------------------------------------------------------------------------------
# Captions as words
# ---------------------------------------------------------------------------------------------

# One kind of apostrophe (for the curved one, modifier letters, the prime, the wide one, those of
# Armenian, Hebrew and Mexican languages), one of hyphen; a blank of no width is a blank.
_ALIKE = str.maketrans(
    dict.fromkeys("\u2019\u02b9\u02bb\u02bc\u2032\uff07\u055a\u05f3\ua78b\ua78c", "'")
    | dict.fromkeys("\u2010\u2011", "-")
    | dict.fromkeys("\u2013\u2014", "--")
    | {"\u200b": " "}
)
# Between letters these are written for an apostrophe, elsewhere they are quotes.
_QUOTES = re.compile(r"(?<=\w)[`\u00b4\u2018\u201b](?=\w)")
# What nobody sees: Unicode's "default ignorable" characters (soft hyphens, variation selectors,
# marks of direction), but for the two joiners, which change how the letters beside them look.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_JOINERS = "\u200c\u200d"
_STAND_IN = "\u00aa"  # a letter to the ``re`` module, and none from a to z
_ON_NOTHING = re.compile(rf"(?<![^\W_]){_STAND_IN}+")
_PLAIN_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


class _StandIns(dict):
    """For ``str.translate``: a letter for each mark of a word, a blank for an enclosing mark."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        kind = unicodedata.category(char)
        inside = kind in ("Mn", "Mc") or char in _JOINERS
        self[code] = _STAND_IN if inside else " " if kind == "Me" else char
        return self[code]


_STAND_INS = _StandIns()


def plain_words(caption: str) -> list[str]:
    """A caption as words: runs of letters, digits and marks, in lower case; punctuation dropped.

    As the COCO tools do (PTB tokens without punctuation), but that contractions stay whole
    ("isn't", not "is n't") and that words joined by a hyphen are two ("t shirt"). What a word is
    made of says ``find_words``.
    """
    return find_words(caption, _PLAIN_WORD.findall)


def find_words(text: str, find: Callable[[str], list[str]]) -> list[str]:
    """The words that ``find`` sees in a text: what both tokenizers hold to be a word.

    - Words are in lower case and in Unicode's form NFC: an accent is the same however it is stored.
    - A combining mark (categories Mn and Mc: accents, the vowel signs of Hindi, Thai or Arabic)
      belongs to the word in which it is written, and so does a joiner, as in Persian and Bengali.
    - There is one kind of apostrophe and one of hyphen.
    - What nobody sees (a soft hyphen) is left out, and so is a mark on nothing.

    Lower case is Unicode's, which knows no language: a Turkish capital I with a dot becomes an i
    and a dot, which is a mark, however the capital is stored.

    Inputs:
    - text: a caption
    - find: text -> pieces of it in their order, without blanks; all letters are in one of them

    For ``find`` a mark is one more letter. The ``re`` module takes it for punctuation, and ``\\w+``
    would cut Hindi at each vowel sign.
    """
    if text.isascii():
        found = find(_QUOTES.sub("'", text) if "`" in text else text)
        return [word.lower() for word in found]
    text = _UNSEEN.sub("", unicodedata.normalize("NFC", text).translate(_ALIKE))

    def without_loose(run: re.Match) -> str:  # the first letter of the run may be a stand-in itself
        loose = text[run.start() : run.end()].partition(_STAND_IN)[0]
        return run[0][len(loose) :].rjust(len(run[0]))

    shown = _ON_NOTHING.sub(without_loose, text.translate(_STAND_INS))
    marks = (mark for mark, letter in zip(text, shown, strict=True) if letter == _STAND_IN)
    found = re.sub(_STAND_IN, lambda _: next(marks), " ".join(find(_QUOTES.sub("'", shown))))
    words = unicodedata.normalize("NFC", found.lower()).split()
    return [word.strip(_JOINERS) for word in words]


# ---------------------------------------------------------------------------------------------
# Words as ids
# ---------------------------------------------------------------------------------------------


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
    captions = as_array(captions)
    if captions.ndim == 1:
        return decode_captions(captions[None], idx_to_word)[0]
    if captions.size:
        check_word_ids(captions, len(idx_to_word), "captions")
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
