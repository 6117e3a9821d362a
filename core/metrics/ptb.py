"""Captions as words, the way the COCO tools take them apart: Penn Treebank tokens, no punctuation.

The COCO scorers run the Stanford tokenizer, in Java, and drop punctuation. Scores depend on it, so
that what is compared must be taken apart alike; these few rules say the same without Java.
"""

from __future__ import annotations

import re

from core.coco_utils.words import find_words

# Where one written word is two tokens: is|n't, man|'s, can|not, gon|na, y'|all, 't|is.
_SEAM = re.compile(
    r"""
    (?<=\w) (?= n't(?!\w) | '(?:s|m|d|re|ve|ll|n)(?!\w) )
  | (?<=\bcan) (?=not\b)
  | (?<=\bgon|\bgot|\bwan) (?=[nt]a\b)
  | (?<=\bgim|\blem) (?=me\b)
  | (?<=\by') (?=all\b)
  | (?<=(?<!\w)'t) (?=(?:is|was)\b)
    """,
    re.VERBOSE | re.IGNORECASE,
)

# What no alternative takes (blanks, single marks, quotes, dashes, dots) is dropped.
_TOKEN = re.compile(
    r"""
    </?[a-z][^\s<>]*>                                    # <UNK>
  | n't(?!\w) | 'n' | '(?:s|m|d|re|ve|ll|n|(?<!\w')(?:t|em|til|cause)|\d\ds?)(?!\w) | y'
  | (?:[a-z]\.)+ (?!\w)                                  # U.S. and initials
  | (?: mr|mrs|ms|dr|prof|gen|col|capt|lt|sgt|rev|gov|sen|jr|sr|bros|inc|co|corp|ltd|dept|univ|est
      | st|ave|blvd|rd|bldg|mt|ft|sq|vs|etc|mon|tues?|wed|thu|thurs|fri
      | jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec ) \. (?!\w)
  | no\. (?=\s*\d)                                       # No. 5, but "no."
  | [:;=]-? [()]                                         # :)
  | (?<!\w) [-+]? \d* (?:[.,:/]\d+)+ (?:-\w+)*           # 3,000  10:30  1/2  2.5-inch
  | (?<!\w) [-+] \d+
  | [@\#] [a-z]\w*                                       # @home
  | (?-i: [A-Z]+ & [A-Z]+ )                              # B&W, but b & w
  | (?: c'(?:mon|est) | li'l | e'er | nor'easter | nat'l ) (?!\w) | (?-i: (?<!\w) j' (?=\w) )
  | \w+ (?: [-./!?]\w+                                   # t-shirt  man/woman
        | (?-i: (?<=(?<!\w)[dlonA-HJ-XZ]) ' (?=[^\W\d_]{2})          # o'clock  l'homme
              | (?<=[^\W\d_][aeiouyAEIOUY]) ' (?=[aeiouA-Z]) ) \w+ )*  # ma'am, but Ankara|da
  | [!?]{2,} | \*+
  | (?! [\u2018\u201b\u2039\u203a«»\u2012\u2015\u3008-\u3011] )  # quotes, dashes, CJK brackets
    (?! [\x00-\x1f\x7f-\x9f\U00010000-\U0010ffff] )      # controls, emoji
    [^\w\s.,:;!?'"“”`…-]                                 # & $ % (
    """,
    re.VERBOSE | re.IGNORECASE,
)

_BRACKETS = str.maketrans(
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
)


def ptb_tokenize(caption: str) -> list[str]:
    """A caption as the words that the COCO scorers count.

    Lower case; contractions in two ("is n't", "man 's", "can not"); words with a hyphen whole;
    abbreviations with their point; punctuation dropped. Kept is, as by the COCO tools, what their
    list of punctuation misses: brackets (which are "-lrb-" by then, and "-LRB-" in the list), "!!".

    The same as ``PTBTokenizer`` of pycocoevalcap 1.2 (Stanford CoreNLP 3.4.1, ``-lowerCase``) for
    each of 35,000 captions of Flickr8k, and for words of Hindi, Bengali, Tamil, Thai, pointed
    Arabic and Hebrew. Different are, among others: web and mail addresses, signs for currencies and
    fractions (£, ½), faces such as :D, some full stops after single letters. And Stanford's
    tokenizer cuts words at characters that it does not know, such as the joiners of Persian and the
    vowel signs of Kannada, Khmer and Burmese; here they stay whole.

    Vocabularies hold other words: those of ``core.coco_utils.plain_words``, contractions whole and
    words with a hyphen apart. So scoring always starts from text. What a letter is, ``find_words``
    says for both.
    """
    words = find_words(caption, lambda text: _TOKEN.findall(_SEAM.sub(" ", text)))
    return [word.translate(_BRACKETS) for word in words]
