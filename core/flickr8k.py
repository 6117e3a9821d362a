"""A folder of photos with captions becomes a data folder: tokens, vocabulary, features, splits.

    python -m core.flickr8k --root Flickr8k --out datasets/flickr8k --weights squeezenet1_1.pth
    python -m core.flickr8k ... --encoder resnet101 --weights download --grid    for attention

Made for Flickr8k (Hodosh, Young and Hockenmaier, JAIR 2013) in the three forms in which copies of
it come, and fit for anybody's photos in one of these forms:

    captions.txt           CSV with the header image,caption
    Flickr8k.token.txt     name.jpg#0<TAB>caption
    dataset_flickr8k.json  Karpathy's splits: images with sentences and a split

The first two need split lists (``Flickr_8k.trainImages.txt``, ``.devImages.txt``, and
``.testImages.txt`` if there is one); without any list the images are split at random, 90 % for
training.
"""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.encoders.extract import add_encoder_options, extract, require_space
from core.encoders.photos import PHOTOS_FILE, left_out, open_all, refuse_unreadable
from core.support import processes
from core.support.command_line import (
    ArgumentParser,
    fraction,
    non_negative_int,
    positive_int,
    run_command,
)
from core.support.files import read_json, read_text, require_free

Array = np.ndarray

CAPTION_FILES = ("captions.txt", "Flickr8k.token.txt", "dataset_flickr8k.json")
SPLIT_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
# How features are stored. A grid is a hundred times as large as a vector; its 11 bits of precision
# are enough for an encoder's outputs, and the models compute in their own dtype.
_DTYPES = {"pooled": np.dtype(np.float32), "grid": np.dtype(np.float16)}


@dataclass
class PhotoFolder:
    """Captions and splits as they stand in a photo folder.

    - captions: file name -> captions, as written
    - splits: split -> file names, in the order of the list
    - image_folder: where the photos lie
    """

    captions: dict[str, list[str]]
    splits: dict[str, list[str]]
    image_folder: Path


# ---------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------


def plain_words(caption: str) -> list[str]:
    """A caption as words: runs of letters and digits, in lower case; punctuation dropped.

    As the COCO tools do (PTB tokens without punctuation), but that contractions stay whole
    ("isn't", not "is n't") and that words joined by a hyphen are two ("t shirt").
    """
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", caption.lower())


def read_photo_folder(root: str | Path, seed: int = 0) -> PhotoFolder:
    """Reads captions and splits.

    Inputs:
    - root: the folder
    - seed: of the random split, where there are no lists

    Raises FileNotFoundError when the folder, its captions or its photos are not there, and
    ValueError for a file in another form; each names the file.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    csv_file, tokens, karpathy = (root / name for name in CAPTION_FILES)
    splits: dict[str, list[str]] = {}
    if karpathy.is_file():
        captions, splits = _read_karpathy(karpathy)
    elif csv_file.is_file():
        captions = _read_csv(csv_file)
    elif tokens.is_file():
        captions = _read_tokens(tokens)
    else:
        raise FileNotFoundError(f"{root}: has none of {', '.join(CAPTION_FILES)}")
    if not captions:
        raise ValueError(f"{root}: its caption file holds no captions")
    image_folder = _find_images(root, captions)
    splits = splits or _read_split_lists(root, captions) or _random_splits(root, captions, seed)
    if not splits.get("train"):
        raise ValueError(f"{root}: its lists name no training image")
    return PhotoFolder(captions, splits, image_folder)


def _read_karpathy(path: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    captions: dict[str, list[str]] = {}
    splits: dict[str, list[str]] = {}
    try:
        for image in read_json(path)["images"]:
            name = image["filename"]
            captions[str(name)] = [sentence["raw"].strip() for sentence in image["sentences"]]
            splits.setdefault(_KARPATHY_SPLITS[image["split"]], []).append(name)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is not in the form of Karpathy's splits ({error!r})") from error
    return captions, splits


def _read_csv(path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    rows = csv.reader(read_text(path).splitlines(keepends=True))
    try:
        header = next(rows, None)
        if header is None or [field.strip() for field in header] != ["image", "caption"]:
            raise ValueError(f"{path}: line 1 is {header}, expected the header image,caption")
        last = rows.line_num
        for row in rows:
            first, last = last + 1, rows.line_num
            if not row:
                continue
            if any("\n" in field for field in row):  # up to the next mark, over other captions
                raise ValueError(f"{path}: line {first}: a quotation mark is not closed there")
            if len(row) < 2:
                raise ValueError(f"{path}: line {rows.line_num} has no caption")
            # Commas outside of quotes are part of the caption.
            captions.setdefault(row[0].strip(), []).append(",".join(row[1:]))
    except csv.Error as error:
        raise ValueError(f"{path}: line {rows.line_num}: {error}; a quote left open?") from error
    return captions


def _read_tokens(path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        if not tab or "#" not in name:
            raise ValueError(f"{path}: line {number} is not name.jpg#0<TAB>caption")
        captions.setdefault(name.rpartition("#")[0].strip(), []).append(caption)
    return captions


def _read_split_lists(root: Path, captions: Mapping) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for split, name in SPLIT_LISTS.items():
        path = root / name
        if not path.is_file():
            continue
        lines = [line.strip() for line in read_text(path).splitlines()]
        splits[split] = [line for line in dict.fromkeys(lines) if line in captions]
        for image in splits[split]:
            if owner.setdefault(image, split) != split:
                raise ValueError(f"{path}: {image} is in the {owner[image]} split too")
    return splits


def _random_splits(root: Path, captions: Mapping, seed: int) -> dict[str, list[str]]:
    names = sorted(captions)
    if len(names) < 2:
        raise ValueError(
            f"{root}: found one photo with captions, expected one to train on and more"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    held_out = max(1, len(names) // 10)
    return {
        "train": [names[i] for i in sorted(order[held_out:])],
        "val": [names[i] for i in sorted(order[:held_out])],
    }


def _find_images(root: Path, captions: Mapping) -> Path:
    """The folder that holds the photos, whatever the copy calls it, up to two levels down."""
    folders = [root, *sorted(path for path in root.glob("*") if path.is_dir())]
    folders += [
        path for folder in folders[1:] for path in sorted(folder.glob("*")) if path.is_dir()
    ]
    names = list(captions)[:100]
    for folder in folders:
        if any((folder / name).is_file() for name in names):
            return folder
    raise FileNotFoundError(f"{root}: no folder in it holds {names[0]} or the photos after it")


# ---------------------------------------------------------------------------------------------
# Preparing
# ---------------------------------------------------------------------------------------------


def captions_in_words(
    source: PhotoFolder, splits: Mapping[str, Sequence[str]]
) -> dict[str, list[tuple[int, list[str]]]]:
    """For each split (number of the image, words) of each caption that has a word."""
    return {
        split: [
            (i, words)
            for i, name in enumerate(names)
            for words in map(plain_words, source.captions[name])
            if words
        ]
        for split, names in splits.items()
    }


def load_photo_data(root: str | Path, min_count: int = 5, seed: int = 0) -> dict:
    """A photo folder as it is, in the form of ``core.coco_utils.load_coco_data``, without features.

    Inputs: as for ``prepare_photos``. Raises as ``read_photo_folder`` does.
    """
    from core.coco_utils import build_vocabulary, encode_captions

    source = read_photo_folder(root, seed)
    splits = {split: names for split, names in source.splits.items() if names}
    captions = captions_in_words(source, splits)
    words = build_vocabulary([words for _, words in captions["train"]], min_count)
    word_to_idx = {word: i for i, word in enumerate(words)}
    length = 2 + max(len(words) for pairs in captions.values() for _, words in pairs)
    data = {"idx_to_word": words, "word_to_idx": word_to_idx}
    for split, pairs in captions.items():
        data[f"{split}_captions"] = encode_captions([w for _, w in pairs], word_to_idx, length)
        data[f"{split}_image_idxs"] = np.array([i for i, _ in pairs], dtype=np.int32)
        data[f"{split}_urls"] = np.array(splits[split])
    image_root = source.image_folder.resolve()
    folder = Path(root).resolve()
    data["source"] = {"folder": folder, "image_root": image_root, "extractor": None, "arrays": {}}
    return data


def take_fraction(splits: Mapping[str, Sequence[str]], share: float) -> dict[str, list[str]]:
    """That part of the images of each split, at least one, evenly spaced through the list."""
    taken = {}
    for split, names in splits.items():
        count = max(1, round(len(names) * share))
        taken[split] = [names[i * len(names) // count] for i in range(count)] if names else []
    return taken


def prepare_photos(
    root: str | Path,
    out: str | Path,
    encoder: str,
    weights: str,
    pca: int = 512,
    min_count: int = 5,
    share: float = 1.0,
    seed: int = 0,
    grid: int | None = None,
    device: str = "cpu",
) -> dict | None:
    """Writes a data folder from a photo folder, whole or not at all.

    The features of photos that were looked at are kept beside it until it is there: the same
    command, started again after it was stopped, goes on. Of several processes each takes its part
    of the photos.

    Inputs:
    - root: the photo folder
    - out: the data folder to make
    - encoder: one of ``core.support.choices.ENCODERS``
    - weights: a state dict of the encoder, 'download' or 'random'
    - pca: number of components of the pooled features, fitted on the training photos; 0 keeps the
      features as they are
    - min_count: words rarer than this in the training captions become <UNK>
    - share: take this part of the images of each split
    - seed: of the random split, where there are no lists
    - grid: also store a grid of this many cells a side; 0: the encoder's own; None: no grid
    - device: where the encoder computes

    Returns what was done: for each split the number of images and captions, the size of the
    vocabulary, the variance kept, the shape of the grid, the photos skipped. In all processes but
    the first it returns None.

    Raises ValueError when more than 1 % of the photos cannot be read, or when there are fewer
    training photos than components; FileExistsError when ``out`` is taken; OSError when the disk is
    too small.
    """
    from core.coco_utils import build_vocabulary, save_coco_data
    from core.encoders import OUTPUTS, Extractor
    from core.encoders.pca import fit_pca

    out = Path(out)
    require_free(out)
    source = read_photo_folder(root, seed)
    splits = take_fraction(source.splits, share)
    output, (width,) = next(iter(OUTPUTS[encoder].items()))
    if pca >= len(splits["train"]) or pca > width:
        raise ValueError(
            f"pca: found {pca} components for {len(splits['train'])} training photos with "
            f"{width} features each; a PCA needs more photos than components and at least "
            "as many features, so take more photos or fewer components (0: none)"
        )
    extractor = Extractor(encoder, output, weights, device=device)
    extractors = {"pooled": extractor}
    if grid is not None:
        extractors["grid"] = extractor.beside("grid", grid or None)

    parts = out.with_name(f".{out.name}.parts")
    total = sum(map(len, splits.values()))
    out.parent.mkdir(parents=True, exist_ok=True)
    require_space(out.parent, extractors, _DTYPES, total)
    paths = {s: [source.image_folder / name for name in names] for s, names in splits.items()}
    open_all(paths, Path(root), device)
    found = {}
    for split, of_split in paths.items():
        description = f"features of {split} by {encoder}"
        found[split] = extract(of_split, extractors, parts / split, _DTYPES, description)
    if processes.rank() > 0:
        return None
    reasons = {split: of_split.skipped for split, of_split in found.items()}
    refuse_unreadable(reasons, {split: len(p) for split, p in paths.items()}, Path(root))
    skipped = [reason for of_split in found.values() for reason in of_split.skipped]
    found = {split: of_split for split, of_split in found.items() if of_split.kept}
    urls = {split: [splits[split][i] for i in of_split.kept] for split, of_split in found.items()}
    features = {
        kind: {split: of_split.features[kind] for split, of_split in found.items()}
        for kind in extractors
    }
    if pca:
        extractor.pca = fit_pca(features["pooled"]["train"], pca)
        features["pooled"] = {s: x.project(extractor.pca) for s, x in features["pooled"].items()}
    captions = captions_in_words(source, urls)
    vocabulary = build_vocabulary([words for _, words in captions["train"]], min_count)
    save_coco_data(
        out,
        captions,
        vocabulary,
        urls,
        features,
        {kind: (each.specification, each.arrays) for kind, each in extractors.items()},
        image_root=str(source.image_folder.resolve()),
        about={"name": out.name},
        extra={PHOTOS_FILE: {split: of_split.photos for split, of_split in found.items()}},
    )
    shutil.rmtree(parts)
    return {
        "images": {split: len(names) for split, names in urls.items()},
        "captions": {split: len(pairs) for split, pairs in captions.items()},
        "vocabulary": len(vocabulary),
        "explained": extractor.pca.explained if pca else None,
        "grid": None if grid is None else extractors["grid"].shape,
        "skipped": skipped,
    }


def main() -> None:
    parser = ArgumentParser(prog="python -m core.flickr8k", description=__doc__.split("\n")[0])
    parser.add_argument("--root", required=True, metavar="DIR", help="the photo folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="the data folder to make")
    add_encoder_options(parser, "store a grid of locations too, for attention")
    parser.add_argument(
        "--pca", type=non_negative_int, default=512, metavar="K", help="components; 0: none"
    )
    parser.add_argument("--min_count", type=positive_int, default=5, help="rarer words are <UNK>")
    parser.add_argument("--fraction", type=fraction, default=1.0, help="part of the images to take")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of a random split")
    options = parser.parse_args()
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
        )
    if done is None:
        return
    if done["skipped"]:
        print(left_out(done["skipped"], sum(done["images"].values()) + len(done["skipped"])))
    for split, count in done["images"].items():
        print(f"{split}: {count:,} photos, {done['captions'][split]:,} captions")
    print(f"vocabulary: {done['vocabulary']:,} words, the four special ones included")
    if done["explained"] is not None:
        print(f"PCA: {options.pca} components keep {done['explained']:.1%} of the variance")
    if done["grid"] is not None:
        print(f"grid: {done['grid'][0]} cells of {done['grid'][1]} features")
    model = "lstm" if done["grid"] is None else "attention"
    print(f"next: python training.py --model {model} --data {shlex.quote(options.out)}")


if __name__ == "__main__":
    run_command(main)
