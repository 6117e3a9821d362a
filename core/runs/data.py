"""What a run reads: its data, what looks at its pictures, and where its parameters start.

Heavy modules are imported by what needs them, so that a command that refuses its options does so at
once.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from core.runs.settings import DEFAULTS, MIN_COUNT, TRAINED_ON, find_checkpoint
from core.support.choices import GIVEN
from core.support.files import hash_of_file
from core.support.schema import shown

SIDES = ("left", "right")


def load_data(settings: dict, extractor=None, training: bool = True) -> dict:
    """The data of a run: the embedded data (made when absent) or a folder; samples taken.

    A model that reads a grid gets one where the folder has one, else one vector an image. With an
    encoder it gets the grid of that, looked at once and kept; while the encoder learns, pictures.

    Inputs:
    - settings: of the run; the defaults stand in for what they do not say
    - extractor: what looks at pictures, when the settings name an encoder
    - training: whether all of the data are wanted, and captions of more than ``max_words`` words
      left out, or some images of one split, with all that is said of them

    Captions of pictures that cannot be read are left out, and a warning says so. Of those that are
    looked at only when they are asked for it is not known: see ``with_readable``.

    Raises as ``core.coco_utils.load_coco_data`` does, ValueError when too many pictures cannot be
    read, and for training when a split has no captions or the training captions no word but <UNK>.
    """
    settings = DEFAULTS | settings
    folder = _folder_of(settings["data"])
    if extractor is None:
        data = _with_features(settings, folder, training)
    else:
        data = _with_pictures(settings, folder, extractor, training)
    if training and settings["flip"]:
        _say_of_flip(settings, data)
    if settings["num_samples"] is not None:
        if not training:  # drawn from what they were drawn from then
            data = _without_long(data, settings["max_words"], quiet=True)
        data = _samples(settings, data, extractor, training)
        if training:
            _refuse_without_words(data)
    return data


def _fit_to_train_on(data: dict, max_words: int) -> dict:
    """The data without captions that are too long; what is wrong with the others is said."""
    from core.coco_utils import SPLITS, share_of_unknown
    from core.coco_utils.words import MANY_UNKNOWN

    folder = data["source"]["folder"]
    splits = [split for split in SPLITS if f"{split}_captions" in data]
    for split in splits:
        if len(data[f"{split}_captions"]) == 0:
            raise ValueError(
                f"{folder}: the {split} split has no captions with words; give it some, or leave "
                "its images out"
            )
    data = _without_long(data, max_words)
    _refuse_without_words(data)
    for split in splits:
        if (share := share_of_unknown(data, split)) > MANY_UNKNOWN:
            warnings.warn(
                f"{folder}: {share:.0%} of the words of the {split} captions are <UNK>, which the "
                "vocabulary does not have; with a smaller --min_count it has more of the training "
                "captions' words",
                stacklevel=2,
            )
            break  # the others are like it
    return data


def _without_long(data: dict, max_words: int, quiet: bool = False) -> dict:
    """The data without captions of more words, which a warning counts; of 0 with all of them."""
    from core.coco_utils import without_long_captions

    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
        return without_long_captions(data, max_words) if max_words else data


def _refuse_without_words(data: dict) -> None:
    from core.coco_utils import share_of_unknown

    if share_of_unknown(data, "train") == 1:
        raise ValueError(
            f"{data['source']['folder']}: its training captions hold no word but <UNK>; make the "
            "vocabulary with a smaller --min_count (1 keeps every word), of captions whose words "
            "have blanks between them"
        )


def _folder_of(name: str) -> Path:
    if name != "shapes":
        return Path(name)
    from core import shapes
    from core.support import processes

    if processes.rank() == 0:
        shapes.prepare_shapes()
    processes.wait_for_all()
    return shapes.DEFAULT_FOLDER


def learns_mirrored(settings: Mapping) -> bool:
    """Whether every training photo is there twice, as it is and in a mirror: ``--flip``.

    Not for a few that are learned by heart, nor for an encoder that learns, which sees one or the
    other.
    """
    few = settings.get("num_samples") is not None
    return bool(settings.get("flip")) and not (few or settings.get("finetune_encoder"))


def _say_of_flip(settings: dict, data: Mapping) -> None:
    """A warning where ``--flip`` does nothing, or mirrors what captions call left and right."""
    import numpy as np

    if not settings["finetune_encoder"]:
        if settings["num_samples"] is not None:
            warnings.warn(
                "--flip: does nothing with --num_samples, which learns captions of the photos as "
                "they are; leave it out",
                stacklevel=2,
            )
        return
    captions = data["train_captions"]
    sided = np.isin(captions, _ids_of_sides(data)).any(axis=1)
    if sided.any():
        warnings.warn(
            f"--flip: {np.count_nonzero(sided):,} of {len(captions):,} training captions say "
            f"{' or '.join(SIDES)}, and an encoder that learns sees half of their photos in a "
            "mirror; leave the option out where that matters",
            stacklevel=2,
        )


def _ids_of_sides(data: Mapping) -> list[int]:
    return [data["word_to_idx"][word] for word in SIDES if word in data["word_to_idx"]]


def _with_features(settings: dict, folder: Path, training: bool) -> dict:
    from core.coco_utils import DATASET_FILE, SPLITS, feature_kinds, load_coco_data
    from core.coco_utils.folder import MIRRORED, holds_mirrored
    from core.encoders.photos import say_changed
    from core.models import MODELS
    from core.photos import holds_photos

    if holds_photos(folder):
        raise ValueError(
            f"--data {folder}: holds photos and no features; let attention or transformer look at "
            "them with --encoder, or prepare it with core.flickr8k (datasets/README.md)"
        )
    model_class, _ = MODELS[settings["model"]]
    kind = "grid" if model_class.grid and "grid" in feature_kinds(folder) else "pooled"
    flip = training and learns_mirrored(settings)
    if flip and not holds_mirrored(folder, kind):
        raise ValueError(
            f"--flip: {folder} has no {kind} features of photos in a mirror; prepare it again "
            "with core.flickr8k --flip, or leave the option out"
        )
    pca = not settings["no_pca"]
    if training and not pca and (folder / DATASET_FILE).is_file():
        raise ValueError(
            f"--no_pca: chooses between two files of the COCO archive, and {folder} has one; leave "
            "the option out, or prepare it again with --pca 0"
        )
    data = load_coco_data(folder, pca_features=pca, features=kind, mirrored=flip)
    urls = {split: data[f"{split}_urls"] for split in SPLITS if f"{split}_urls" in data}
    say_changed(folder, data["source"]["image_root"], urls)
    if training:
        data = _fit_to_train_on(data, settings["max_words"])
    return _with_mirrored(data, data.pop(f"{MIRRORED}_features")) if flip else data


def _with_pictures(settings: dict, folder: Path, extractor, training: bool) -> dict:
    from core.coco_utils import SPLITS, load_coco_data
    from core.coco_utils.folder import MIRRORED
    from core.encoders.photos import open_all, say_changed
    from core.encoders.pictures import LookedAt, Pictures, kept_features
    from core.flickr8k import load_photo_data
    from core.photos import holds_photos

    raw = holds_photos(folder)
    if training and not raw and settings["min_count"] is not None:
        raise ValueError(
            f"--min_count: {folder} has its vocabulary already; leave the option out, or prepare "
            "the photos again with it"
        )
    min_count = settings["min_count"] or MIN_COUNT
    data = load_photo_data(folder, min_count) if raw else load_coco_data(folder, features=None)
    if training:
        data = _fit_to_train_on(data, settings["max_words"])
    learns, few = settings["finetune_encoder"] > 0, settings["num_samples"] is not None
    paths = {split: picture_places(data, split) for split in SPLITS if f"{split}_captions" in data}
    if not raw:
        urls = {split: data[f"{split}_urls"] for split in paths}
        say_changed(folder, data["source"]["image_root"], urls, looked_at_now=True)
    unreadable = {}
    if learns and training:
        tables = {
            split: Pictures(of, extractor.preprocessing, extractor.shape)
            for split, of in paths.items()
        }
        if not few:  # whose pictures are opened when they are chosen
            unreadable = open_all(paths, folder, extractor.device)
    elif learns or few:
        tables = {split: LookedAt(of, extractor, remember=training) for split, of in paths.items()}
    else:
        tables, unreadable = kept_features(paths, extractor, folder, make=training)
    data |= {f"{split}_features": table for split, table in tables.items()}
    data["captions_together"] = training and learns
    data["source"] |= {"extractor": extractor.specification, "arrays": extractor.arrays}
    for split, reasons in unreadable.items():
        data = _without(data, split, list(reasons))
    reasons = [reason for of in unreadable.values() for reason in of.values()]
    say_left_out(reasons, sum(len(paths[split]) for split in unreadable))
    if training and learns_mirrored(settings):
        of_train = {MIRRORED: paths["train"]}
        tables, _ = kept_features(of_train, extractor.mirrored(), data["source"]["folder"])
        data = _with_mirrored(data, tables[MIRRORED])
    return data


def picture_places(data: dict, split: str) -> list[Path]:
    """Where the pictures of a split should be; some may not be there."""
    root = data["source"]["image_root"]
    if root is None:
        raise FileNotFoundError(
            f"{data['source']['folder']}: says nothing of where its pictures are; give --data a "
            "folder with its pictures"
        )
    return [root / str(url) for url in data[f"{split}_urls"]]


def _without(data: dict, split: str, images: list[int]) -> dict:
    """A copy of the data without the captions of those images; the others keep their numbers.

    Raises ValueError when no caption is left.
    """
    import numpy as np

    keep = ~np.isin(data[f"{split}_image_idxs"], images)
    if not keep.any():
        raise ValueError(
            f"{data['source']['folder']}: none of the pictures of {split} that have captions can "
            "be read; is the copy complete? Fetch it again"
        )
    names = f"{split}_captions", f"{split}_image_idxs"
    return data | {name: data[name][keep] for name in names}


def say_left_out(reasons: list[str], count: int) -> None:
    """A warning about photos that cannot be read, if there are any; one of several processes."""
    import warnings

    from core.encoders.photos import left_out
    from core.support import processes

    if reasons and processes.rank() == 0:
        warnings.warn(left_out(reasons, count), stacklevel=2)


def with_readable(data: dict, split: str, count: int | None = None) -> dict:
    """The data without the captions of pictures of a split that cannot be read; these are named.

    Only pictures that have not been looked at yet are opened, and of those no more than it takes to
    find the first ``count`` (None: all) that can be read.
    """
    import numpy as np

    from core.encoders.photos import first_readable
    from core.encoders.pictures import LookedAt

    table = data[f"{split}_features"]
    if not isinstance(table, LookedAt):
        return data
    images = np.unique(data[f"{split}_image_idxs"])
    found, reasons = first_readable([table.paths[i] for i in images], count)
    opened = images[: len(found) + len(reasons)]
    say_left_out(reasons, len(opened))
    return _without(data, split, np.delete(opened, found).tolist())


def _samples(settings: dict, data: dict, extractor, training: bool) -> dict:
    """As ``core.coco_utils.take_samples``; with an extractor, of pictures that can be read.

    While training, the validation captions are those that the solver looks at then, and no more.
    """
    import numpy as np

    from core.coco_utils import take_samples
    from core.encoders.photos import find_unreadable

    splits = ("train", "val") if training and "val_captions" in data else ("train",)
    reasons: list[str] = []
    opened: dict[str, set] = {split: set() for split in splits}
    while True:
        rng = np.random.default_rng([settings["seed"], 0])
        taken = take_samples(data, settings["num_samples"], rng)
        if extractor is None:
            return taken
        if "val" in splits:
            total = len(data["val_captions"])
            most = min(total, len(taken["train_captions"]))
            rows = np.arange(most) * total // most
            names = "val_captions", "val_image_idxs"
            taken |= {name: data[name][rows] for name in names}
        lost = {}
        for split in splits:
            images = np.unique(taken[f"{split}_image_idxs"])
            paths = [taken[f"{split}_features"].paths[i] for i in images]
            found = find_unreadable(paths, extractor.device)
            lost[split] = images[list(found)].tolist()
            reasons += found.values()
            opened[split].update(images.tolist())
        if not any(lost.values()):
            say_left_out(reasons, sum(map(len, opened.values())))
            return taken
        for split in splits:  # others take their places
            data = _without(data, split, lost[split])


def _with_mirrored(data: dict, mirrored) -> dict:
    """A copy of the data with every training image in a mirror as one more, with its captions.

    Captions that say left or right would be false there; they stay with the image as it is, and a
    warning counts them.

    Inputs:
    - mirrored: a table of the features of the training images in a mirror
    """
    import numpy as np

    from core.coco_utils.tables import Stacked

    captions, idxs = data["train_captions"], data["train_image_idxs"]
    true = ~np.isin(captions, _ids_of_sides(data)).any(axis=1)
    if not true.all():
        warnings.warn(
            f"--flip: {np.count_nonzero(~true):,} of {len(true):,} training captions say "
            f"{' or '.join(SIDES)}; they are learned of the photo, not of its mirror image",
            stacklevel=2,
        )
    return data | {
        "train_features": Stacked([data["train_features"], mirrored]),
        "train_image_idxs": np.concatenate([idxs, idxs[true] + len(mirrored)]),
        "train_captions": np.concatenate([captions, captions[true]]),
        "train_urls": np.tile(data["train_urls"], 2),
    }


def extractor_of_settings(settings: dict, device: str = "cpu"):
    """The ``Extractor`` that looks at the pictures of a run; None without an encoder."""
    if settings["encoder"] is None:
        return None
    from core.encoders import Extractor

    return Extractor(
        settings["encoder"], "grid", settings["weights"], grid=settings["grid"], device=device
    )


def extractor_of(checkpoint, weights: str | None = None, device: str = "cpu"):
    """The ``Extractor`` that makes of photos what a checkpoint's model reads.

    Inputs:
    - checkpoint: its extractor must be known
    - weights: where the weight file of an encoder that was not trained is now, if it was moved
    - device: where a PyTorch encoder computes

    Raises ValueError when its features were made by another program, and as ``Extractor`` does.
    """
    from core.encoders import Extractor

    if checkpoint.extractor["encoder"] == GIVEN:
        from core.encoders.given import told

        raise ValueError(
            f"--image: the model reads features that {told(checkpoint.extractor['made_by'])} made; "
            "make those of these photos by the same script, and add --features FILE.h5"
        )
    arrays, trained = checkpoint.extractor_arrays, checkpoint.encoder_state
    return Extractor.rebuild(checkpoint.extractor, arrays, weights, trained, device)


def load_data_of(checkpoint, weights: str | None = None, device: str = "cpu", **changes) -> dict:
    """The data that a checkpoint was trained on, or with ``changes`` to its settings others.

    ``weights`` and ``device`` as for ``extractor_of``.

    Raises as ``load_data`` does, and as ``check_same_data`` when they are not made for the model.
    """
    settings = DEFAULTS | checkpoint.settings | {"model": checkpoint.model} | changes
    looks = settings["encoder"] is not None
    extractor = extractor_of(checkpoint, weights, device) if looks else None
    data = load_data(settings, extractor, training=False)
    check_same_data(checkpoint, data)
    return data


def load_init(settings: dict, data: dict, extractor=None):
    """The checkpoint whose parameters a run starts from, checked; None when it starts afresh.

    Where its encoder learned, that is the one that looks now, or it learns on.
    """
    if settings["init"] is None:
        return None
    from core.checkpoint import load_checkpoint

    init = load_checkpoint(find_checkpoint("--init", settings["init"]))
    if init.model != settings["model"]:
        raise ValueError(f"--init {settings['init']}: is of {init.model}, not {settings['model']}")
    frozen = init.settings.get("finetune_encoder") == 0  # and there, as core.runs.export puts it
    learned = init.encoder_state and not frozen
    if learned:
        _check_same_words(init, data)
        _check_same_look(init, settings, extractor)
    else:
        check_same_data(init, data)
    _check_same_config(init, settings, data)
    if learned and settings["finetune_encoder"]:
        return init
    return replace(init, params=init.decoder_params)


def _check_same_config(init, settings: dict, data: dict) -> None:
    """Raises ValueError unless a run's model computes what that of the checkpoint does."""
    from core.runs.building import model_config

    for name, found in model_config(settings, data).items():
        other = init.config.get(name, found)
        if other == found or name in ("dtype", "dropout", "double_stochastic", "max_length"):
            continue
        if name == "input_dim":
            raise ValueError(
                f"--init {settings['init']}: reads features of {other} numbers, found {found}; "
                "take the data that it was trained on"
            )
        if name == "norm_first":
            name, other, found = "post_norm", not other, not found
        raise ValueError(
            f"--init {settings['init']}: has --{name} {other}, found {found}; give it the same"
        )


def _check_same_look(init, settings: dict, extractor) -> None:
    """Raises ValueError unless an extractor is like that of a checkpoint, whose encoder learned,
    and, where it learns no more, has become what that has.
    """
    import numpy as np

    from core.encoders.weights import state_of_stages

    same = False
    if extractor is not None and (extractor.encoder, extractor.grid) == (
        init.extractor["encoder"],
        init.extractor.get("grid"),
    ):
        ours, learned = state_of_stages(extractor.network), init.encoder_state
        # Where it learns on, its weights are those of the checkpoint, whatever was looked with.
        known = {init.extractor["sha256"], _digest_of(settings["init"])}
        same = (
            extractor.sha256 in known
            if settings["finetune_encoder"]
            else all(
                np.array_equal(x.astype(np.float32), ours[k].cpu()) for k, x in learned.items()
            )
        )
    if not same:
        raise ValueError(
            f"--init {settings['init']}: was trained with an encoder that learned; look with that "
            "one, by the same --encoder and --grid, and --weights with the same run"
        )


def same_extractor(checkpoint, extractor: dict | None, arrays: Mapping) -> bool:
    """Whether this is the extractor of a checkpoint, its projection included."""
    import numpy as np

    # A weight file may lie elsewhere now; its hash tells whether it is the same.
    ours, theirs = (
        {key: value for key, value in (each or {}).items() if key not in ("weights", "arrays")}
        for each in (checkpoint.extractor, extractor)
    )
    known = checkpoint.extractor_arrays

    def same(name: str) -> bool:  # but for rounding, as of a machine that fitted them anew
        one, other = known[name], arrays[name]
        return one.shape == other.shape and np.allclose(
            one, other, rtol=1e-3, atol=1e-4 * np.abs(one).max()
        )

    return ours == theirs and known.keys() == arrays.keys() and all(map(same, known))


def fingerprint(data: dict, init: str | None = None) -> dict:
    """What tells the data that a run is trained on from others, wherever they lie; as JSON.

    Of the captions and the images that they describe a hash, and how many photos these are; of the
    features the shape, and some numbers of 16 images, for those that another machine computes
    differ by rounding; a hash of the run ``init``, too.
    """
    import numpy as np

    known: dict = {}
    for split in [split for split in TRAINED_ON if f"{split}_captions" in data]:
        captions, table = data[f"{split}_captions"], data[f"{split}_features"]
        images = data[f"{split}_image_idxs"]
        used = captions[:, (captions != data["word_to_idx"]["<NULL>"]).any(axis=0)]
        digest = hashlib.sha256()
        for array in (used, images):
            digest.update(np.ascontiguousarray(array, dtype=np.int32))
        # Of captions that are read anyway (``CaptioningSolver.evaluate``): looking costs time.
        count = min(len(captions), len(data["train_captions"]))
        chosen = np.linspace(0, count - 1, 16).astype(int) * len(captions) // count
        rows = np.unique(images[chosen])
        seen = table[rows]
        # while the encoder learns, the table is of pictures
        seen = np.asarray(getattr(seen, "images", seen), np.float32).reshape(len(rows), -1)
        seen = seen[:, np.linspace(0, seen.shape[1] - 1, 16).astype(int)]
        known[split] = {
            "captions": digest.hexdigest(),
            "shape": list(table.shape),
            # A mirror image is no other photo. Text is sorted slowly, so images come once each.
            "photos": len(np.unique(data[f"{split}_urls"][np.unique(images)])),
            "features": [[float(f"{value:.5g}") for value in row] for row in seen.tolist()],
        }
    return known if init is None else known | {"init": _digest_of(init)}


def _digest_of(run: str) -> str:
    return hash_of_file(find_checkpoint("--init", run))


def check_same_contents(last, settings: dict, data: dict) -> bool:
    """Whether data could be compared with a run's, which one of an early version did not note.

    Inputs:
    - last: the run's last.npz
    - settings, data: with which it is resumed

    Raises ValueError when the run is trained on others, or started from another --init.
    """
    import numpy as np

    def same(ours: dict, theirs: dict, name: str) -> bool:
        if name == "captions" or ours.get("shape") != theirs.get("shape"):
            return ours.get(name) == theirs.get(name)
        now, then = ours.get(name, 0), theirs.get(name, 0)
        same_size = np.shape(now) == np.shape(then)
        return same_size and np.allclose(now, then, rtol=0.01, atol=0.01 * np.std(then))

    if settings["init"] != last.settings.get("init") and (
        settings["init"] is None or _digest_of(settings["init"]) != last.data.get("init")
    ):
        raise ValueError(
            f"--init {settings['init']}: is not what the run started from; leave the option out, "
            "or start another run with another --out"
        )
    found = fingerprint(data)
    for split in TRAINED_ON if last.data else ():
        ours, theirs = found.get(split, {}), last.data.get(split, {})
        others = [name for name in ("captions", "features") if not same(ours, theirs, name)]
        if others:
            raise ValueError(
                f"{data['source']['folder']}: its {split} {' and '.join(others)} are not those of "
                "the run; give --data the data that it is trained on, or start another run with "
                "another --out"
            )
    return bool(last.data)


def check_same_data(checkpoint, data: dict) -> None:
    """Raises ValueError unless the data have the vocabulary and the extractor of a checkpoint."""
    _check_same_words(checkpoint, data)
    source = data["source"]
    if not same_extractor(checkpoint, source["extractor"], source["arrays"]):
        raise ValueError(
            f"{source['folder']}: its features were not made by the extractor that the checkpoint "
            "was trained with (encoder, preprocessing, weights or PCA differ); "
            "use the data it was trained on, or train again"
        )


def _check_same_words(checkpoint, data: dict) -> None:
    if difference := first_other_word(data["idx_to_word"], checkpoint.idx_to_word):
        raise ValueError(
            f"{data['source']['folder']}: has another vocabulary ({len(data['idx_to_word'])} words)"
            f" than the checkpoint ({len(checkpoint.idx_to_word)} words): {difference}; use the "
            "data it was trained on"
        )


def first_other_word(ours: list[str], theirs: list[str]) -> str | None:
    """The first word in which two vocabularies differ, in words; None when they are the same."""
    for i, (one, other) in enumerate(zip_longest(ours, theirs)):
        if one != other:
            found, expected = (
                "no more words" if word is None else shown(word) for word in (one, other)
            )
            return f"word {i} is {found}, expected {expected}"
    return None


def caption_scores(settings: dict, data: dict):
    """What scores captions after each epoch, when the best epoch is chosen by that; else None."""
    if settings["select"] == "loss":
        return None
    if "val_captions" not in data or settings["num_samples"] is not None:
        raise ValueError(
            f"--select {settings['select']}: scores captions of validation images, which this run "
            "does not look at; leave it out"
        )
    from core.recipes.validation import CaptionScores

    return CaptionScores(data)
