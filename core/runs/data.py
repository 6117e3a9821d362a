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

    Raises as ``core.coco_utils.load_coco_data`` does, and FileNotFoundError for pictures that are
    not on this machine.
    """
    import numpy as np

    from core.coco_utils import take_samples

    folder = _folder_of(settings["data"])
    if extractor is None:
        data = _with_features(settings, folder)
    else:
        data = _with_pictures(settings, folder, extractor, training)
    if settings["num_samples"] is not None:
        rng = np.random.default_rng([settings["seed"], 0])
        data = take_samples(data, settings["num_samples"], rng)
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
    from core.coco_utils import feature_kinds, load_coco_data
    from core.models import MODELS
    from core.photos import holds_photos

    if holds_photos(folder):
        raise ValueError(
            f"--data {folder}: holds photos and no features; let attention or transformer look at "
            "them with --encoder, or prepare it with core.flickr8k (datasets/README.md)"
        )
    model_class, _ = MODELS[settings["model"]]
    kind = "grid" if model_class.grid and "grid" in feature_kinds(folder) else "pooled"
    return load_coco_data(folder, pca_features=not settings["no_pca"], features=kind)


def _with_pictures(settings: dict, folder: Path, extractor, training: bool) -> dict:
    from core.coco_utils import SPLITS, load_coco_data, picture_paths
    from core.encoders.pictures import LookedAt, Pictures, kept_features
    from core.flickr8k import load_photo_data
    from core.photos import holds_photos

    raw = holds_photos(folder)
    data = load_photo_data(folder) if raw else load_coco_data(folder, features=None)
    learns, few = settings["finetune_encoder"] > 0, settings["num_samples"] is not None
    for split in [split for split in SPLITS if f"{split}_captions" in data]:
        paths = picture_paths(data, split)
        if learns and training:
            table = Pictures(paths, extractor.preprocessing, extractor.shape)
        elif learns or few:
            table = LookedAt(paths, extractor, remember=training)
        else:
            table = kept_features(paths, extractor, f"{folder.name}_{split}", make=training)
        data[f"{split}_features"] = table
    data["captions_together"] = training and learns
    data["source"] |= {"extractor": extractor.specification, "arrays": extractor.arrays}
    if settings["flip"] and training and not (learns or few):
        _add_mirrored(data, extractor)
    return data


def _add_mirrored(data: dict, extractor) -> None:
    """Every training picture in a mirror as one more picture, with the same captions."""
    import numpy as np

    from core.coco_utils import picture_paths
    from core.coco_utils.tables import Stacked
    from core.encoders.pictures import kept_features

    name = f"{data['source']['folder'].name}_train_mirrored"
    mirrored = kept_features(picture_paths(data, "train"), extractor.mirrored(), name)
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
