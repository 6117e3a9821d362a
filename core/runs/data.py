"""What a run reads: its data, what looks at its pictures, and where its parameters start.

Heavy modules are imported by what needs them, so that a command that refuses its options does so at
once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from core.runs.settings import DEFAULTS, find_checkpoint


def load_data(settings: dict, extractor=None, training: bool = True) -> dict:
    """The data of a run: the embedded data (made when absent) or a folder; samples taken.

    A model that reads a grid gets one where the folder has one, else one vector an image. With an
    encoder it gets the grid of that, looked at once and kept; while the encoder learns, pictures.

    Inputs:
    - settings: of the run
    - extractor: what looks at pictures, when the settings name an encoder
    - training: whether all of the data are wanted, or some images of one split

    Captions of pictures that cannot be read are left out, and a warning says so. Of those that are
    looked at only when they are asked for it is not known: see ``with_readable``.

    Raises as ``core.coco_utils.load_coco_data`` does, and ValueError when too many pictures cannot
    be read.
    """
    folder = _folder_of(settings["data"])
    if extractor is None:
        data = _with_features(settings, folder)
    else:
        data = _with_pictures(settings, folder, extractor, training)
    if settings["num_samples"] is not None:
        data = _samples(settings, data, extractor, training)
    return data


def _folder_of(name: str) -> Path:
    if name != "shapes":
        return Path(name)
    from core import shapes
    from core.support import processes

    if processes.rank() == 0:
        shapes.prepare_shapes()
    processes.wait_for_all()
    return shapes.DEFAULT_FOLDER


def _with_features(settings: dict, folder: Path) -> dict:
    from core.coco_utils import SPLITS, feature_kinds, load_coco_data
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
    data = load_coco_data(folder, pca_features=not settings["no_pca"], features=kind)
    urls = {split: data[f"{split}_urls"] for split in SPLITS if f"{split}_urls" in data}
    say_changed(folder, data["source"]["image_root"], urls)
    return data


def _with_pictures(settings: dict, folder: Path, extractor, training: bool) -> dict:
    from core.coco_utils import SPLITS, load_coco_data
    from core.encoders.photos import open_all
    from core.encoders.pictures import LookedAt, Pictures, kept_features
    from core.flickr8k import load_photo_data
    from core.photos import holds_photos

    raw = holds_photos(folder)
    data = load_photo_data(folder) if raw else load_coco_data(folder, features=None)
    learns, few = settings["finetune_encoder"] > 0, settings["num_samples"] is not None
    paths = {split: picture_places(data, split) for split in SPLITS if f"{split}_captions" in data}
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
    if settings["flip"] and training and not (learns or few):
        _add_mirrored(data, extractor, paths["train"])
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
    reasons, opened = [], 0
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
            opened += len(images)
        if not any(lost.values()):
            say_left_out(reasons, opened)
            return taken
        for split in splits:  # others take their places
            data = _without(data, split, lost[split])


def _add_mirrored(data: dict, extractor, paths: list[Path]) -> None:
    """Every training picture in a mirror as one more picture, with the same captions."""
    import numpy as np

    from core.coco_utils.tables import Stacked
    from core.encoders.pictures import kept_features

    folder = data["source"]["folder"]
    tables, _ = kept_features({"train_mirrored": paths}, extractor.mirrored(), folder)
    mirrored = tables["train_mirrored"]
    idxs, count = data["train_image_idxs"], len(mirrored)
    data["train_features"] = Stacked([data["train_features"], mirrored])
    data["train_image_idxs"] = np.concatenate([idxs, idxs + count])
    data["train_captions"] = np.tile(data["train_captions"], (2, 1))
    data["train_urls"] = np.tile(data["train_urls"], 2)


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
    """
    from core.encoders import Extractor

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

    init = load_checkpoint(find_checkpoint(None, settings["init"]))
    if init.model != settings["model"]:
        raise ValueError(f"--init {settings['init']}: is of {init.model}, not {settings['model']}")
    if init.encoder_state:
        _check_same_words(init, data)
        _check_same_look(init, settings, extractor)
        return init if settings["finetune_encoder"] else replace(init, params=init.decoder_params)
    check_same_data(init, data)
    return init


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
        same = settings["finetune_encoder"] or all(
            np.array_equal(x.astype(np.float32), ours[k].cpu()) for k, x in learned.items()
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
    return (
        ours == theirs
        and known.keys() == arrays.keys()
        and all(np.array_equal(array, arrays[name]) for name, array in known.items())
    )


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
    if data["idx_to_word"] != checkpoint.idx_to_word:
        raise ValueError(
            f"{data['source']['folder']}: has another vocabulary ({len(data['idx_to_word'])} words)"
            f" than the checkpoint ({len(checkpoint.idx_to_word)} words); use the data it was "
            "trained on"
        )


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
