"""Writes golden_metrics.json: what the COCO tools say, for the tests to compare with.

    pip install --no-deps pycocoevalcap==1.2      (and Java, for the tokenizer)
    python tests/make_golden_metrics.py

Of the scores, only the seeds of the corpora and what pycocoevalcap's scorers say are stored. Of the
tokenizer, captions made up for the purpose and what its PTBTokenizer makes of them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

GOLDEN = Path(__file__).with_name("golden_metrics.json")
SEEDS = range(300)

CAPTIONS = """\
A child in a pink dress is climbing up a set of stairs in an entry way .
A man's dog isn't barking, and the dogs' toys can't be seen.
We cannot see them; they've gone, she'll say she'd like it, I'm sure you're right.
A man in a T-shirt and a black-and-white hat does a half-pipe on an x-ray .
"Stop!" said the boy with the 'cool' hat (on the left) -- who knows why...
A boy wears Mr. Potato head features on St. Patrick's day at 5th Ave.
A S.C.U.B.A. diver from the U.S. swims at 3 p.m. , or 10:30 , or so .
The number 5 player scores 3,000 points, 50% of 2.5-inch balls, 1/2 for $5.
A woman/man sits and/or stands by the a/c. A dog.The cat looks up!Really
Two kids slip'n slide, a slip 'n' slide; it's five o'clock, ma'am.
He's gonna run, she wanna go, they gotta stay, lemme see, gimme that, 'tis y'all's
What is this?? A cat!! A dog!? Yes! No?
A dog - a big one - runs; a cat -- a small one -- sits: on a mat
No. 5 leads and no. 7 says no.
A B&W photo of a b & b at the R&R # 1 #2 @home <UNK> * ** an at&t phone on t.v
the man in the sun. the girl sat. the street st.
Jr. Smith Jr., Dr. J. Doe etc. in Jan. 1990's and the '90s
A curly {set} of [brackets] (everywhere) :)
the man\u2019s \u201cgood\u201d dog doesn\u2019t run \u2014 it sits\u2026 caf\u00e9 na\u00efve
   spaces   and\ttabs   everywhere
.

couldn't've won't shan't ain't let's who've rock'n'roll dunno 'em 'til li'l
लड़की पानी में कूद रही है। लड़की's क-ख
দুটি কুকুর মাঠে, সে বসে আছে
தமிழ் நாய் ஓடுகிறது
สุนัขวิ่ง แมว
كَلْبٌ يَجْرِي
שָׁלוֹם כֶּלֶב
un garçon près du café-bar, Việt İstanbul x́ a ba\u00adby\u00ads hat
«le chien» ❤\ufe0f a 😀 dog 2\ufe0f\u20e3
İstanbul'da Ankara'da un'altra dell'uomo s'il l'homme qu'on j'ai c'est gov't Xi'an's D'Angelo a'b
""".split("\n")


def random_corpus(seed: int) -> tuple[dict[int, list[str]], dict[int, list[list[str]]]]:
    """Candidates and references, lists of words, for 2 to 8 images.

    Few words, so that n-grams meet. Among the candidates are empty ones, single words, words that
    no reference has, words said again and again, and references with a word changed. Only
    ``Random.random`` is used, whose numbers are promised to stay the same.
    """
    rng = random.Random(seed)

    def below(n: int) -> int:
        return int(rng.random() * n)

    def caption(longest: int) -> list[str]:
        return ["abcdefghijklm"[below(1 + below(13))] for _ in range(below(longest + 1))]

    candidates, references = {}, {}
    for image in range(2 + below(7)):
        references[image] = [caption(10) for _ in range(1 + below(5))]
        near = [*references[image][0], "more"]
        near[below(len(near))] = "never"
        kinds = [caption(12), near, list(references[image][-1]), caption(1), [], ["a"] * below(9)]
        candidates[image] = kinds[min(below(8), 5)] if rng.random() < 0.8 else caption(12)
    return candidates, references


def coco_scores(candidates: dict, references: dict) -> list[float]:
    """BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D as pycocoevalcap says them: 1 is our 100."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    said = {image: [" ".join(words)] for image, words in candidates.items()}
    wanted = {image: [" ".join(r) for r in captions] for image, captions in references.items()}
    bleu = Bleu(4).compute_score(wanted, said, verbose=0)[0]
    others = [scorer.compute_score(wanted, said)[0] for scorer in (Rouge(), Cider())]
    return [float(score) for score in (*bleu, *others)]


def coco_tokens(captions: list[str]) -> list[list[str]]:
    """Words as pycocoevalcap's PTBTokenizer takes them apart; needs Java."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokens = PTBTokenizer().tokenize(dict(enumerate([{"caption": c}] for c in captions)))
    return [tokens[i][0].split() for i in range(len(captions))]


def main() -> None:
    scores = [[seed, *coco_scores(*random_corpus(seed))] for seed in SEEDS]
    tokens = list(zip(CAPTIONS, coco_tokens(CAPTIONS), strict=True))
    lines = {
        name: ",\n".join(json.dumps(row) for row in rows)
        for name, rows in (("scores", scores), ("tokens", tokens))
    }
    origin = json.dumps("pycocoevalcap 1.2, by tests/make_golden_metrics.py")
    GOLDEN.write_text(
        f'{{"origin": {origin},\n"scores": [\n{lines["scores"]}\n],\n"tokens": [\n'
        f"{lines['tokens']}\n]}}\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
