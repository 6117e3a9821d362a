"""Captions as words, the way the COCO tools take them apart: Penn Treebank tokens, no punctuation.

The COCO scorers run the Stanford tokenizer, in Java, and drop punctuation. Scores depend on it, so
that what is compared must be taken apart alike; these few rules say the same without Java.
"""

from __future__ import annotations

import re

# Curved quotes are straight ones; en and em dashes are two hyphens.
_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u2013": "--", "\u2014": "--"})

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
  | n't(?!\w) | 'n' | '(?:s|m|d|re|ve|ll|n|t|em|til|cause|\d\ds?)(?!\w) | y'
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
  | \w+ (?: [-./!?]\w+ | '[^\W\d]\w* )*                  # t-shirt  man/woman  o'clock
  | [!?]{2,} | \*+
  | [^\w\s.,:;!?'"“”`…-]                                 # & $ % (
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
    each of 35,000 captions of Flickr8k. Different are, among others: web and mail addresses, signs
    for currencies and fractions (£, ½), faces such as :D, characters that Stanford's tokenizer does
    not know (emoji: it drops them), and some full stops after single letters.

    Vocabularies hold other words: those of ``core.flickr8k.plain_words``, contractions whole and
    words with a hyphen apart. So scoring always starts from text.
    """
    text = _SEAM.sub(" ", caption.translate(_PLAIN))
    return [token.lower().translate(_BRACKETS) for token in _TOKEN.findall(text)]
