"""Scores of captions: BLEU, ROUGE-L and CIDEr-D, the words they count, the files they come from."""

from core.metrics.baselines import controls
from core.metrics.caption_files import read_candidates, read_references
from core.metrics.matching import match
from core.metrics.ptb import ptb_tokenize
from core.metrics.ptb import ptb_tokenize as tokenize
from core.metrics.scores import (
    LONGEST,
    METRICS,
    CIDErD,
    SentenceBLEU,
    bleu,
    cider_d,
    ngrams,
    rouge_l,
    score,
    score_words,
)

__all__ = [
    "LONGEST",
    "METRICS",
    "CIDErD",
    "SentenceBLEU",
    "bleu",
    "cider_d",
    "controls",
    "match",
    "ngrams",
    "ptb_tokenize",
    "read_candidates",
    "read_references",
    "rouge_l",
    "score",
    "score_words",
    "tokenize",
]
