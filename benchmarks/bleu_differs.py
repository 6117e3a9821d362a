"""How much a score depends on what papers seldom say: one model, one split, many ways to score it.

    python -m benchmarks.bleu_differs --checkpoint runs/attention --references Flickr8k

Prints the table of ``docs/why-your-bleu-differs.md``. For a run that looked at photos with a frozen
``--encoder``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core import decoding
from core.checkpoint import load_checkpoint
from core.coco_utils import decode_captions
from core.encoders.pictures import LookedAt
from core.flickr8k import plain_words, read_photo_folder
from core.metrics import bleu, cider_d, tokenize
from core.metrics.caption_files import reference_captions
from core.recipes.neighbours import Neighbours
from core.runs.data import extractor_of, load_data_of, picture_places, with_readable
from core.runs.settings import find_checkpoint
from core.support.choices import DEVICES
from core.support.command_line import ArgumentParser, progress, run_command
from core.support.processes import choose_device
from core.support.pytorch import require_torch

Array = np.ndarray

_BATCH = 250


class Bench:
    """A model, the images of a split, and what people wrote about them."""

    def __init__(self, run: str, photos: str, device: str, split: str = "val"):
        from core.torch_models import build_torch_model

        checkpoint = load_checkpoint(find_checkpoint(None, run))
        self.words, self.split = checkpoint.idx_to_word, split
        self.data = load_data_of(checkpoint, device=device)
        for each in ("train", split):
            self.data = with_readable(self.data, each)
        self.extractor = extractor_of(checkpoint, device=device)
        arguments = checkpoint.model, checkpoint.config, self.words, checkpoint.decoder_params
        self.model = build_torch_model(*arguments, device=device).eval()
        written = read_photo_folder(photos).captions
        self.images, urls = np.unique(self.data[f"{split}_image_idxs"]), self.data[f"{split}_urls"]
        self.references = {i: written[str(urls[i])] for i in self.images.tolist()}

    def say(self, features=None, search=decoding.beam_search, **options) -> dict[int, str]:
        """The captions of all images, by beam search, or by another ``search`` like it."""
        table = self.data[f"{self.split}_features"] if features is None else features
        said: dict[int, str] = {}
        for start in range(0, len(self.images), _BATCH):
            images = self.images[start : start + _BATCH]
            ids, _ = search(self.model, np.asarray(table[images]), **options)
            said |= zip(images.tolist(), decode_captions(ids[:, 0], self.words), strict=True)
        return said

    def forced(self) -> dict[int, str]:
        """The best word at every place, after the true words before it, of the first reference."""
        captions, idxs = self.data[f"{self.split}_captions"], self.data[f"{self.split}_image_idxs"]
        firsts = np.unique(idxs, return_index=True)[1]
        said: dict[int, str] = {}
        for start in range(0, len(firsts), _BATCH):
            rows = firsts[start : start + _BATCH]
            features = np.asarray(self.data[f"{self.split}_features"][idxs[rows]])
            best = self.model(features, captions[rows]).argmax(dim=2).cpu().numpy()
            best[captions[rows][:, 1:] == self.model.null] = self.model.null
            said |= zip(idxs[rows].tolist(), decode_captions(best, self.words), strict=True)
        return said


def zoomed(bench: Bench) -> LookedAt:
    """The photos as 'resize to 256, crop 224' shows them: the middle 7/8."""

    class Zoomed:
        shape = bench.extractor.shape

        def __call__(self, pictures: list[Array]) -> Array:
            return bench.extractor([_middle(picture) for picture in pictures])

    return LookedAt(picture_places(bench.data, bench.split), Zoomed())


def _middle(picture: Array) -> Array:
    h, w = picture.shape[:2]
    return picture[h // 16 : h - h // 16, w // 16 : w - w // 16]


def rows(bench: Bench) -> list[tuple[str, float | None, float | None]]:
    """What was done; BLEU-4 and CIDEr-D on the scale to 100."""
    said, references = bench.say(beam_size=5), bench.references
    found: list[tuple[str, float | None, float | None]] = []

    def add(name: str, candidates=said, wanted=references, split: Callable = tokenize) -> None:
        one = {i: split(text) for i, text in candidates.items()}
        other = {i: [split(text) for text in wanted[i]] for i in one}
        found.append((name, bleu(one, other)["BLEU-4"], cider_d(one, other)))

    add(f"beam 5, length penalty 1, COCO's tokens, all references, {len(said):,} photos")
    for beam in progress((1, 2, 3, 10), "beams"):
        add(f"beam {beam}", bench.say(beam_size=beam))
    for penalty in progress((0.0, 0.5, 0.8, 1.5), "length penalties"):
        add(f"length penalty {penalty}", bench.say(beam_size=5, length_penalty=penalty))
    search = Neighbours(bench.data, 16).search
    said_alike = bench.say(search=search, beam_size=20)
    add("of 20 beams, what 16 neighbours' captions are most like", said_alike)
    add("<UNK> may be said", bench.say(beam_size=5, allow_unknown=True))
    add("teacher forcing: told the true words so far, one place at a time", bench.forced())
    add("words cut at blanks, case and points kept in the references", split=str.split)
    add("hyphens apart, contractions whole", split=plain_words)
    in_vocabulary, _ = reference_captions(bench.data, bench.split)
    add("references with rare words as <UNK>", wanted=in_vocabulary)
    for count in (1, 3):
        add(f"{count} of the five references", wanted={i: r[:count] for i, r in references.items()})
    add("the first 300 photos", {i: said[i] for i in list(said)[:300]})
    alone = [
        bleu({i: tokenize(text)}, {i: list(map(tokenize, references[i]))})["BLEU-4"]
        for i, text in said.items()
    ]
    found.append(("mean of each caption's own BLEU-4", float(np.mean(alone)), None))
    add("photos zoomed in: resize to 256, crop 224", bench.say(zoomed(bench), beam_size=5))
    return found


def main() -> None:
    parser = ArgumentParser(
        prog="python -m benchmarks.bleu_differs", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--checkpoint", required=True, metavar="RUN_OR_FILE")
    parser.add_argument("--references", required=True, metavar="DIR", help="the photo folder")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    options = parser.parse_args()
    require_torch("benchmarks.bleu_differs")
    bench = Bench(options.checkpoint, options.references, choose_device(options.device))
    print("| how | BLEU-4 | CIDEr-D |\n| --- | --- | --- |")
    for name, *scores in rows(bench):
        cells = ("" if score is None else f"{score:.1f}" for score in scores)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run_command(main)
