"""Trains a captioning model.

python training.py --model lstm --num_samples 50       overfit 50 captions of the embedded data
python training.py --model lstm                        train on all of the embedded data
python training.py --model lstm --data datasets/flickr8k --hidden_dim 512
python training.py --resume --out runs/lstm            go on where a run was stopped
"""

from __future__ import annotations

import argparse
from pathlib import Path

from core.command_line import (
    ArgumentParser,
    dropout_rate,
    fraction,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    run_command,
)

# What a run was made with is what it goes on with, but for these.
MAY_CHANGE_ON_RESUME = {"num_epochs", "patience"}
_OVERFIT_DEFAULTS = {"num_epochs": 120, "batch_size": 25, "hidden_dim": 256}
_DEFAULTS = {
    "data": "shapes",
    "num_samples": None,
    "num_epochs": 15,
    "batch_size": 64,
    "update_rule": "adam",
    "learning_rate": 2e-3,
    "lr_decay": 1.0,
    "clip_norm": 5.0,
    "dropout": 0.0,
    "wordvec_dim": 128,
    "hidden_dim": 256,
    "patience": None,
    "no_pca": False,
    "dtype": "float32",
    "seed": 0,
}


def build_parser() -> argparse.ArgumentParser:
    """The options. None has a default here, so that one that was given can be told from one that
    was not; the defaults stand in ``_DEFAULTS``."""
    parser = ArgumentParser(
        prog="training.py",
        description="Train a hand-written captioning model.",
        argument_default=argparse.SUPPRESS,
    )

    def option(name: str, kind, text: str, **more) -> None:
        key = name.removeprefix("--")
        if key in _DEFAULTS and _DEFAULTS[key] is not None:
            text += f" (default: {_DEFAULTS[key]}"
            if key in _OVERFIT_DEFAULTS and _OVERFIT_DEFAULTS[key] != _DEFAULTS[key]:
                text += f", with --num_samples {_OVERFIT_DEFAULTS[key]}"
            text += ")"
        parser.add_argument(name, type=kind, help=text, **more)

    option("--model", str, "the decoder", choices=["rnn", "lstm"])
    option("--data", str, "'shapes', the embedded data, or a prepared folder", metavar="DIR")
    option("--num_samples", positive_int, "overfit K captions of K images", metavar="K")
    option("--num_epochs", positive_int, "passes over the training captions", metavar="E")
    option("--batch_size", positive_int, "captions in a batch", metavar="N")
    option("--update_rule", str, "how parameters move", choices=[
        "sgd", "sgd_momentum", "rmsprop", "adam", "adamw"
    ])  # fmt: skip
    option("--learning_rate", positive_float, "of the update rule", metavar="R")
    option("--lr_decay", fraction, "factor on the learning rate after each epoch", metavar="F")
    option("--clip_norm", non_negative_float, "largest norm of the gradients; 0: any", metavar="C")
    option("--dropout", dropout_rate, "probability to drop, while training", metavar="P")
    option("--wordvec_dim", positive_int, "width of the word vectors", metavar="W")
    option("--hidden_dim", positive_int, "width of the hidden state", metavar="H")
    option("--patience", positive_int, "stop after E epochs without a better score", metavar="E")
    option("--dtype", str, "of all computation", choices=["float32", "float64"])
    option("--seed", non_negative_int, "of samples, parameters, shuffling and dropout", metavar="S")
    option("--out", str, "run folder (default: runs/MODEL)", metavar="DIR")
    parser.add_argument(
        "--no_pca",
        action="store_true",
        help="of the published COCO archive, the 4,096-wide features",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    return parser


def resolve_settings(given: dict, folder: Path, resume: bool) -> dict:
    """All settings of the run: those given, else those of the run that is resumed, else defaults.

    Raises ValueError when a resumed run is asked to go on with other settings.
    """
    from core.files import read_json

    stored = folder / "config.json"
    if not resume:
        defaults = _DEFAULTS | (_OVERFIT_DEFAULTS if "num_samples" in given else {})
        return defaults | given
    if not stored.is_file():
        raise FileNotFoundError(f"{stored}: no run to resume there; start it without --resume")
    settings = read_json(stored)
    for name, value in given.items():
        if name not in MAY_CHANGE_ON_RESUME and settings.get(name) != value:
            raise ValueError(
                f"--{name}: the run in {folder} has {settings.get(name)}, found {value}; "
                "leave the option out, or start another run with another --out"
            )
    return settings | given


def make_room(folder: Path) -> None:
    """An empty run folder. A run that is there already is moved aside, never overwritten.

    Raises ValueError when the folder is a file, or holds something that is no run.
    """
    check_run_folder(folder)
    if (folder / "config.json").is_file():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
            number += 1
        folder.rename(aside)
        print(f"the run that was in {folder} is in {aside} now")
    folder.mkdir(parents=True, exist_ok=True)


def check_run_folder(folder: Path) -> None:
    """Refuses a file, and a folder that holds something that is no run."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder}: is a file, expected a folder for the run")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise ValueError(f"--out {folder}: holds files that are no run; choose another folder")


def load_data(settings: dict) -> dict:
    """The data of a run: the embedded data (made when absent) or a folder; samples taken."""
    import numpy as np

    from core import shapes
    from core.coco_utils import load_coco_data, take_samples

    folder = shapes.prepare() if settings["data"] == "shapes" else Path(settings["data"])
    data = load_coco_data(folder, pca_features=not settings["no_pca"])
    if settings["num_samples"] is not None:
        rng = np.random.default_rng([settings["seed"], 0])
        data = take_samples(data, settings["num_samples"], rng)
    return data


def main() -> None:
    parser = build_parser()
    given = vars(parser.parse_args())
    resume = given.pop("resume", False)
    out = given.pop("out", None)
    if out is None and "model" not in given:
        parser.error("--model: not given, expected rnn or lstm")
    folder = Path(out or f"runs/{given['model']}")
    if not resume and "model" not in given:
        parser.error("--model: not given, expected rnn or lstm")
    check_run_folder(folder)
    settings = resolve_settings(given, folder, resume)

    import numpy as np

    from core.captioning_solver import CaptioningSolver
    from core.checkpoint import Checkpoint, load_checkpoint
    from core.files import write_json
    from core.models import build_model

    data = load_data(settings)
    if data["train_features"].ndim != 2:
        raise ValueError(f"--model {settings['model']}: reads pooled features, found grid features")
    config = {
        "input_dim": data["train_features"].shape[1],
        "wordvec_dim": settings["wordvec_dim"],
        "hidden_dim": settings["hidden_dim"],
        "cell_type": settings["model"],
        "dtype": settings["dtype"],
        "dropout": settings["dropout"],
    }
    checkpoint = Checkpoint(
        settings["model"],
        config,
        data["idx_to_word"],
        params={},
        extractor=data["extractor"],
        extractor_arrays=data["extractor_arrays"],
        settings=settings,
    )
    model_rng = np.random.default_rng([settings["seed"], 1])
    model = build_model(settings["model"], config, data["idx_to_word"], rng=model_rng)
    solver = CaptioningSolver(
        model,
        data,
        update_rule=settings["update_rule"],
        optim_config={"learning_rate": settings["learning_rate"]},
        lr_decay=settings["lr_decay"],
        batch_size=settings["batch_size"],
        num_epochs=settings["num_epochs"],
        clip_norm=settings["clip_norm"] or None,
        patience=settings["patience"],
        select="val_loss" if settings["num_samples"] is None else "train_loss",
        rng=np.random.default_rng([settings["seed"], 2]),
        run_folder=folder,
        describe=lambda: checkpoint,
    )

    if resume and (folder / "last.npz").is_file():
        last = load_checkpoint(folder / "last.npz")
        if last.idx_to_word != data["idx_to_word"]:
            raise ValueError(
                f"{folder / 'last.npz'}: was trained with another vocabulary "
                f"({len(last.idx_to_word)} words) than {data['folder']} has "
                f"({len(data['idx_to_word'])} words); resume with the data it was trained on"
            )
        build_model(last.model, last.config, last.idx_to_word, last.params)  # checks the shapes
        solver.restore(last)
        solver.write_metrics()
    elif not resume:
        make_room(folder)
    write_json(folder / "config.json", settings)

    count = sum(parameter.size for parameter in model.params.values())
    samples = len(data["train_captions"])
    print(
        f"{settings['model']}: {count:,} parameters, {samples:,} captions of "
        f"{data['folder'].name}, vocabulary of {len(data['idx_to_word']):,} words, "
        f"run folder {folder}"
    )
    if solver.epoch:
        print(f"resumed after epoch {solver.epoch}")
    solver.train()
    best = solver.history[solver.best_epoch - 1]
    print(
        f"best epoch {best['epoch']} by {solver.select}: {best[solver.select]:.4f} nats a token; "
        f"loss curve in {folder / 'loss.png'}"
    )
    split = "train" if settings["num_samples"] is not None else "val"
    print(f"next: python inference.py --checkpoint {folder} --split {split}")


if __name__ == "__main__":
    run_command(main)
