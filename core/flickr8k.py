"""A folder of photos with captions becomes a data folder: tokens, vocabulary, features, splits.

    python -m core.flickr8k --root Flickr8k --out datasets/flickr8k --weights squeezenet1_1.pth
    python -m core.flickr8k ... --encoder resnet101 --weights download --grid    for attention
    python -m core.flickr8k --root Flickr8k --out DIR --features clip.h5    others' networks

Made for Flickr8k (Hodosh, Young and Hockenmaier, JAIR 2013) in the forms in which copies of it
come, and fit for anybody's photos: ``core.photos`` reads them. Captions without splits of their own
need lists (``Flickr_8k.trainImages.txt``, ``val.txt``, ...) or photos in folders called train and
val; else the images are split at random, 90 % for training. What is read and what is left out is
printed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from core.coco_utils.folder import MIRRORED
from core.coco_utils.words import (
    MANY_UNKNOWN,
    SPECIAL_WORDS,
    build_vocabulary,
    encode_captions,
    plain_words,
)
from core.encoders.extract import (
    add_encoder_options,
    extract,
    require_free_of_parts,
    require_names_in_utf8,
    require_space,
)
from core.encoders.given import GivenFeatures
from core.encoders.photos import PHOTOS_FILE, left_out, open_all, refuse_unreadable
from core.photos import PhotoFolder, read_photo_folder
from core.photos.forms import counted
from core.support import processes
from core.support.choices import OUTPUTS
from core.support.command_line import (
    ArgumentParser,
    fraction,
    non_negative_int,
    positive_int,
    quoted,
    run_command,
)
from core.support.files import remove_folder
from core.support.pytorch import require_torch

Array = np.ndarray

# How features are stored. A grid is a hundred times as large as a vector; its 11 bits of precision
# are enough for an encoder's outputs, and the models compute in their own dtype.
_COMPONENTS = 512  # of the PCA of pooled features, unless others are asked for
_DTYPES = {"pooled": np.dtype(np.float32), "grid": np.dtype(np.float16)}
tokenize = plain_words  # its earlier name, which code of others calls


def captions_in_words(
    source: PhotoFolder, splits: Mapping[str, Sequence[str]]
) -> dict[str, list[tuple[int, list[str]]]]:
    """For each split (number of the image, words) of each caption."""
    return {
        split: [(i, plain_words(text)) for i, n in enumerate(names) for text in source.captions[n]]
        for split, names in splits.items()
    }


def vocabulary_of(captions: Mapping[str, Sequence], min_count: int) -> tuple[list[str], str, float]:
    """The vocabulary of the training captions, and which share of all words it lacks.

    Inputs:
    - captions: from ``captions_in_words``
    - min_count: rarer words of the training captions become <UNK>

    Returns the vocabulary, a line that says the share of <UNK> in each split, and the largest.

    Raises ValueError when no word is frequent enough.
    """
    vocabulary = build_vocabulary([words for _, words in captions["train"]], min_count)
    if len(vocabulary) == len(SPECIAL_WORDS):
        raise ValueError(
            f"--min_count {min_count}: found no word that occurs so often in the "
            f"{len(captions['train']):,} training captions, expected some; give a lower number, "
            "and set words apart by blanks where a language does not"
        )
    known, shares = set(vocabulary), {}
    for split, pairs in captions.items():
        found = [word in known for _, words in pairs for word in words]
        shares[split] = 1 - sum(found) / len(found)
    unknown = ", ".join(f"{share:.1%} of the words of {split}" for split, share in shares.items())
    line = f"--min_count {min_count}: {unknown} become <UNK>"
    return vocabulary, line, max(shares.values())


def load_photo_data(root: str | Path, min_count: int = 5, seed: int = 0) -> dict:
    """A photo folder as it is, in the form of ``core.coco_utils.load_coco_data``, without features.

    Inputs: as for ``prepare_photos``. ``source`` of the data holds the ``account`` of the reading.

    Raises as ``read_photo_folder`` and ``vocabulary_of`` do.
    """
    source = read_photo_folder(root, seed)
    captions = captions_in_words(source, source.splits)
    words, line, _ = vocabulary_of(captions, min_count)
    word_to_idx = {word: i for i, word in enumerate(words)}
    length = 2 + max(len(words) for pairs in captions.values() for _, words in pairs)
    data = {"idx_to_word": words, "word_to_idx": word_to_idx}
    for split, pairs in captions.items():
        data[f"{split}_captions"] = encode_captions([w for _, w in pairs], word_to_idx, length)
        data[f"{split}_image_idxs"] = np.array([i for i, _ in pairs], dtype=np.int32)
        data[f"{split}_urls"] = np.array(source.splits[split])
    data["source"] = {
        "folder": Path(root).resolve(),
        "image_root": source.image_folder.resolve(),
        "extractor": None,
        "arrays": {},
        "account": [*source.account, line],
    }
    return data


def take_fraction(splits: Mapping[str, Sequence[str]], share: float) -> dict[str, list[str]]:
    """That part of the images of each split, at least one, evenly spaced through the list."""
    taken = {}
    for split, names in splits.items():
        count = max(1, round(len(names) * share))
        taken[split] = [names[i * len(names) // count] for i in range(count)]
    return taken


def prepare_photos(
    root: str | Path,
    out: str | Path,
    encoder: str | None,
    weights: str | None,
    pca: int | None = None,
    min_count: int = 5,
    share: float = 1.0,
    seed: int = 0,
    grid: int | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
    given: str | Path | None = None,
    flip: bool = False,
) -> dict | None:
    """Writes a data folder from a photo folder, whole or not at all.

    The features of photos that were looked at are kept beside it until it is there: the same
    command, started again after it was stopped, goes on. Of several processes each takes its part
    of the photos.

    Inputs:
    - root: the photo folder
    - out: the data folder to make
    - encoder: one of ``core.support.choices.ENCODERS``; None with ``given``
    - weights: a state dict of the encoder, 'download' or 'random'
    - pca: number of components, fitted on the training photos: of the pooled features, and of the
      grid's channels where there are more; 0 keeps both as they are, None makes 512 of the pooled
      ones (or as many as there are, or half as many as there are photos) and keeps the grid
    - min_count: words rarer than this in the training captions become <UNK>
    - share: take this part of the images of each split
    - seed: of the random split, where there are no lists
    - grid: also store a grid of this many cells a side; 0: the encoder's own; None: no grid
    - device: where the encoder computes
    - say: takes the lines that say what was read and left out, before the photos are looked at
    - given: a file of features that another program made, instead of an encoder's
      (``core.encoders.given``)
    - flip: also store the features of every training photo in a mirror, for ``training.py --flip``

    Returns what was done: for each split the number of images and captions, the size of the
    vocabulary, the components of each kind's PCA and the variance that they keep, the shape of the
    grid, the photos skipped. In all processes but the first it returns None.

    Raises ValueError when more than 1 % of the photos cannot be read or have no features, when
    there are fewer training photos than components, or for ``flip`` with ``given``; FileExistsError
    when ``out`` is taken; OSError when the disk is too small; and as ``read_photo_folder`` and
    ``vocabulary_of`` do.
    """
    from core.coco_utils import save_coco_data
    from core.encoders.pca import fit_pca

    out = Path(os.path.abspath(out))  # with a name, also where it is the current folder
    parts = out.with_name(f".{out.name}.parts")
    require_free_of_parts(out, parts)
    if given is not None and flip:
        raise ValueError("flip: nobody looks at photos with features that are given")
    source = read_photo_folder(root, seed)
    splits = take_fraction(source.splits, share)
    theirs = None if given is None else GivenFeatures.read(given)
    width = theirs.table.shape[-1] if theirs else next(iter(OUTPUTS[encoder].values()))[0]
    photos = len(splits["train"])
    usual = min(_COMPONENTS, width)
    of_pooled = min(usual, photos // 2) if pca is None else pca
    fewer = []
    if pca is None and of_pooled < usual:
        fewer = [f"PCA: {of_pooled} components, half as many as training photos, not {usual}"]
    if of_pooled >= photos or of_pooled > width:
        raise ValueError(
            f"pca: found {of_pooled} components for {photos} training photos with "
            f"{width} features each; a PCA needs more photos than components and at least "
            "as many features, so take more photos or fewer components (0: none)"
        )
    # A vocabulary of nothing is refused before the photos are looked at, which takes long.
    _, unknown, _ = vocabulary_of(captions_in_words(source, splits), min_count)
    total = sum(map(len, splits.values()))
    taken = [f"--fraction {share}: {total:,} photos are taken"] if share < 1 else []
    mirrors = [f"--flip: {photos:,} training photos are looked at in a mirror, too"] if flip else []
    account = [*source.account, *taken, unknown, *fewer, *mirrors]
    extractors = theirs.extractors() if theirs else _extractors(encoder, weights, grid, device)
    if theirs:
        account += theirs.account(name for names in splits.values() for name in names)
    if processes.rank() == 0:
        for line in account:
            say(line)
    out.parent.mkdir(parents=True, exist_ok=True)
    require_space(out.parent, extractors, _DTYPES, total + (photos if flip else 0))
    paths = {s: [source.image_folder / name for name in names] for s, names in splits.items()}
    require_names_in_utf8(name for names in splits.values() for name in names)
    if theirs:
        found = {s: theirs.of_photos(splits[s], paths[s], extractors, _DTYPES) for s in paths}
    else:
        open_all(paths, Path(root), device)
        found = {}
        for split, of_split in paths.items():
            description = f"features of {split} by {encoder}"
            found[split] = extract(of_split, extractors, parts / split, _DTYPES, description)
        if flip:
            turned = {kind: each.mirrored() for kind, each in extractors.items()}
            description = f"features of train in a mirror by {encoder}"
            mirrored = extract(paths["train"], turned, parts / MIRRORED, _DTYPES, description)
    if processes.rank() > 0:
        return None
    reasons = {split: of_split.skipped for split, of_split in found.items()}
    counts = {split: len(of_split) for split, of_split in paths.items()}
    refuse_unreadable(reasons, counts, Path(root), "be used" if theirs else "be read")
    skipped = [reason for of_split in found.values() for reason in of_split.skipped]
    urls = {split: [splits[split][i] for i in of_split.kept] for split, of_split in found.items()}
    features = {
        kind: {split: of_split.features[kind] for split, of_split in found.items()}
        for kind in extractors
    }
    if flip:
        if mirrored.photos != found["train"].photos:
            raise ValueError(
                f"{root}: photos have changed while they were looked at; start the same command "
                "again"
            )
        for kind, tables in features.items():
            tables[MIRRORED] = mirrored.features[kind]
    components = {"pooled": of_pooled, "grid": pca or 0}
    for kind, tables in features.items():
        samples = tables["train"] if kind == "pooled" else tables["train"].cells()
        # A grid that has no more channels would only be turned.
        if components[kind] and (kind == "pooled" or components[kind] < samples.shape[1]):
            extractors[kind].pca = fit_pca(samples, components[kind])
            features[kind] = {s: x.project(extractors[kind].pca) for s, x in tables.items()}
    captions = captions_in_words(source, urls)
    vocabulary, unknown, share_unknown = vocabulary_of(captions, min_count)
    save_coco_data(
        out,
        captions,
        vocabulary,
        urls,
        features,
        {kind: (each.specification, each.arrays) for kind, each in extractors.items()},
        image_root=str(source.image_folder.resolve()),
        about={"name": out.name, "account": account},
        extra={PHOTOS_FILE: {split: of_split.photos for split, of_split in found.items()}},
    )
    remove_folder(parts)
    if share_unknown > MANY_UNKNOWN:
        warnings.warn(
            f"{unknown}; above {MANY_UNKNOWN:.0%} a model learns to say <UNK>; give a lower "
            "number, and set words apart by blanks where a language does not",
            stacklevel=2,
        )
    return {
        "images": {split: len(names) for split, names in urls.items()},
        "captions": {split: len(pairs) for split, pairs in captions.items()},
        "vocabulary": len(vocabulary),
        "components": {
            kind: (each.shape[-1], each.pca.explained)
            for kind, each in extractors.items()
            if each.pca
        },
        "grid": extractors["grid"].shape if "grid" in extractors else None,
        "skipped": skipped,
    }


def _extractors(encoder: str, weights: str, grid: int | None, device: str) -> dict:
    """What looks at the photos, for each kind of features; of one network."""
    from core.encoders import Extractor

    pooled = Extractor(encoder, next(iter(OUTPUTS[encoder])), weights, device=device)
    beside = {} if grid is None else {"grid": pooled.beside("grid", grid or None)}
    return {"pooled": pooled, **beside}


def main() -> None:
    parser = ArgumentParser(prog="python -m core.flickr8k", description=__doc__.split("\n")[0])
    parser.add_argument("--root", required=True, metavar="DIR", help="the photo folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="the data folder to make")
    add_encoder_options(parser, "store a grid of locations too, for attention")
    parser.add_argument(
        "--features",
        metavar="FILE.h5",
        help="instead of an encoder: features that another program made (docs/photos.md)",
    )
    parser.add_argument(
        "--pca",
        type=non_negative_int,
        metavar="K",
        help=f"components, of a grid's channels too; 0: none (default: {_COMPONENTS}, or half of "
        "the training photos where that is less; a grid keeps its channels)",
    )
    parser.add_argument("--min_count", type=positive_int, default=5, help="rarer words are <UNK>")
    parser.add_argument(
        "--flip",
        action="store_true",
        help="look at every training photo in a mirror, too, for training.py --flip",
    )
    parser.add_argument("--fraction", type=fraction, default=1.0, help="part of the images to take")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of a random split")
    options = parser.parse_args()
    if options.features is None:
        require_torch(f"--encoder {options.encoder}")
    else:
        for name in ("encoder", "weights", "grid", "device", "flip"):
            if getattr(options, name) != parser.get_default(name):
                raise ValueError(f"--{name}: nobody looks at photos with --features; leave it out")
        options.encoder, options.device = None, "cpu"
    with processes.joined(options.device) as device:
        done = prepare_photos(
            options.root,
            options.out,
            options.encoder,
            options.weights,
            options.pca,
            options.min_count,
            options.fraction,
            options.seed,
            options.grid,
            device,
            print,
            options.features,
            options.flip,
        )
    if done is None:
        return
    if done["skipped"]:
        print(left_out(done["skipped"], sum(done["images"].values()) + len(done["skipped"])))
    for split, count in done["images"].items():
        captions = counted(done["captions"][split], "caption")
        print(f"{split}: {counted(count, 'photo')}, {captions}")
    print(f"vocabulary: {done['vocabulary']:,} words, the four special ones included")
    for kind, (count, explained) in done["components"].items():
        of = "" if kind == "pooled" else " of the grid's channels"
        print(f"PCA{of}: {count} components keep {explained:.1%} of the variance")
    if done["grid"] is not None:
        if options.pca and "grid" not in done["components"]:
            print(f"PCA: none of the grid's channels, which are no more than {options.pca}")
        print(f"grid: {done['grid'][0]} cells of {done['grid'][1]} features")
    model = "lstm" if done["grid"] is None else "attention"
    flip = " --flip" if options.flip else ""
    print(f"next: python training.py --model {model} --data {quoted(options.out)}{flip}")


if __name__ == "__main__":
    run_command(main)
