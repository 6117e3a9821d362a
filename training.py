"""Trains a captioning model.

python training.py --model lstm --num_samples 50       overfit 50 captions of the embedded data
python training.py --model lstm                        train on all of the embedded data
python training.py --model lstm --data datasets/flickr8k --hidden_dim 512
python training.py --resume --out runs/lstm            go on where a run was stopped
python training.py --model lstm --engine plain         by the definitions, word by word
python training.py --model lstm --engine torch         the same with PyTorch's gradients
python training.py --model attention --encoder tiny_cnn          from pixels, the CNN learns too
python training.py --model attention --encoder resnet101 --weights FILE --data PHOTOS
"""

from __future__ import annotations

import argparse
import os
import shlex
from contextlib import nullcontext
from pathlib import Path

from core.runs.building import model_config, run_model, run_solver, threads_of_run
from core.runs.data import (
    check_same_contents,
    check_same_data,
    extractor_of_settings,
    fingerprint,
    load_data,
    load_init,
)
from core.runs.lock import locked
from core.runs.settings import (
    DEFAULTS,
    ENCODER_DEFAULTS,
    MIN_COUNT,
    MODEL_DEFAULTS,
    OVERFIT_DEFAULTS,
    check_run_folder,
    check_same_settings,
    make_room,
    resolve_settings,
)
from core.support.choices import (
    ACTIVATIONS,
    DEVICES,
    DTYPES,
    ENCODERS,
    ENGINES,
    MODEL_NAMES,
    OBJECTIVES,
    POSITIONS,
    PRECISIONS,
    SCHEDULES,
    SELECT,
    UPDATE_RULES,
)
from core.support.command_line import (
    ArgumentParser,
    dropout_rate,
    fraction,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    run_command,
)


def build_parser() -> argparse.ArgumentParser:
    """The options, without their defaults: a resumed run must tell what was given from what not."""
    parser = ArgumentParser(
        prog="training.py",
        description="Train a hand-written captioning model.",
        argument_default=argparse.SUPPRESS,
    )

    def option(name: str, kind, text: str, **more) -> None:
        default = DEFAULTS.get(name)
        others = {"--num_samples": OVERFIT_DEFAULTS, **MODEL_DEFAULTS, **ENCODER_DEFAULTS}
        if default is not None:
            cases = [f"{which}: {of[name]}" for which, of in others.items() if name in of]
            text += f" (default: {'; '.join([str(default), *cases])})"
        parser.add_argument(f"--{name}", type=kind, help=text, **more)

    option("model", str, "the decoder", choices=MODEL_NAMES)
    option(
        "data",
        str,
        "'shapes', the embedded data, or a prepared folder; with --encoder also a photo folder",
        metavar="DIR",
    )
    option("num_samples", positive_int, "overfit K captions of K images", metavar="K")
    option(
        "max_words", non_negative_int, "leave out captions of more words; 0: keep all", metavar="N"
    )
    option("num_epochs", positive_int, "passes over the training captions", metavar="E")
    option("batch_size", positive_int, "captions in a batch", metavar="N")
    option("update_rule", str, "how parameters move", choices=UPDATE_RULES)
    option("learning_rate", positive_float, "of the update rule", metavar="R")
    option("schedule", str, "how the learning rate falls", choices=SCHEDULES)
    option("lr_decay", fraction, "decay: factor on it after each epoch", metavar="F")
    option("warmup", non_negative_int, "steps in which it rises from 0 first", metavar="S")
    option("weight_decay", non_negative_float, "adamw: how fast parameters shrink", metavar="D")
    option("label_smoothing", dropout_rate, "share of a target spread over all words", metavar="P")
    option("clip_norm", non_negative_float, "largest norm of the gradients; 0: any", metavar="C")
    option("dropout", dropout_rate, "probability to drop, while training", metavar="P")
    option("feature_dropout", dropout_rate, "the same, of the image's features", metavar="P")
    option("wordvec_dim", positive_int, "width of the word vectors", metavar="W")
    option("hidden_dim", positive_int, "width of the state, or of feed-forward", metavar="H")
    option("attention_dim", positive_int, "attention: width of the comparison", metavar="K")
    option(
        "double_stochastic",
        non_negative_float,
        "attention: strength of the penalty for what is never looked at",
        metavar="S",
    )
    option("num_heads", positive_int, "transformer: divides wordvec_dim", metavar="h")
    option("num_layers", positive_int, "transformer: number of blocks", metavar="B")
    option("positions", str, "transformer: of the words", choices=POSITIONS)
    option("activation", str, "transformer: of feed-forward", choices=ACTIVATIONS)
    option("patience", positive_int, "stop after E epochs without a better score", metavar="E")
    option("objective", str, "scst: CIDEr-D of what the model says", choices=OBJECTIVES)
    option("samples", positive_int, "scst: captions of an image; 1: against greedy", metavar="K")
    option("select", str, "what the best epoch is best in", choices=SELECT)
    option("dtype", str, "of all computation", choices=DTYPES)
    option("seed", non_negative_int, "of samples, parameters, shuffling, dropout", metavar="S")
    option("engine", str, "the definitions, their fast twins, or PyTorch's", choices=ENGINES)
    option("device", str, "torch: where to compute", choices=DEVICES)
    option("precision", str, "torch: bf16 is autocast", choices=PRECISIONS)
    option("workers", non_negative_int, "threads that read batches ahead", metavar="W")
    option("init", str, "start from the parameters of another run", metavar="RUN_OR_FILE")
    option("encoder", str, "look at the pictures with this CNN", choices=ENCODERS)
    option(
        "min_count",
        positive_int,
        f"photo folder: rarer words are <UNK> (default: {MIN_COUNT})",
        metavar="N",
    )
    option(
        "weights",
        str,
        "of the encoder: a file, 'download', 'random', or a run whose encoder learned",
        metavar="FILE_OR_RUN",
    )
    option("grid", positive_int, "average the encoder's grid to G x G cells", metavar="G")
    option("finetune_encoder", non_negative_int, "the encoder's last N stages learn", metavar="N")
    option("encoder_learning_rate", positive_float, "of those stages", metavar="R")
    option(
        "crop",
        fraction,
        "encoder that learns: smallest share of a picture's area seen",
        metavar="A",
    )
    option("out", str, "run folder (default: runs/MODEL)", metavar="DIR")
    parser.add_argument(
        "--no_pca", action="store_true", help="the 4,096-wide features of the COCO archive"
    )
    parser.add_argument(
        "--tied", action="store_true", help="transformer: score words with their own vectors"
    )
    parser.add_argument(
        "--post_norm", action="store_true", help="transformer: norm after each sublayer"
    )
    parser.add_argument(
        "--flip",
        action="store_true",
        help="pictures are mirrored as well: half of those that an encoder that learns sees, else "
        "each once more; not where captions say left and right",
    )
    parser.add_argument(
        "--bucketed", action="store_true", help="captions of much the same length in one batch"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    return parser


def main() -> None:
    parser = build_parser()
    options = vars(parser.parse_args())
    resume, out = options.pop("resume", False), options.pop("out", None)
    if "model" not in options and not (resume and out):
        parser.error(f"--model: not given, expected {' or '.join(MODEL_NAMES)}")
    folder = Path(out or f"runs/{options['model']}")
    check_run_folder(folder)
    settings = resolve_settings(options, folder, resume)
    engine = settings["engine"]
    if engine != "torch":
        if "WORLD_SIZE" in os.environ:  # torchrun started this
            raise ValueError(
                f"--engine {engine}: is one process; leave torchrun out, or take torch"
            )
        with locked(folder) as lock:
            train(settings, folder, resume, lock)
        return

    from core.support import processes

    # The processes of torchrun are one run, and the first writes. It locks before the others join,
    # who end with it when the folder is in use.
    lock_of_first = locked(folder) if processes.rank() == 0 else nullcontext()
    with lock_of_first as lock, processes.joined(settings["device"]) as device:
        train(settings, folder, resume, lock, device)


def train(settings: dict, folder: Path, resume: bool, lock, device: str = "cpu") -> None:
    """A run, whatever computes it; of several processes the first writes and talks.

    Inputs:
    - settings: from ``resolve_settings``
    - folder: of the run
    - resume: whether to go on with the run there
    - lock: of the folder, in the first process
    - device: where the torch engine computes
    """
    from core.captioning_solver import LOSSES
    from core.checkpoint import Checkpoint, load_checkpoint
    from core.coco_utils import share_of_unknown
    from core.fast.threads import number_of_cores, products_on
    from core.runs.memory import check_memory
    from core.runs.saving import Saving, restore
    from core.support import processes
    from core.support.files import write_json

    first = processes.rank() == 0

    def say(text: str) -> None:
        if first:
            print(text, flush=True)

    extractor = extractor_of_settings(settings, device)
    last = None
    if resume and (folder / "last.npz").is_file():
        last = load_checkpoint(folder / "last.npz")
        check_same_settings(last, settings, folder)
    data = load_data(settings, extractor)
    for line in data["source"].get("account", ()):
        say(line)
    if last:
        check_same_data(last, data)
        if not check_same_contents(last, settings, data):
            say(
                f"{folder}: its version noted nothing of captions and features, so whether these "
                "are the same could not be checked"
            )
    start = last or load_init(settings, data, extractor)
    config = last.config if last else model_config(settings, data)
    model = run_model(settings, config, data, start, extractor, device)
    check_memory(settings, config, data, model, device)
    checkpoint = Checkpoint(
        settings["model"],
        config,
        data["idx_to_word"],
        model.params,
        extractor=data["source"]["extractor"],
        extractor_arrays=data["source"]["arrays"],
        settings=settings,
        data=fingerprint(data) | last.data if last else fingerprint(data, settings["init"]),
    )
    saving = Saving(folder, checkpoint, lock) if first else None
    solver = run_solver(settings, model, data, after_epoch=saving, verbose=first)
    if last:
        restore(solver, last)
        say(f"resumed after epoch {solver.epoch}")
    processes.wait_for_all()  # until all have read what was there
    if first:
        if last:
            saving.write_metrics(solver.history)
        elif not resume and (aside := make_room(folder, lock)):
            say(f"the run that was in {folder} is in {aside} now")
        write_json(folder / "config.json", settings)

    threads = threads_of_run(settings, model)
    where = f"{threads} of {number_of_cores()} cores" if threads else device
    count = sum(parameter.size for parameter in model.params.values())
    say(
        f"{settings['model']}: {count:,} parameters, {len(data['train_captions']):,} captions of "
        f"{data['source']['folder'].name}, vocabulary of {len(data['idx_to_word']):,} words "
        f"({share_of_unknown(data, 'train'):.1%} of what the captions say is <UNK>), "
        f"on {where}, run folder {folder}"
    )
    with products_on(threads) if threads else nullcontext():
        solver.train()
    if first:
        saving.draw(solver.history)
    best, select = solver.history[solver.best_epoch - 1], solver.best.select
    say(
        f"best epoch {best['epoch']} by {select}: {best[select]:.4f}"
        f"{' nats per token' if select in LOSSES else ''}; loss curve in {folder / 'loss.png'}"
    )
    there = [split for split in ("val", "test") if f"{split}_captions" in data]
    split = there[0] if there and settings["num_samples"] is None else "train"
    say(f"next: python inference.py --checkpoint {shlex.quote(str(folder))} --split {split}")


if __name__ == "__main__":
    run_command(main)
