"""One HTML page of a model's captions: how probable was each word, and where did the model look?

The page holds all that it shows, pictures included: it can be mailed, and opens without a network.
Its look and its few lines of JavaScript are in ``report_template.html``.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from core import metrics
from core.coco_utils import SPECIAL_WORDS
from core.decoding import word_log_probabilities
from core.metrics.caption_files import rare_words_apart
from core.support.files import write_text

Array = np.ndarray

PICTURE_SIZE = 320  # pixels of a side: sharp on the page's 256, and some 25 kB
WHOLE = 10_000  # attention weights are written in whole parts of this
_TEMPLATE = Path(__file__).with_name("report_template.html")
_UNKNOWN, _END = SPECIAL_WORDS[3], SPECIAL_WORDS[2]


@dataclass
class Word:
    """A word of a caption, <END> included.

    - log_probability: natural logarithm; of the word after those before it
    - weights: (L,) attention over a square grid of locations, in reading order, which sum to 1;
      None for a model that does not choose where to look
    """

    text: str
    log_probability: float
    weights: Array | None = None


@dataclass
class Entry:
    """What the page says of one image.

    - name: of the file
    - picture: (PICTURE_SIZE, PICTURE_SIZE, 3) uint8, what the encoder saw; None: it is not here
    - words: of the caption that was asked for
    - others: other ways of decoding, each with its caption
    - beam: the best captions of beam search, each with its score
    - references: what people wrote; may be empty
    - scores: of this caption alone, by metric; may be empty
    """

    name: str
    picture: Array | None
    words: Sequence[Word]
    others: Mapping[str, str] = field(default_factory=dict)
    beam: Sequence[tuple[str, float]] = ()
    references: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------
# What there is to say
# ---------------------------------------------------------------------------------------------


def read_words(
    model, idx_to_word: Sequence[str], features: Array, ids: Sequence[Array]
) -> list[list[Word]]:
    """Each word of given captions with its probability and, as a mean over the heads, its map.

    Inputs:
    - model: a captioning model, of either engine
    - idx_to_word: the vocabulary
    - features: (N, D), or (N, L, C) for a model that reads a grid
    - ids: N captions, arrays of word ids, without <START> and padding

    There is no map where L is no square of at least 4: it could not be laid over a picture.
    """
    captions = np.full((len(ids), 1 + max(map(len, ids))), model.null)
    captions[:, 0] = model.start
    for row, caption in zip(captions, ids, strict=True):
        row[1 : 1 + len(caption)] = caption
    log_p = word_log_probabilities(model, features, captions)
    maps = np.full(log_p.shape, None)
    L = features.shape[1] if features.ndim == 3 else 1
    if model.grid and L > 1 and math.isqrt(L) ** 2 == L:
        maps = model.attention_weights(features, captions).mean(axis=2)
    return [
        [Word(idx_to_word[i], float(log_p[n, t]), maps[n, t]) for t, i in enumerate(caption)]
        for n, caption in enumerate(ids)
    ]


def score_captions(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Scores of all captions together, as ``core.metrics`` has them, and of each caption alone.

    Inputs:
    - captions: one an image
    - references: for each image its reference captions; each <UNK> in them matches nothing

    Returns a dict as of ``metrics.score``, empty for fewer than two images, and for each image
    BLEU-4 and CIDEr-D; without the latter for fewer than two images, which cannot tell a rare
    n-gram from a frequent one.

    Raises ValueError for an image without references.
    """
    apart = rare_words_apart()
    said = {i: metrics.ptb_tokenize(caption) for i, caption in enumerate(captions)}
    wanted = {i: [metrics.ptb_tokenize(apart(r)) for r in of] for i, of in enumerate(references)}
    alone = [{"BLEU-4": metrics.bleu({i: said[i]}, {i: wanted[i]})["BLEU-4"]} for i in said]
    if len(said) < 2:
        return {}, alone
    cider = metrics.CIDErD(wanted)
    for i, scores in enumerate(alone):
        scores["CIDEr-D"] = cider.score(i, said[i])
    return metrics.score_words(said, wanted), alone


# ---------------------------------------------------------------------------------------------
# The page
# ---------------------------------------------------------------------------------------------


def write_report(
    path: str | Path,
    facts: Mapping[str, str],
    decoder: str,
    entries: Sequence[Entry],
    scores: Mapping[str, float] | None = None,
    scored: str = "",
) -> None:
    """Writes the page, atomically.

    Inputs:
    - path: of the file
    - facts: what the page says of the model and of the images: names and texts
    - decoder: what found the captions
    - entries: the images
    - scores: of all captions together, from ``score_captions``; may be empty
    - scored: which captions these are, as "the 300 images of val"
    """
    page = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title="Captions, word by word",
        header=_header(facts, entries, scores or {}, scored),
        articles="\n".join(_article(entry, decoder) for entry in entries),
    )
    write_text(path, page, errors="backslashreplace")


def _header(
    facts: Mapping[str, str], entries: Sequence[Entry], scores: Mapping[str, float], scored: str
) -> str:
    maps = any(word.weights is not None for entry in entries for word in entry.words)
    lead = "Point at a word, tap it, or go from word to word with Tab and the arrow keys: " + (
        "the photo stays bright where the model looked when it chose that word. Escape clears."
        if maps
        else "its probability is written out below. There is no map of where this model looked, "
        "since it read each image as one vector."
    )
    notes = [
        "The line below a word is its probability, given the image and the words before it.",
        "A score in the beam is log-probability / words ** length_penalty, in nats; where "
        "neighbours choose, likeness to their captions is added.",
    ]
    known = {name: scores[name] for name in metrics.METRICS if name in scores}
    of = f", of {escape(scored)}" if scored else ""
    scored = f"<dt>Scores</dt><dd>{_scores(known)}{of}</dd>" if known else ""
    if any(entry.scores for entry in entries):
        notes.append(
            "Scores go from 0 to 100, CIDEr-D to 1,000; BLEU-4 of a caption is 0 unless four words "
            "in a row are those of a reference."
        )
        if not scores:
            notes.append(
                "CIDEr-D is left out: it weighs words by how few images have them, and this is one."
            )
    if any(_UNKNOWN in text for entry in entries for text in entry.references):
        notes.append(
            f"{_UNKNOWN} in a reference is a word too rare for the vocabulary, which matches none."
        )
    return (
        f'<p class="lead">{escape(lead)}</p>\n<dl>{_rows(facts)}{scored}</dl>\n'
        f'<p class="note">{escape(" ".join(notes))}</p>'
    )


def _article(entry: Entry, decoder: str) -> str:
    name = escape(entry.name)
    picture = "<p>picture not on this machine</p>"
    if entry.picture is not None:
        picture = f'<img src="{_data_uri(entry.picture)}" alt="the photo {name}">'
    nats = sum(word.log_probability for word in entry.words)
    whole = f"log-probability {nats:.2f}, {nats / len(entry.words):.2f} a word"
    scored = f"<dt>scores</dt><dd>{_scores(entry.scores)}</dd>" if entry.scores else ""
    beam = [f"<li><b>{score:.2f}</b> {_text(text)}</li>" for text, score in entry.beam]
    written = [f"<li>{_text(text)}</li>" for text in dict.fromkeys(entry.references)]
    return f"""<article aria-label="{name}">
<figure>
<div class="photo">{picture}<canvas aria-hidden="true"></canvas></div>
<figcaption><h2>{name}</h2></figcaption>
</figure>
<div>
<h3>{escape(decoder)}</h3>
<p class="caption">{" ".join(map(_word, entry.words))}</p>
<p class="says" data-caption="{whole}">{whole}</p>
<dl>{_rows(entry.others)}{scored}</dl>
</div>
<div class="lists">
{_list("best of the beam", beam)}
{_list("references", written)}
</div>
</article>"""


def _word(word: Word) -> str:
    p = math.exp(word.log_probability)
    says, drawn = f"{word.text}: probability {p:.3g}", ""
    if word.weights is not None:
        says += (
            f"; largest weight {word.weights.max():.3f} (all equal: {1 / len(word.weights):.3f})"
        )
        parts = np.rint(WHOLE * word.weights).astype(int).tolist()
        drawn = f' data-map="{json.dumps(parts, separators=(",", ":"))}"'
    return (
        f'<button type="button" class="word{" end" if word.text == _END else ""}" '
        f'aria-label="{escape(says)}" data-says="{escape(says)}"{drawn} style="--p:{100 * p:.1f}%">'
        f"{escape(word.text)}<small>{_percent(p)}</small></button>"
    )


def _percent(p: float) -> str:
    return f"{100 * p:.0f} %" if p >= 0.005 else "&lt; 1 %"


def _data_uri(picture: Array) -> str:
    jpeg = io.BytesIO()
    Image.fromarray(picture).save(jpeg, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"


def _rows(texts: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{_text(text)}</dd>" for name, text in texts.items())


def _list(name: str, items: Sequence[str]) -> str:
    lines = "\n".join(items)
    return f"<section><h3>{name}</h3><ol>\n{lines}\n</ol></section>" if items else ""


def _scores(scores: Mapping[str, float]) -> str:
    return ", ".join(f"<b>{name} {score:.1f}</b>" for name, score in scores.items())


def _text(text: str) -> str:
    return escape(text) or "(no words)"
