"""A training run: its settings, its data, its folder.

What ``training.py`` and ``inference.py`` have in common. Importing it is light, so that ``--help``
answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

MODEL_NAMES = ("rnn", "lstm", "attention", "transformer")
# What the best epoch is best in, and what the solver calls it.
SELECT = {"loss": "val_loss", "bleu4": "BLEU-4", "cider": "CIDEr-D"}
OBJECTIVES = ("crossentropy", "scst")
SCHEDULES = ("decay", "cosine")
UPDATE_RULES = ("sgd", "sgd_momentum", "rmsprop", "adam", "adamw")

# Settings that a resumed run may change; what else it was started with stays.
_MAY_CHANGE = {"num_epochs", "patience", "engine", "device", "precision", "weights", "workers"}
DEFAULTS = {
    "data": "shapes",
    "num_samples": None,
    "num_epochs": 10,
    "batch_size": 64,
    "update_rule": "adam",
    "learning_rate": 2e-3,
    "schedule": "decay",
    "lr_decay": 0.82,
    "warmup": 0,
    "weight_decay": None,
    "label_smoothing": 0.0,
    "bucketed": False,
    "clip_norm": 5.0,
    "dropout": 0.3,
    "wordvec_dim": 128,
    "hidden_dim": 256,
    "attention_dim": 128,
    "double_stochastic": 0.0,
    "num_heads": 4,
    "num_layers": 2,
    "positions": "learned",
    "tied": False,
    "post_norm": False,
    "activation": "relu",
    "patience": None,
    "select": "loss",
    "objective": "crossentropy",
    "no_pca": False,
    "dtype": "float32",
    "seed": 0,
    "engine": "numpy",
    "device": "auto",
    "precision": "float32",
    "workers": 0,
    "init": None,
    "encoder": None,
    "weights": None,
    "grid": None,
    "finetune_encoder": 0,
    "encoder_learning_rate": 1e-4,
    "flip": False,
}
# With num_samples: nothing that keeps a model from learning by heart.
OVERFIT_DEFAULTS = {"num_epochs": 120, "batch_size": 25, "lr_decay": 0.98, "dropout": 0.0}
# What suits one model better than DEFAULTS.
MODEL_DEFAULTS = {
    "transformer": {"learning_rate": 1e-3, "dropout": 0.1, "num_epochs": 12},
}
# An encoder that comes untrained learns from the start, all of it.
ENCODER_DEFAULTS = {
    "tiny_cnn": {
        "weights": "random",
        "finetune_encoder": 5,
        "encoder_learning_rate": 1e-3,
    },
}
ENGINES = ("numpy", "torch")
TORCH_OPTIONS = ("device", "precision")
ENCODER_OPTIONS = ("weights", "grid", "finetune_encoder", "encoder_learning_rate", "flip")
_MODELS_WITH_ENCODER = ("attention", "transformer")
# Options that only one model has.
MODEL_OPTIONS = {
    "attention": ("attention_dim", "double_stochastic"),
    "transformer": ("num_heads", "num_layers", "positions", "tied", "post_norm", "activation"),
}


def resolve_settings(given: dict, folder: Path, resume: bool) -> dict:
    """All settings of a run: those given, else those of the run that is resumed, else defaults.

    Inputs:
    - given: settings by name, 'model' among them unless the run is resumed
    - folder: the run folder
    - resume: whether to go on with the run there

    Raises FileNotFoundError when there is no run to resume, ValueError when it is asked to go on
    with other settings, or when its config.json is none.
    """
    for name, word in (("data", "shapes"), ("init", None), ("weights", "download")):
        if given.get(name, word) not in (word, "random"):
            given = given | {name: str(Path(given[name]).resolve())}
    if not resume:
        _refuse_options_of_other_models(given, given["model"])
        overfit = OVERFIT_DEFAULTS if given.get("num_samples") is not None else {}
        of_encoder = ENCODER_DEFAULTS.get(given.get("encoder"), {})
        defaults = DEFAULTS | MODEL_DEFAULTS.get(given["model"], {}) | overfit | of_encoder
        settings = defaults | given
        _check_encoder_options(given, settings)
        _check_recipe(given, settings)
        if settings["finetune_encoder"]:
            settings["engine"] = "torch"
        check_engine_options(given, settings["engine"])
        return settings

    from core.files import read_json

    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no run to resume there; start it without --resume")
    settings = read_json(path)
    if not isinstance(settings, dict) or settings.keys() != {"model", *DEFAULTS}:
        raise ValueError(f"{path}: does not hold the settings of a run; start another run")
    _refuse_options_of_other_models(given, settings["model"])
    check_engine_options(given, given.get("engine", settings["engine"]))
    for name, value in given.items():
        if name not in _MAY_CHANGE and settings[name] != value:
            raise ValueError(
                f"--{name}: the run in {folder} has {settings[name]}, found {value}; "
                "leave the option out, or start another run with another --out"
            )
    return settings | given


def _refuse_options_of_other_models(given: dict, model: str) -> None:
    for owner, names in MODEL_OPTIONS.items():
        for name in names:
            if owner != model and name in given:
                raise ValueError(f"--{name}: is an option of {owner}, not of {model}; leave it out")


def _check_encoder_options(given: dict, settings: dict) -> None:
    for name in ENCODER_OPTIONS:
        if name in given and settings["encoder"] is None:
            raise ValueError(f"--{name}: is about pictures; add --encoder, or leave it out")
    if settings["encoder"] is not None and settings["model"] not in _MODELS_WITH_ENCODER:
        raise ValueError(
            f"--encoder: gives a grid of locations, which {settings['model']} does not read; "
            f"use --model {' or '.join(_MODELS_WITH_ENCODER)}, or prepare a data folder"
        )
    if "encoder_learning_rate" in given and not settings["finetune_encoder"]:
        raise ValueError(
            "--encoder_learning_rate: is for an encoder that learns; add --finetune_encoder N"
        )
    if settings["finetune_encoder"] and given.get("engine") == "numpy":
        raise ValueError(
            "--engine numpy: has no gradients of an encoder; leave it out, or --finetune_encoder 0"
        )


def _check_recipe(given: dict, settings: dict) -> None:
    if "weight_decay" in given and settings["update_rule"] != "adamw":
        raise ValueError("--weight_decay: is a number of adamw; add --update_rule adamw")
    if "lr_decay" in given and settings["schedule"] != "decay":
        raise ValueError("--lr_decay: is for --schedule decay; leave one of them out")
    if settings["objective"] == "scst" and (settings["init"] is None or settings["num_samples"]):
        raise ValueError(
            "--objective scst: sharpens a model that can talk, on all of the data; add "
            "--init RUN, a run by cross-entropy, and no --num_samples"
        )
    if settings["bucketed"] and settings["finetune_encoder"]:
        raise ValueError(
            "--bucketed: tears apart the captions of a picture, which an encoder that learns looks "
            "at once; leave it out"
        )


def optim_config(settings: dict) -> dict:
    """The numbers of a run's update rule, as far as they are given."""
    config = {"learning_rate": settings["learning_rate"]}
    if settings["weight_decay"] is not None:
        config["weight_decay"] = settings["weight_decay"]
    return config


def caption_scores(settings: dict, data: dict):
    """What scores captions after each epoch, when the best epoch is chosen by that; else None."""
    if settings["select"] == "loss":
        return None
    if "val_captions" not in data or settings["num_samples"] is not None:
        raise ValueError(
            f"--select {settings['select']}: scores captions of validation images, which this run "
            "does not look at; leave it out"
        )
    from core.validation import CaptionScores

    return CaptionScores(data)


def model_config(settings: dict, data: dict) -> dict:
    """The arguments that build the model of a run, besides the vocabulary."""
    names = ("wordvec_dim", "hidden_dim", "dtype", "dropout")
    names += MODEL_OPTIONS.get(settings["model"], ())
    config = {name: settings[name] for name in names}
    config["input_dim"] = data["train_features"].shape[-1]
    if settings["model"] == "transformer":
        config["norm_first"] = not config.pop("post_norm")
        config["max_length"] = max(50, data["train_captions"].shape[1])
    return config


def check_engine_options(given: dict, engine: str) -> None:
    """Raises ValueError for options of the torch engine that the NumPy engine does not have."""
    for name in TORCH_OPTIONS:
        if engine != "torch" and given.get(name) is not None:
            raise ValueError(f"--{name}: is an option of --engine torch; add that, or leave it out")


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

    from core import processes, shapes
    from core.coco_utils import CAPTIONS_FILE, feature_kinds, load_coco_data, take_samples
    from core.models import MODELS

    if settings["data"] == "shapes":
        if processes.rank() == 0:
            shapes.prepare()
        processes.wait_for_all()
        folder = shapes.DEFAULT_FOLDER
    else:
        folder = Path(settings["data"])
    if extractor is not None and folder.is_dir() and not (folder / CAPTIONS_FILE).exists():
        from core.flickr8k import load_photo_data

        data = load_photo_data(folder)
    elif extractor is not None:
        data = load_coco_data(folder, features=None)
    else:
        model_class, _ = MODELS[settings["model"]]
        kind = "grid" if model_class.grid and "grid" in feature_kinds(folder) else "pooled"
        data = load_coco_data(folder, pca_features=not settings["no_pca"], features=kind)
    if extractor is not None:
        learns = settings["finetune_encoder"] > 0
        _add_pictures(data, extractor, training, learns)
        if settings["flip"] and training and not learns:
            _add_mirrored(data, extractor)
    if settings["num_samples"] is not None:
        rng = np.random.default_rng([settings["seed"], 0])
        data = take_samples(data, settings["num_samples"], rng)
    return data


def _add_pictures(data: dict, extractor, training: bool, learns: bool) -> None:
    from core.coco_utils import SPLITS, picture_paths
    from core.encoders.pictures import LookedAt, Pictures, kept_features

    for split in [split for split in SPLITS if f"{split}_captions" in data]:
        paths = picture_paths(data, split)
        if learns and training:
            table = Pictures(paths, extractor.preprocessing, extractor.shape)
        elif learns:
            table = LookedAt(paths, extractor)
        else:
            name = f"{data['source']['folder'].name}_{split}"
            table = kept_features(paths, extractor, name, make=training)
        data[f"{split}_features"] = table
    data["captions_together"] = training and learns
    data["source"] |= {"extractor": extractor.specification, "arrays": extractor.arrays}


def _add_mirrored(data: dict, extractor) -> None:
    """Every training picture in a mirror as one more picture, with the same captions."""
    import numpy as np

    from core.coco_utils import picture_paths
    from core.encoders.pictures import kept_features
    from core.tables import Stacked

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
    source = data["source"]
    if data["idx_to_word"] != checkpoint.idx_to_word:
        raise ValueError(
            f"{source['folder']}: has another vocabulary ({len(data['idx_to_word'])} words) than "
            f"the checkpoint ({len(checkpoint.idx_to_word)} words); use the data it was trained on"
        )
    if not same_extractor(checkpoint, source["extractor"], source["arrays"]):
        raise ValueError(
            f"{source['folder']}: its features were not made by the extractor that the checkpoint "
            "was trained with (encoder, preprocessing, weights or PCA differ); "
            "use the data it was trained on, or train again"
        )


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


def load_init(settings: dict, data: dict):
    """The checkpoint whose parameters a run starts from, checked; None when it starts afresh."""
    if settings["init"] is None:
        return None
    from core.checkpoint import load_checkpoint

    init = load_checkpoint(find_checkpoint(None, settings["init"]))
    if init.model != settings["model"]:
        raise ValueError(f"--init {settings['init']}: is of {init.model}, not {settings['model']}")
    check_same_data(init, data)
    return init


def check_same_settings(checkpoint, settings: dict, folder: Path) -> None:
    """Raises ValueError, by name, when config.json is not what a run's last.npz was made with."""
    for name, value in checkpoint.settings.items():
        if name not in _MAY_CHANGE and settings[name] != value:
            raise ValueError(
                f"{folder / 'config.json'}: has {name} {settings[name]}, "
                f"but last.npz was made with {value}; put that back"
            )
    epochs = checkpoint.training.get("epoch", 0)
    if settings["num_epochs"] < epochs:
        raise ValueError(
            f"--num_epochs: found {settings['num_epochs']}, but the run has done {epochs} already"
        )


def check_run_folder(folder: Path) -> None:
    """Raises ValueError for a file, and for a folder that holds something that is no run."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder}: is a file, expected a folder for the run")
    if not folder.is_dir() or (folder / "config.json").is_file():
        return
    if any(not fnmatch(path.name, ".*.part.*") for path in folder.iterdir()):  # torn files apart
        raise ValueError(f"--out {folder}: holds files that are no run; choose another folder")


def make_room(folder: Path) -> Path | None:
    """Makes an empty run folder. A run that is there already is moved aside, never overwritten.

    Returns where the earlier run is now, or None when there was none.
    """
    folder, aside = folder.resolve(), None
    if (folder / "config.json").is_file():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
            number += 1
        folder.rename(aside)
    folder.mkdir(parents=True, exist_ok=True)
    return aside


def find_checkpoint(model: str | None, checkpoint: str | None) -> Path:
    """The .npz file meant by the name of a model (runs/MODEL) or by a run folder: its best epoch.

    Raises FileNotFoundError when there is none.
    """
    path = Path(checkpoint) if checkpoint else Path("runs") / str(model)
    if path.is_dir():
        if not (path / "best.npz").is_file():
            raise FileNotFoundError(
                f"{path / 'best.npz'}: no such checkpoint; the run has not finished an epoch yet"
            )
        return path / "best.npz"
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no trained model there; first run: "
            f"python training.py --model {model or MODEL_NAMES[-1]}"
        )
    return path
