"""A training run: its settings, and its folder.

What ``training.py`` and ``inference.py`` have in common. Importing it is light, so that ``--help``
answers at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from core.runs.lock import LOCK_FILE, Lock, free_from_lock, is_torn
from core.support.declared import SETTINGS
from core.support.schema import Entries, shown

# Settings that a resumed run may change; what else it was started with stays. Where files lie is
# no setting: ``core.runs.data`` compares what they hold.
_MAY_CHANGE = {"num_epochs", "patience", "engine", "device", "precision", "workers"}
_MAY_CHANGE |= {"data", "init", "weights", "impl"}
MIN_COUNT = 5  # of a photo folder's vocabulary
TRAINED_ON = ("train", "val")  # the splits that a run reads
DEFAULTS = {
    "data": "shapes",
    "num_samples": None,
    "max_words": 100,
    "num_epochs": 10,
    "batch_size": 64,
    "update_rule": "adam",
    "learning_rate": 2e-3,
    "schedule": "decay",
    "lr_decay": 0.82,
    "warmup": 0,
    "weight_decay": None,
    "label_smoothing": 0.0,
    "feature_dropout": 0.0,
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
    "samples": 5,
    "bleu_reward": 0.0,
    "no_pca": False,
    "dtype": "float32",
    "seed": 0,
    "engine": "numpy",
    "impl": None,
    "device": "auto",
    "precision": "float32",
    "workers": 0,
    "init": None,
    "encoder": None,
    "min_count": None,
    "weights": None,
    "grid": None,
    "finetune_encoder": 0,
    "encoder_learning_rate": 1e-4,
    "flip": False,
    "crop": 1.0,
}
# With num_samples: nothing that keeps a model from learning by heart.
OVERFIT_DEFAULTS = {"num_epochs": 120, "batch_size": 25, "lr_decay": 0.98, "dropout": 0.0}
# What runs of earlier versions did, which do not say so.
BEFORE = {"max_words": 0, "min_count": None, "impl": None, "bleu_reward": 0.0}
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
TORCH_OPTIONS = ("device", "precision")
ENCODER_OPTIONS = ("weights", "grid", "finetune_encoder", "encoder_learning_rate", "crop")
_MODELS_WITH_ENCODER = ("attention", "transformer")
# Options that only one model has.
MODEL_OPTIONS = {
    "attention": ("attention_dim", "double_stochastic"),
    "transformer": ("num_heads", "num_layers", "positions", "tied", "post_norm", "activation"),
}


def resolve_settings(options: dict, folder: Path, resume: bool) -> dict:
    """All settings of a run: the options, else those of the run that is resumed, else defaults.

    Inputs:
    - options: those that were given, by name; 'model' among them unless the run is resumed
    - folder: the run folder
    - resume: whether to go on with the run there

    Raises FileNotFoundError when there is no run to resume, ValueError when it is asked to go on
    with other settings, or when its config.json is none.
    """
    for name, word in (("data", "shapes"), ("init", None), ("weights", "download")):
        value = options.get(name, word)
        if value not in (word, "random") and not (name == "init" and "://" in value):
            options = options | {name: os.path.realpath(value)}  # also of a loop of links
    if not resume:
        _refuse_options_of_other_models(options, options["model"])
        overfit = OVERFIT_DEFAULTS if options.get("num_samples") is not None else {}
        of_encoder = ENCODER_DEFAULTS.get(options.get("encoder"), {})
        defaults = DEFAULTS | MODEL_DEFAULTS.get(options["model"], {}) | overfit | of_encoder
        settings = defaults | options
        _check_encoder_options(options, settings)
        _check_engine_of_encoder(options, settings)
        _check_recipe(options, settings)
        if settings["finetune_encoder"]:
            settings["engine"] = "torch"
        if "impl" in options:
            _check_impl(options, settings)
            settings["engine"] = "plain"
            settings["impl"] = {"file": os.path.realpath(options["impl"])}
        check_engine_options(options, settings["engine"])
        return settings

    from core.support.files import read_json

    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no run to resume there; start it without --resume")
    settings = read_json(path)
    if isinstance(settings, dict):
        settings = BEFORE | settings
    if fault := Entries(SETTINGS, tuple(SETTINGS)).fault(settings):
        raise ValueError(
            f"{path}: does not hold the settings of a run of this version ({fault}); put that "
            "right, or start another run"
        )
    _refuse_options_of_other_models(options, settings["model"])
    _check_encoder_options(options, settings)
    _check_engine_of_encoder(options, settings)
    _check_recipe(options, settings | options)
    check_engine_options(options, options.get("engine", settings["engine"]))
    if "impl" in options and settings["impl"] is None:
        raise ValueError(
            f"--impl: the run in {folder} was begun with core's functions alone; leave the option "
            "out, or start another run with another --out"
        )
    if settings["impl"] is not None:
        _check_impl(options, settings)
        if "impl" in options:
            settings["impl"]["file"] = os.path.realpath(options.pop("impl"))
    epochs = options.get("num_epochs", settings["num_epochs"])
    if settings["schedule"] == "cosine" and epochs != settings["num_epochs"]:
        raise ValueError(
            f"--num_epochs: the cosine of the run in {folder} is laid out over "
            f"{settings['num_epochs']} epochs, found {epochs}; leave the option out, or start "
            "another run with --init"
        )
    for name, value in options.items():
        if name not in _MAY_CHANGE and settings[name] != value:
            raise ValueError(
                f"--{name}: the run in {folder} has {settings[name]}, found {value}; "
                "leave the option out, or start another run with another --out"
            )
    return settings | options


def _refuse_options_of_other_models(options: dict, model: str) -> None:
    for owner, names in MODEL_OPTIONS.items():
        for name in names:
            if owner != model and name in options:
                raise ValueError(f"--{name}: is an option of {owner}, not of {model}; leave it out")


def _check_encoder_options(options: dict, settings: dict) -> None:
    for name in ENCODER_OPTIONS:
        if name in options and settings["encoder"] is None:
            raise ValueError(f"--{name}: is about pictures; add --encoder, or leave it out")
    if settings["encoder"] is not None and settings["model"] not in _MODELS_WITH_ENCODER:
        raise ValueError(
            f"--encoder: gives a grid of locations, which {settings['model']} does not read; "
            f"use --model {' or '.join(_MODELS_WITH_ENCODER)}, or prepare a data folder"
        )
    if "min_count" in options and settings["encoder"] is None:
        raise ValueError(
            "--min_count: makes the vocabulary of a photo folder, which --encoder reads; leave it "
            "out, or prepare the photos again with it"
        )
    for name in ("encoder_learning_rate", "crop"):
        if name in options and not settings["finetune_encoder"]:
            raise ValueError(f"--{name}: is for an encoder that learns; add --finetune_encoder N")


def _check_engine_of_encoder(options: dict, settings: dict) -> None:
    engine = options.get("engine", "torch")
    if settings["finetune_encoder"] and engine != "torch":
        raise ValueError(
            f"--engine {engine}: has no gradients of an encoder; leave it out, or "
            "--finetune_encoder 0"
        )


def _check_impl(options: dict, settings: dict) -> None:
    if settings["finetune_encoder"]:
        raise ValueError(
            "--impl: takes functions into the plain engine, which has no gradients of an encoder; "
            "leave one of them out, or take --finetune_encoder 0"
        )
    if options.get("engine", "plain") != "plain":
        raise ValueError(
            f"--engine {options['engine']}: --impl takes functions into the plain engine alone; "
            "take --engine plain, or leave one of them out"
        )
    if settings["objective"] == "scst":
        raise ValueError(
            "--objective scst: weighs captions, which the loss of an --impl need not do; leave one "
            "of them out"
        )


def _check_recipe(options: dict, settings: dict) -> None:
    if "weight_decay" in options and settings["update_rule"] != "adamw":
        raise ValueError("--weight_decay: is a number of adamw; add --update_rule adamw")
    if "lr_decay" in options and settings["schedule"] != "decay":
        raise ValueError("--lr_decay: is for --schedule decay; leave one of them out")
    for name in ("samples", "bleu_reward"):
        if name in options and settings["objective"] != "scst":
            raise ValueError(f"--{name}: is about --objective scst; add that, or leave it out")
    if settings["objective"] == "scst" and (settings["init"] is None or settings["num_samples"]):
        raise ValueError(
            "--objective scst: sharpens a model that can talk, on all of the data; add "
            "--init RUN, a run by cross-entropy, and no --num_samples"
        )
    for name in ("label_smoothing", "bucketed", "workers"):
        if settings["objective"] == "scst" and settings[name]:
            raise ValueError(f"--{name}: is not for --objective scst; leave it out")
    varied = settings["flip"] or settings["crop"] < 1
    if settings["objective"] == "scst" and settings["finetune_encoder"] and varied:
        raise ValueError(
            "--flip, --crop: what an encoder that learns is shown would not be what the captions "
            "of --objective scst were said of; leave them out"
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


def check_engine_options(options: dict, engine: str) -> None:
    """Raises ValueError for options of the torch engine that no other has."""
    for name in TORCH_OPTIONS:
        if engine != "torch" and options.get(name) is not None:
            raise ValueError(f"--{name}: is an option of --engine torch; add that, or leave it out")


def check_same_settings(checkpoint, settings: dict, folder: Path) -> None:
    """Raises ValueError, by name, when config.json is not what a run's last.npz was made with."""
    for name, value in checkpoint.settings.items():
        if name not in settings:
            raise ValueError(
                f"{folder / 'last.npz'}: was made with the setting {shown(name)}, which this "
                "version does not know; go on with the version that wrote it"
            )
        of_impl = name == "impl" and (settings["impl"] is None) != (value is None)
        if of_impl or (name not in _MAY_CHANGE and settings[name] != value):
            raise ValueError(
                f"{folder / 'config.json'}: has {name} {settings[name]}, "
                f"but last.npz was made with {value}; put that back"
            )
    epochs = checkpoint.training.get("epoch", 0)
    if settings["num_epochs"] < epochs:
        raise ValueError(
            f"--num_epochs: found {settings['num_epochs']}, but the run has done {epochs} already; "
            "give more, or leave the option out"
        )


def check_run_folder(folder: Path) -> None:
    """Raises ValueError for a file, and for a folder that holds something that is no run.

    What a killed process left is no such thing.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder}: is a file, expected a folder for the run")
    if not folder.is_dir() or (folder / "config.json").is_file():
        return
    if any(path.name != LOCK_FILE and not is_torn(path) for path in folder.iterdir()):
        raise ValueError(f"--out {folder}: holds files that are no run; choose another folder")


def make_room(folder: Path, lock: Lock) -> Path | None:
    """Makes an empty run folder. A run that is there already is moved aside, never overwritten.

    Inputs:
    - folder: of the run
    - lock: of that folder, which stays there

    Returns where the earlier run is now, or None when there was none.
    """
    folder, aside = Path(os.path.realpath(folder)), None
    if (folder / "config.json").is_file():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
            number += 1
        folder.rename(aside)
        free_from_lock(aside)
        lock.take()
    return aside


def find_checkpoint(option: str, run: str | Path) -> Path:
    """The file meant by a run folder, its best epoch, by the name of a file, or by an address.

    Inputs:
    - option: which named it, for the message
    - run: the folder, the file, or the address of one that ``core.runs.export`` wrote

    Raises FileNotFoundError when there is none, and as ``core.runs.fetching.fetched`` does.
    """
    if "://" in str(run):
        from core.runs.fetching import fetched

        return fetched(option, str(run))
    path = Path(run)
    if path.is_dir():
        if not (path / "best.npz").is_file():
            raise FileNotFoundError(
                f"{option} {path}: {path / 'best.npz'} is no such checkpoint; either the run has "
                "not finished an epoch yet, or this is no run folder"
            )
        return path / "best.npz"
    if not path.is_file():
        what = "is no file and no folder" if os.path.lexists(path) else "no such file or run folder"
        raise FileNotFoundError(f"{option} {path}: {what}; train a model with training.py first")
    return path


def checkpoint_of_model(model: str) -> Path:
    """The best epoch of the run in runs/MODEL; raises FileNotFoundError when there is none."""
    path = Path("runs", model)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no trained model there; first run: python training.py --model {model}"
        )
    return find_checkpoint("--model", path)
