"""Captions images with a trained model.

python inference.py --model lstm                       pictures of the validation split
python inference.py --model lstm --split train         what it was trained on, said back
python inference.py --model lstm --image photo.jpg     a photo of your own
python inference.py --model transformer --decode greedy --out captions.json --figure captions.png
python inference.py --model attention --num_samples 4 --attention attention.png
python inference.py --checkpoint runs/a --ensemble runs/b runs/c      three models as one
python inference.py --checkpoint runs/a --flip                        each photo in a mirror, too
python inference.py --model lstm --split val --beam_size 20 --neighbours 16 --out captions.json
python inference.py --model attention --num_samples 12 --report report.html
"""

from __future__ import annotations

import argparse
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from core.runs.building import model_builder
from core.runs.data import (
    SIDES,
    extractor_of,
    first_other_word,
    load_data_of,
    same_extractor,
    say_left_out,
    with_readable,
)
from core.runs.settings import check_engine_options, checkpoint_of_model, find_checkpoint
from core.support.choices import DEVICES, ENGINES, GIVEN, MODEL_NAMES, SPLITS
from core.support.command_line import (
    ArgumentParser,
    advice_on_memory,
    fraction,
    option_type,
    positive_int,
    progress,
    run_command,
)
from core.support.declared import SEED
from core.support.files import try_out
from core.support.schema import Number, Whole

_BATCH = 256
_SHOWN_WITHOUT_FILE = 10  # images of a whole split, unless asked for more or for a file
_IN_FIGURE, _IN_ATTENTION_FIGURE, _IN_REPORT = 20, 5, 50
_MAX_LENGTH = 30  # for a checkpoint that does not know the longest caption it was trained on
_PICTURES = (".png", ".pdf", ".svg")
_FILES = {
    "out": (".json",),
    "figure": _PICTURES,
    "attention": _PICTURES,
    "report": (".html", ".htm"),
}
# The numbers of each way of decoding, and what they are when they are not given.
_DECODERS = {
    "greedy": {},
    "beam": {"beam_size": 5, "length_penalty": 1.0, "n_best": 1, "neighbours": None},
    "sample": {"temperature": 1.0, "top_k": None, "top_p": None, "seed": 0},
}
_DECODER_NAMES = {"greedy": "greedy", "beam": "beam search", "sample": "sampling"}


@dataclass
class Item:
    """One image to caption."""

    image_id: int
    file_name: str
    path: Path | None  # of the picture, when it is on this machine
    references: list[str] = field(default_factory=list)
    caption: str = ""
    n_best: list[tuple[str, float]] = field(default_factory=list)  # captions and their scores


@dataclass
class ChosenFeatures:
    """Chosen rows of a table of features, read when they are sliced."""

    table: object
    chosen: object

    def __getitem__(self, rows: slice):
        return self.table[self.chosen[rows]]


def build_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="inference.py", description="Caption images with a trained model.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", choices=MODEL_NAMES, help="the run in runs/MODEL")
    which.add_argument(
        "--checkpoint", metavar="RUN_OR_FILE", help="a run folder, a file or its address"
    )
    parser.add_argument(
        "--ensemble", nargs="+", metavar="RUN", default=[], help="further runs, that vote as well"
    )
    parser.add_argument(
        "--flip", action="store_true", help="look at each photo in a mirror, too: both looks vote"
    )
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--split", choices=SPLITS, help="images of the data set")
    images.add_argument("--image", nargs="+", metavar="FILE", help="your own photos")
    images.add_argument("--images", metavar="DIR", help="all photos of a folder")
    parser.add_argument("--data", metavar="DIR", help="data folder, if not the one of the training")
    parser.add_argument("--num_samples", type=positive_int, metavar="K", help="the first K images")
    parser.add_argument(
        "--max_length",
        type=option_type(Whole(1, 10_000)),
        metavar="T",
        help="words at most (default: the longest training caption's, at least 30)",
    )
    parser.add_argument("--decode", choices=_DECODERS, default="beam", help="how words are chosen")
    parser.add_argument("--allow_unknown", action="store_true", help="let captions hold <UNK>")
    parser.add_argument(
        "--no_repeat", type=positive_int, metavar="N", help="no N words in a row twice in a caption"
    )

    def decoder_option(owner: str, name: str, kind, text: str, metavar: str) -> None:
        default = _DECODERS[owner][name]
        text = f"{owner}: {text}" + ("" if default is None else f" (default: {default})")
        parser.add_argument(f"--{name}", type=kind, help=text, metavar=metavar)

    beams, temperature = option_type(Whole(1, 1_000)), option_type(Number(1e-9, 1e9))
    decoder_option("beam", "beam_size", beams, "beginnings kept for an image", "K")
    decoder_option("beam", "length_penalty", option_type(Number(0, 10)), "score / words ** A", "A")
    decoder_option("beam", "n_best", positive_int, "show the best K captions", "K")
    decoder_option(
        "beam",
        "neighbours",
        positive_int,
        "prefer captions like those of the K most similar training pictures",
        "K",
    )
    decoder_option("sample", "temperature", temperature, "below 1 is more careful", "T")
    decoder_option("sample", "top_k", positive_int, "from the K most probable words", "K")
    decoder_option("sample", "top_p", fraction, "from the head with this share", "P")
    decoder_option("sample", "seed", option_type(SEED), "of the draws", "S")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        help="what computes; any reads any checkpoint (default: numpy; with --impl: plain)",
    )
    parser.add_argument(
        "--impl",
        metavar="FILE.py",
        help="plain: take your functions in the place of ours, by their names; the file is run",
    )
    parser.add_argument("--device", choices=DEVICES, help="torch: where to compute")
    parser.add_argument("--out", metavar="FILE.json", help="write the captions there")
    parser.add_argument("--figure", metavar="FILE.png", help="draw pictures with their captions")
    parser.add_argument(
        "--attention", metavar="FILE.png", help="draw where the model looks for each word"
    )
    parser.add_argument(
        "--heads", action="store_true", help="with --attention: every head of every block"
    )
    parser.add_argument(
        "--report",
        metavar="FILE.html",
        help=f"write a page of each word's probability and map: {_IN_REPORT} images, scores of all",
    )
    parser.add_argument("--weights", metavar="FILE", help="the encoder's weights, if moved")
    parser.add_argument(
        "--features",
        metavar="FILE.h5",
        help="of your own photos, for a model that was trained with core.flickr8k --features",
    )
    return parser


def is_overfit(checkpoint) -> bool:
    return checkpoint.settings.get("num_samples") is not None


def own_photos(options) -> bool:
    """Whether it is photos from outside of any data set that are captioned."""
    return bool(options.image or options.images)


def split_of(options, checkpoint) -> str:
    """The split asked for, else the one that shows what the model was trained to do."""
    return options.split or ("train" if is_overfit(checkpoint) else "val")


def data_of(options, checkpoint, device: str) -> dict:
    """The data of the training, or those that were given instead."""
    changes = {"data": options.data} if options.data else {}
    return load_data_of(checkpoint, options.weights, device, **changes)


def split_items(options, checkpoint, data: dict) -> tuple[list[Item], object]:
    """The images of a split and their features."""
    import numpy as np

    from core.coco_utils import decode_captions, image_path

    overfit, split = is_overfit(checkpoint), options.split
    if f"{split}_captions" not in data:
        raise ValueError(f"--split {split}: {data['source']['folder']} has no such split")
    count = options.num_samples
    if count is None and not (options.out or options.report or (split == "train" and overfit)):
        count = _SHOWN_WITHOUT_FILE
    data = with_readable(data, split, count)
    image_idxs, urls = data[f"{split}_image_idxs"], data[f"{split}_urls"]
    chosen = np.unique(image_idxs)[:count]
    items = {i: Item(i, str(urls[i]), image_path(data, split, i)) for i in chosen.tolist()}
    rows = np.flatnonzero(np.isin(image_idxs, chosen))
    captions = decode_captions(data[f"{split}_captions"][rows], data["idx_to_word"])
    for image, caption in zip(image_idxs[rows].tolist(), captions, strict=True):
        items[image].references.append(caption)
    return list(items.values()), ChosenFeatures(data[f"{split}_features"], chosen)


def photo_items(options, checkpoint, device: str) -> tuple[list[Item], object]:
    """The user's own photos and their features, by the extractor in the checkpoint or as given.

    Those of a folder that cannot be read are left out, and a warning says so.

    Raises ValueError for a photo that was named and cannot be read, and when none can.
    """
    from core.encoders.given import features_of_own_photos
    from core.encoders.photos import find_unreadable, first_readable
    from core.encoders.pictures import LookedAt
    from core.image_utils import list_pictures, other_files

    if checkpoint.extractor is None:
        raise ValueError(
            "--image: the checkpoint was trained on features whose extractor is not known (the "
            "published archive does not contain it); train on a folder prepared by core.flickr8k"
        )
    if options.images:
        paths = list_pictures(options.images)
        found, reasons = first_readable(paths, options.num_samples)
        if not found:
            raise ValueError(
                f"--images {options.images}: none of its {len(paths):,} pictures can be read, for "
                f"example {reasons[0]}"
            )
        if others := other_files(options.images):
            warnings.warn(others, stacklevel=2)
        say_left_out(reasons, len(found) + len(reasons))
        paths = [paths[i] for i in found]
    else:
        paths = [Path(name) for name in options.image][: options.num_samples]
        for reason in find_unreadable(paths).values():
            raise ValueError(f"--image {reason}")
    if options.features and reads_given(checkpoint):
        paths, table = features_of_own_photos(checkpoint, options.features, paths, options.image)
    else:
        table = LookedAt(paths, extractor_of(checkpoint, options.weights, device))
    return [Item(i, str(path), path) for i, path in enumerate(paths)], table


def look_at(options, checkpoint, device: str) -> tuple[list[Item], object, dict | None]:
    """The images that were asked for, what the model reads of them, and the data that they are of.

    The data are checked to fit the model; photos of one's own are of none.
    """
    if own_photos(options):
        return *photo_items(options, checkpoint, device), None
    data = data_of(options, checkpoint, device)
    return *split_items(options, checkpoint, data), data


def which_images(options, checkpoint, data: dict | None, count: int) -> str:
    """Which images were captioned, in words: "the first 10 of the 300 images of val", say."""
    if data is None:
        return f"{count:,} photo{'s' * (count != 1)}"
    total = len(set(data[f"{options.split}_image_idxs"].tolist()))
    images = f"{total:,} image{'s' * (total != 1)} of {options.split}"
    if options.split == "train" and is_overfit(checkpoint):
        images += " that were trained on"
    first = "the first" if count == 1 else f"the first {count:,}"
    return f"the {images}" if count == total else f"{first} of the {images}"


def print_table(items: list[Item]) -> None:
    """A line for each image: name, caption and, when there is one, a reference."""
    referenced = any(item.references for item in items)
    names = ["image", *(item.file_name for item in items)]
    captions = ["caption", *(item.caption or "(no words)" for item in items)]
    references = ["reference", *map(_reference, items)] if referenced else [""] * len(names)
    widths = max(map(len, names)), max(map(len, captions))
    for name, caption, reference in zip(names, captions, references, strict=True):
        print(f"{name:<{widths[0]}}  {caption:<{widths[1]}}  {reference}".rstrip())
    for item in items:
        for caption, score in item.n_best:
            print(f"{item.file_name:<{widths[0]}}  {score:8.3f}  {caption}")


def print_counts(options, which: str, items: list[Item], cut: str | None) -> None:
    """How many captions are cut, and how many are those of people, word for word."""
    if cut:
        print(cut)
    if any(item.references for item in items):
        count = sum(item.caption in item.references for item in items)
        # What was not trained on cannot be said back.
        train = options.split == "train"
        what = "said back word for word" if train else "in the very words of a reference"
        print(f"{what}: {count} of {len(items)} ({count / len(items):.0%}), {which}")


def whose_functions(options, checkpoint, own, items: list[Item]) -> str | None:
    """What of a learner's own is in a model, and in what it says; None when it is all ours."""
    impl = checkpoint.settings.get("impl")
    if impl is None:
        return None
    name, count = Path(impl["file"]).name, len(impl["functions"])
    changed = " and ".join(map(str, impl["changed_after"]))
    text = f"trained with {count} function{'s' * (count != 1)} of {name}"
    text += f", which was changed after epoch {changed}" if changed else ""
    said_back = options.split == "train" and all(i.caption in i.references for i in items)
    if impl["ours"] or not said_back:
        return text
    if own is None:
        return f"{text}, all of them yours: with --impl your functions say the captions as well"
    if own.ours:
        return (
            f"{text}, all of them yours; of what says the captions, {', '.join(own.ours)} is ours"
        )
    return f"every function was yours, in learning and in saying it back: {name}"


def _reference(item: Item) -> str:
    if item.caption in item.references:
        return "= the same words"
    return item.references[0] if item.references else ""


def picture_of(item: Item):
    """The picture of an item, or None; a warning says so when it is there and cannot be read."""
    from core.image_utils import load_image

    if item.path is None:
        return None
    try:
        return load_image(item.path)
    except (OSError, ValueError) as error:  # its features may have been made before
        warnings.warn(f"{error}; it is not drawn", stacklevel=2)
        return None


def draw(items: list[Item], path: str) -> None:
    from core.show.plots import plot_captions

    shown = items[:_IN_FIGURE]
    pictures = [picture_of(item) for item in shown]
    plot_captions(
        pictures, [item.caption for item in shown], [item.references for item in shown], path
    )


def as_json(items: list[Item]) -> list[dict]:
    """COCO's results format, and the references where they are known."""
    rows = []
    for item in items:
        row = {"image_id": item.image_id, "file_name": item.file_name, "caption": item.caption}
        if item.references:
            row["references"] = item.references
        if item.n_best:
            row["n_best"] = [{"caption": text, "score": score} for text, score in item.n_best]
        rows.append(row)
    return rows


def check_output(option: str, name: str | None, suffixes: tuple[str, ...]) -> None:
    """Refuses an output file that cannot be written, before any work is done."""
    if name is None:
        return
    path = Path(name)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} {name}: expected a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise ValueError(f"{option} {name}: is a folder, expected a file name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option} {name}: there is no folder {path.parent}")
    try_out(option, path)


def decoders_of(options) -> dict[str, dict]:
    """The numbers of each way of decoding: as given for the one asked for, else the defaults."""
    decoders = {owner: dict(defaults) for owner, defaults in _DECODERS.items()}
    for owner, of_owner in decoders.items():
        for name in of_owner:
            value = getattr(options, name)
            if value is not None and owner != options.decode:
                raise ValueError(
                    f"--{name}: is an option of --decode {owner}, found --decode "
                    f"{options.decode}; leave one of them out"
                )
            if value is not None:
                of_owner[name] = value
    if decoders["beam"]["n_best"] > decoders["beam"]["beam_size"]:
        raise ValueError(
            f"--n_best: found {decoders['beam']['n_best']}, expected at most --beam_size, "
            f"{decoders['beam']['beam_size']}"
        )
    if decoders["beam"]["neighbours"] and decoders["beam"]["beam_size"] == 1:
        raise ValueError("--neighbours: chooses among several beams; take a --beam_size above 1")
    names = ("max_length", "allow_unknown", "no_repeat")
    common = {name: getattr(options, name) for name in names}
    return {owner: of_owner | common for owner, of_owner in decoders.items()}


def decoder(name: str, numbers: dict, engine: str, neighbours=None):
    """(model, features) -> word ids (N, K, T), best first, and scores (N, K) or None.

    Inputs:
    - name, numbers: of the way of decoding
    - engine: 'numpy' shares out the images between threads
    - neighbours: a ``Neighbours`` that ranks what beam search finds, or None
    """
    import numpy as np

    from core import decoding
    from core.fast.threads import searched_in_parts
    from core.recipes.no_repeat import NoRepeat

    numbers = dict(numbers)
    length = numbers.pop("no_repeat")

    def asked(model):
        return NoRepeat(model, length) if length else model

    greedy, beam_search = decoding.greedy, decoding.beam_search
    if engine == "numpy":
        greedy, beam_search = searched_in_parts(greedy), searched_in_parts(beam_search)
    if name == "beam":
        search = neighbours.search if numbers.pop("neighbours") else beam_search
        return lambda model, features: search(asked(model), features, **numbers)
    if name == "sample":
        numbers["rng"] = np.random.default_rng(numbers.pop("seed"))
    decode = {"greedy": greedy, "sample": decoding.sample}[name]
    return lambda model, features: (decode(asked(model), features, **numbers)[:, None], None)


def ranked(words, scores, idx_to_word) -> list[tuple[str, float]]:
    """An image's captions and their scores, best first; (K, T) ids and (K,) scores."""
    import numpy as np

    from core.coco_utils import decode_captions

    sentences = zip(decode_captions(words, idx_to_word), scores.tolist(), strict=True)
    return [(sentence, score) for sentence, score in sentences if np.isfinite(score)]


def caption_all(path: Path, model, decode, idx_to_word, items: list[Item], features) -> list:
    """Fills in the captions of all items; returns the word ids of each, without padding.

    ``path`` is of the checkpoint, for the message when its numbers are of no use.
    """
    from core.coco_utils import decode_captions

    ids = []
    for start in progress(range(0, len(items), _BATCH), "captioning"):
        batch = items[start : start + _BATCH]
        seen = features[start : start + _BATCH]
        if model.start is not None:
            check_finite(path, model, seen)
        words, scores = decode(model, seen)
        for n, item in enumerate(batch):
            item.caption = decode_captions(words[n, 0], idx_to_word)
            if words.shape[1] > 1:
                item.n_best = ranked(words[n], scores[n], idx_to_word)
            ids.append(words[n, 0][words[n, 0] != model.null])
    return ids


def check_memory(options, model, count: int) -> None:
    """Raises ValueError when a beam search of so many images takes more memory than there is."""
    from core.support.memory import available_memory

    beams, left = (options.beam_size if options.decode == "beam" else 1) or 5, available_memory()
    words = len(model.word_to_idx)
    # Each beam: the words in some orders, its best ones, and what it has said so far.
    numbers = 4 * words + 4 * min(beams, words) + 2 * options.max_length
    need = 8 * min(count, _BATCH) * beams * numbers
    if left is not None and need > left:
        raise ValueError(
            f"--beam_size {beams}: takes about {need / 1e9:,.1f} GB of memory with "
            f"--max_length {options.max_length}, and {left / 1e9:,.1f} GB are free; take smaller "
            "ones"
        )


def check_finite(path: Path, model, features) -> None:
    """Raises ValueError when the first word has no probabilities, for numbers that are too large.

    Such a model would say nothing, for every picture.
    """
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        tokens = np.full(len(features), model.start, dtype=np.int64)
        log_probs, _ = model.step(model.begin(features), tokens)
    if not np.isfinite(log_probs).all():
        raise ValueError(
            f"{path}: its parameters are so large, or the features that it reads, that words have "
            "no probabilities; use another file of the run, or train again"
        )


def cut_captions(options, model, ids: list) -> str | None:
    """How many captions came to the limit without <END>, as a sentence; None when none did."""
    limit, more = options.max_length, "--max_length gives them more"
    if model.max_length is not None and model.max_length <= limit:
        limit, more = model.max_length, "the model has no positions for more"
    cut = sum(len(words) == limit and words[-1] != model.end for words in ids)
    captions = f"caption{' was' if len(ids) == 1 else 's were'}"
    return f"{cut:,} of {len(ids):,} {captions} cut at {limit} words; {more}" if cut else None


def draw_attention(options, model, checkpoint, items: list[Item], features, ids) -> None:
    """The figure of --attention, for the first few images."""
    import numpy as np

    from core.image_utils import resize_and_crop
    from core.show.plots import plot_attention

    pictures, words, maps, labels = [], [], [], []
    for n, item in enumerate(items[:_IN_ATTENTION_FIGURE]):
        seen = picture_of(item)
        if seen is None:
            raise FileNotFoundError(f"--attention: there is no picture of {item.file_name} here")
        # What the encoder saw of the picture is what the map lies over.
        size = checkpoint.extractor["preprocessing"]["size"]
        picture = resize_and_crop(seen, size)
        captions = np.array([[model.start, *ids[n]]])
        weights = model.attention_weights(np.asarray(features[n : n + 1]), captions)[0]
        heads = zip(model.head_names(), weights.swapaxes(0, 1), strict=True)
        for label, head in heads if options.heads else [("", weights.mean(axis=1))]:
            pictures.append(picture)
            words.append([checkpoint.idx_to_word[i] for i in ids[n]])
            maps.append(head)
            labels.append(label)
    plot_attention(pictures, words, maps, labels, options.attention)


def reads_given(checkpoint) -> bool:
    """Whether its model reads features that another program made."""
    return bool(checkpoint.extractor) and checkpoint.extractor["encoder"] == GIVEN


def looks_alike(first, other) -> bool:
    """Whether two checkpoints are known to read the same of a photo."""
    if not first.extractor or first.encoder_state or other.encoder_state:
        return False
    if reads_given(first) and not first.extractor["made_by"]:
        return False
    return same_extractor(first, other.extractor, other.extractor_arrays)


def features_of_all(options, checkpoints: list, items: list[Item], features, device: str) -> list:
    """The features of the same images as each of an ensemble reads them, the first's given."""
    first, *more = checkpoints
    tables = [features]
    for run, other in zip(options.ensemble, more, strict=True):
        if looks_alike(first, other):
            tables.append(features)
            continue
        if options.features and reads_given(first) and reads_given(other):
            raise ValueError(
                f"--ensemble {run}: reads other features of a photo than the first run, or ones "
                "that do not say what made them; --features is one file, so caption a --split"
            )
        theirs, table, _ = look_at(options, other, device)
        if [item.file_name for item in theirs] != [item.file_name for item in items]:
            raise ValueError(f"--ensemble {run}: knows other images; take runs of one data set")
        tables.append(table)
    return tables


def features_in_a_mirror(options, checkpoints: list, items: list[Item], device: str) -> list:
    """The features of the same images in a mirror, as each checkpoint's model reads them.

    Raises ValueError for a model that cannot look at photos, FileNotFoundError without a photo.
    """
    from core.encoders.pictures import LookedAt

    for item in items:
        if item.path is None:
            raise FileNotFoundError(
                f"--flip: looks at the photos again, and {item.file_name} is not on this machine; "
                "leave the option out"
            )
    tables = []
    for n, checkpoint in enumerate(checkpoints):
        if n and looks_alike(checkpoints[0], checkpoint):
            tables.append(tables[0])
            continue
        if checkpoint.extractor is None or reads_given(checkpoint):
            raise ValueError(
                f"--flip: {checkpoint.model} reads features that were made elsewhere, and cannot "
                "look at photos; leave the option out"
            )
        extractor = extractor_of(checkpoint, options.weights, device).mirrored()
        tables.append(LookedAt([item.path for item in items], extractor))
    return tables


def ensemble_checkpoints(options, checkpoint) -> list:
    """The further checkpoints of an ensemble, after checking that they fit the first."""
    from core.checkpoint import load_checkpoint

    found = []
    for run in options.ensemble:
        other = load_checkpoint(find_checkpoint("--ensemble", run))
        if difference := first_other_word(other.idx_to_word, checkpoint.idx_to_word):
            raise ValueError(
                f"--ensemble {run}: has another vocabulary ({difference}); take runs of one data "
                "set"
            )
        found.append(other)
    for option in ("report", "attention"):
        if found and getattr(options, option):
            raise ValueError(f"--{option}: is about one model; leave it out, or --ensemble")
        if options.flip and getattr(options, option):
            raise ValueError(f"--{option}: shows one look at a photo; leave it out, or --flip")
    return found


def report_facts(
    options, path: Path, checkpoint, decoders, which: str, count: int, cut: str | None
) -> dict:
    """What the page of --report says of the model, the decoders and the images."""

    def described(name: str) -> str:
        numbers = [
            f"{number} {value}"
            for number, value in decoders[name].items()
            if number != "n_best" and value is not None and value is not False  # 0 is a value
        ]
        return f"{_DECODER_NAMES[name]} ({', '.join(numbers)})"

    parameters = sum(parameter.size for parameter in checkpoint.decoder_params.values())
    facts = {
        "Model": f"{checkpoint.model}, {parameters:,} parameters ({path.parent.name}/{path.name})",
        "Vocabulary": f"{len(checkpoint.idx_to_word):,} words",
        "Decoder": described(options.decode),
        "Compared with": ", ".join(described(name) for name in decoders if name != options.decode),
        "Images": which + (f"; the first {_IN_REPORT} are shown" if count > _IN_REPORT else ""),
    }
    return facts | ({"Cut": cut} if cut else {})


def draw_report(
    options, facts: dict, which: str, model, idx_to_word, decoders, neighbours,
    items: list[Item], features, ids,
) -> None:  # fmt: skip
    """The page of --report: the first images, and the scores of all."""
    import numpy as np

    from core.coco_utils import decode_captions
    from core.image_utils import resize_and_crop
    from core.show.report import PICTURE_SIZE, Entry, read_words, score_captions, write_report

    shown = items[:_IN_REPORT]
    features = np.asarray(features[: len(shown)])
    words = read_words(model, idx_to_word, features, ids[: len(shown)])
    scores, alone = {}, [{}] * len(items)
    if all(item.references for item in items):
        captions, references = zip(*((i.caption, i.references) for i in items), strict=True)
        scores, alone = score_captions(captions, references)
    # The page has the whole beam, whatever is printed; its best caption is the same.
    decoders["beam"]["n_best"] = decoders["beam"]["beam_size"]
    found = {
        name: decoder(name, decoders[name], options.engine, neighbours)(model, features)
        for name in decoders
    }
    entries = []
    for n, item in enumerate(shown):
        picture = picture_of(item)
        if picture is not None:
            picture = resize_and_crop(picture, PICTURE_SIZE)
        others = {
            _DECODER_NAMES[name]: decode_captions(captions[n, 0], idx_to_word)
            for name, (captions, _) in found.items()
            if name != options.decode  # a second sample is another one than the item's
        }
        beam = ranked(*(of_image[n] for of_image in found["beam"]), idx_to_word)
        name = Path(item.file_name).name
        entries.append(Entry(name, picture, words[n], others, beam, item.references, alone[n]))
    write_report(options.report, facts, _DECODER_NAMES[options.decode], entries, scores, which)


def main(arguments: list[str] | None = None) -> None:
    """The command; ``arguments`` are those of the command line when None."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    for name in ("checkpoint", "data", "images", "weights", "impl"):
        if getattr(options, name) == "":
            parser.error(f"--{name}: is empty, expected a name; leave it out, or give one")
    for name, suffixes in _FILES.items():
        check_output(f"--{name}", getattr(options, name), suffixes)
    pictures = [os.path.realpath(name) for name in (options.figure, options.attention) if name]
    if len(pictures) > len(set(pictures)):
        raise ValueError(f"--attention {options.attention}: --figure has that name; take another")
    if options.heads and not options.attention:
        raise ValueError("--heads: goes with --attention FILE.png; add that")
    if options.impl and options.engine not in (None, "plain"):
        raise ValueError(
            f"--engine {options.engine}: --impl takes functions into the plain engine alone; take "
            "--engine plain, or leave one of them out"
        )
    options.engine = options.engine or ("plain" if options.impl else "numpy")
    check_engine_options(vars(options), options.engine)
    path = checkpoint_of_model(options.model) if options.model else None
    path = path or find_checkpoint("--checkpoint", options.checkpoint)

    from core.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    device = "cpu"
    if options.engine == "torch":
        from core.support.processes import choose_device

        device = choose_device(options.device or "auto")
    checkpoints = [checkpoint, *ensemble_checkpoints(options, checkpoint)]
    if not options.impl:
        caption(options, path, checkpoints, device)
        return
    from core.runs.in_place import in_place

    own = functions_of_learner(options, checkpoints)
    with in_place(own):
        caption(options, path, checkpoints, device, own)


def functions_of_learner(options, checkpoints: list):
    """The functions of --impl, after saying which they are and warning of those that are wrong."""
    from core.runs.own import of_captioning

    own = of_captioning(options.impl, checkpoints, options.decode)
    for option in ("attention", "report"):
        if getattr(options, option) and checkpoints[0].model == "transformer":
            raise ValueError(
                f"--{option}: draws what core's attention keeps, which an --impl need not; leave "
                "one of them out"
            )
    for line in own.lines():
        print(line, flush=True)
    own.warn_of_wrong({checkpoint.config.get("activation") for checkpoint in checkpoints})
    return own


def check_places(options, checkpoints: list) -> None:
    """Raises ValueError for a file or folder that nothing of this command would read."""
    own = own_photos(options)
    if options.features and not own:
        raise ValueError("--features: goes with --image or --images; add one of them")
    if options.features and not any(map(reads_given, checkpoints)):
        sees = (checkpoints[0].extractor or {"encoder": "an unknown encoder"})["encoder"]
        raise ValueError(
            f"--features {options.features}: the model was trained on what {sees} sees, and looks "
            "at photos with that; leave the option out"
        )
    if options.data and own and not options.neighbours:
        raise ValueError("--data: does not go with photos of your own, leave it out")

    def reads_weights(checkpoint) -> bool:
        looks = own or options.flip or checkpoint.settings.get("encoder") is not None
        has_file = (checkpoint.extractor or {}).get("sha256") is not None
        return looks and has_file and not checkpoint.encoder_state

    if options.weights and not any(map(reads_weights, checkpoints)):
        raise ValueError(
            f"--weights {options.weights}: nothing reads a weight file here, for the encoder is in "
            "the checkpoint, or features are made already; leave the option out"
        )


def say_turned(items: list[Item]) -> None:
    """A warning when captions that a look in the mirror had a part in tell left from right."""
    turned = sum(not set(SIDES).isdisjoint(item.caption.split()) for item in items)
    if turned:
        warnings.warn(
            f"--flip: {turned:,} of {len(items):,} captions say {' or '.join(SIDES)}, which are "
            "the other way round in a mirror; leave the option out where that matters",
            stacklevel=2,
        )


def caption(options, path: Path, checkpoints: list, device: str, own=None) -> None:
    """Captions the images and writes what was asked for.

    Inputs:
    - options: of the command
    - path, checkpoints: of the run, and all that vote
    - device: where the torch engine computes
    - own: the learner's functions that are in the place of ours, or None
    """
    from core.recipes.ensemble import Ensemble, FeaturesOfEach
    from core.support.files import write_json

    checkpoint, build = checkpoints[0], model_builder(options.engine, device)
    if options.max_length is None:
        options.max_length = max(c.training.get("max_length", _MAX_LENGTH) for c in checkpoints)
    decoders = decoders_of(options)
    models = [build(c.model, c.config, c.idx_to_word, c.decoder_params) for c in checkpoints]
    model = models[0]
    if options.attention and not model.grid:
        raise ValueError(f"--attention: {checkpoint.model} has no attention; leave it out")
    check_places(options, checkpoints)
    if not own_photos(options):
        options.split = split_of(options, checkpoint)
    if decoders["beam"]["neighbours"] and options.split == "train":
        raise ValueError(
            "--neighbours: the neighbours are training pictures, of which each is its own; take "
            "--split val, or photos of your own"
        )
    items, features, data = look_at(options, checkpoint, device)
    voting, tables = model, features_of_all(options, checkpoints, items, features, device)
    if options.flip:
        models += models
        tables += features_in_a_mirror(options, checkpoints, items, device)
    if len(models) > 1:
        voting, features = Ensemble(models), FeaturesOfEach(tables)
    neighbours = None
    if count := decoders["beam"]["neighbours"]:
        from core.recipes.neighbours import Neighbours

        seen = with_readable(data or data_of(options, checkpoint, device), "train")
        neighbours = Neighbours(seen, count)
    decode = decoder(options.decode, decoders[options.decode], options.engine, neighbours)
    check_memory(options, model, len(items))
    with advice_on_memory("take a smaller --beam_size or --max_length"):
        ids = caption_all(path, voting, decode, checkpoint.idx_to_word, items, features)

    if options.flip:
        say_turned(items)
    which, lines = which_images(options, checkpoint, data, len(items)), []
    cut = cut_captions(options, voting, ids)

    def first(count: int) -> str:
        return f", the first {count} of {len(items):,} images" if count < len(items) else ""

    try:  # Files come before anything is printed. If one fails, all that was found is printed.
        if options.out:
            write_json(options.out, as_json(items))
            lines.append(f"captions: {options.out}")
        if options.figure:
            draw(items, options.figure)
            lines.append(f"picture: {options.figure}{first(_IN_FIGURE)}")
        if options.attention:
            draw_attention(options, model, checkpoint, items, features, ids)
            lines.append(f"attention: {options.attention}{first(_IN_ATTENTION_FIGURE)}")
        if options.report:
            facts = report_facts(options, path, checkpoint, decoders, which, len(items), cut)
            draw_report(
                options, facts, which, model, checkpoint.idx_to_word, decoders, neighbours,
                items, features, ids,
            )  # fmt: skip
            lines.append(f"report: {options.report}, {facts['Images']}")
    finally:
        print_table(items)
        print_counts(options, which, items, cut)
        if line := whose_functions(options, checkpoint, own, items):
            print(line)
        for line in lines:
            print(line)


if __name__ == "__main__":
    run_command(main)
