"""Trains a captioning model.

python training.py --model lstm --num_samples 50       overfit 50 captions of the embedded data
python training.py --model lstm                        train on all of the embedded data
python training.py --model lstm --data datasets/flickr8k --hidden_dim 512
python training.py --resume --out runs/lstm            go on where a run was stopped
python training.py --model lstm --engine plain         by the definitions, word by word
python training.py --model lstm --impl my_layers.py    by your own functions, as far as they go
python training.py --model lstm --engine torch         the same with PyTorch's gradients
python training.py --model attention --encoder tiny_cnn          from pixels, the CNN learns too
python training.py --model attention --encoder resnet101 --weights FILE --data PHOTOS
"""

from __future__ import annotations

import argparse
import os
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
from core.support.choices import MODEL_NAMES
from core.support.command_line import (
    ArgumentParser,
    advice_on_memory,
    option_type,
    quoted,
    run_command,
)
from core.support.declared import SETTINGS
from core.support.schema import OneOf, plain

_LESS = "use a smaller --batch_size or smaller widths"


def build_parser() -> argparse.ArgumentParser:
    """The options, without their defaults: a resumed run must tell what was given from what not."""
    parser = ArgumentParser(
        prog="training.py",
        description="Train a hand-written captioning model.",
        argument_default=argparse.SUPPRESS,
    )

    def option(name: str, text: str, metavar: str | None = None) -> None:
        default, kind = DEFAULTS.get(name), plain(SETTINGS[name])
        how = {"type": option_type(kind), "metavar": metavar}
        if isinstance(kind, OneOf):
            how = {"choices": kind.words}
        others = {"--num_samples": OVERFIT_DEFAULTS, **MODEL_DEFAULTS, **ENCODER_DEFAULTS}
        if default is not None:
            cases = [f"{which}: {of[name]}" for which, of in others.items() if name in of]
            text += f" (default: {'; '.join([str(default), *cases])})"
        parser.add_argument(f"--{name}", help=text, **how)

    option("model", "the decoder")
    option(
        "data",
        "'shapes', the embedded data, or a prepared folder; with --encoder also a photo folder",
        metavar="DIR",
    )
    option("num_samples", "overfit K captions of K images", metavar="K")
    option("max_words", "leave out captions of more words; 0: keep all", metavar="N")
    option("num_epochs", "passes over the training captions", metavar="E")
    option("batch_size", "captions in a batch", metavar="N")
    option("update_rule", "how parameters move")
    option("learning_rate", "of the update rule", metavar="R")
    option("schedule", "how the learning rate falls")
    option("lr_decay", "decay: factor on it after each epoch", metavar="F")
    option("warmup", "steps in which it rises from 0 first", metavar="S")
    option("weight_decay", "adamw: how fast parameters shrink", metavar="D")
    option("label_smoothing", "share of a target spread over all words", metavar="P")
    option("clip_norm", "largest norm of the gradients; 0: any", metavar="C")
    option("dropout", "probability to drop, while training", metavar="P")
    option("feature_dropout", "the same, of the image's features", metavar="P")
    option("wordvec_dim", "width of the word vectors", metavar="W")
    option("hidden_dim", "width of the state, or of feed-forward", metavar="H")
    option("attention_dim", "attention: width of the comparison", metavar="K")
    option(
        "double_stochastic",
        "attention: strength of the penalty for what is never looked at",
        metavar="S",
    )
    option("num_heads", "transformer: divides wordvec_dim", metavar="h")
    option("num_layers", "transformer: number of blocks", metavar="B")
    option("positions", "transformer: of the words")
    option("activation", "transformer: of feed-forward")
    option("patience", "stop after E epochs without a better score", metavar="E")
    option("objective", "scst: CIDEr-D of what the model says")
    option("bleu_reward", "scst: and so many times BLEU-4 of it", metavar="F")
    option("samples", "scst: captions of an image; 1: against greedy", metavar="K")
    option("select", "what the best epoch is best in")
    option("dtype", "of all computation")
    option("seed", "of samples, parameters, shuffling, dropout", metavar="S")
    option("engine", "the definitions, their fast twins, or PyTorch's")
    option("device", "torch: where to compute")
    option("precision", "torch: bf16 is autocast")
    option("workers", "threads that read batches ahead", metavar="W")
    option("init", "start from the parameters of another run", metavar="RUN_OR_FILE")
    option("encoder", "look at the pictures with this CNN")
    option(
        "min_count",
        f"photo folder: rarer words are <UNK> (default: {MIN_COUNT})",
        metavar="N",
    )
    option(
        "weights",
        "of the encoder: a file, 'download', 'random', or a run whose encoder learned",
        metavar="FILE_OR_RUN",
    )
    option("grid", "average the encoder's grid to G x G cells", metavar="G")
    option("finetune_encoder", "the encoder's last N stages learn", metavar="N")
    option("encoder_learning_rate", "of those stages", metavar="R")
    option(
        "crop",
        "encoder that learns: smallest share of a picture's area seen",
        metavar="A",
    )
    parser.add_argument(
        "--impl",
        metavar="FILE.py",
        help="plain: take your functions in the place of ours, by their names; the file is run",
    )
    parser.add_argument("--out", metavar="DIR", help="run folder (default: runs/MODEL)")
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
        help="learn pictures in a mirror, too: each once more, without captions that say left or "
        "right; an encoder that learns sees half of them so, whatever the captions say",
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
    if "model" not in options and not (resume and out is not None):
        parser.error(f"--model: not given, expected {' or '.join(MODEL_NAMES)}")
    for name, value in (("out", out), *options.items()):
        if value == "":
            parser.error(f"--{name}: is empty, expected a name; leave it out, or give one")
    folder = Path(f"runs/{options['model']}" if out is None else out)
    check_run_folder(folder)
    settings = resolve_settings(options, folder, resume)
    engine = settings["engine"]
    if engine != "torch":
        if "WORLD_SIZE" in os.environ:  # torchrun started this
            raise ValueError(
                f"--engine {engine}: is one process; leave torchrun out, or take torch"
            )
        with locked(folder, resume) as lock, advice_on_memory(_LESS):
            if not settings["impl"]:
                train(settings, folder, resume, lock)
                return
            from core.runs.in_place import in_place

            own = functions_of_learner(settings)
            with in_place(own):
                train(settings, folder, resume, lock, own=own)
        return

    from core.support import processes

    # The processes of torchrun are one run, and the first writes. It locks before the others join,
    # who end with it when the folder is in use.
    lock_of_first = locked(folder, resume) if processes.rank() == 0 else nullcontext()
    with (
        lock_of_first as lock,
        processes.joined(settings["device"]) as device,
        advice_on_memory(_LESS),
    ):
        train(settings, folder, resume, lock, device)


def functions_of_learner(settings: dict):
    """The functions of --impl, after saying which they are and warning of those that are wrong."""
    from core.runs.own import of_training, variants_of

    own = of_training(settings)
    for line in own.lines():
        print(line, flush=True)
    own.warn_of_wrong(variants_of(settings))
    return own


def standstill(settings: dict) -> str | None:
    """A line about a learning rate that falls to nearly nothing long before the last epoch."""
    epochs, decay = settings["num_epochs"], settings["lr_decay"]
    left = decay ** (epochs - 1)
    if settings["schedule"] != "decay" or left >= 0.01:
        return None
    return (
        f"--lr_decay {decay:g}: in epoch {epochs} the learning rate is {left:.2%} of the first, "
        f"and little is learned by then; --lr_decay {0.1 ** (1 / epochs):.3g} keeps a tenth"
    )


def train(settings: dict, folder: Path, resume: bool, lock, device: str = "cpu", own=None) -> None:
    """A run, whatever computes it; of several processes the first writes and talks.

    Inputs:
    - settings: from ``resolve_settings``
    - folder: of the run
    - resume: whether to go on with the run there
    - lock: of the folder, in the first process
    - device: where the torch engine computes
    - own: the learner's functions that are in the place of ours, or None
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
    if resume and not (folder / "last.npz").is_file():
        if (folder / "metrics.jsonl").is_file():
            raise FileNotFoundError(
                f"{folder / 'last.npz'}: is not there any more, and a run goes on from it; start "
                f"another with --init {folder} and another --out"
            )
        say(f"{folder}: no epoch was done yet; it starts from the beginning")
    elif resume:
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
    if own:
        settings["impl"] = own.record(last)
        if last and own.sha256 != last.settings["impl"]["sha256"]:
            epoch = last.training["epoch"]
            say(f"{own.path.name} has changed: after epoch {epoch} its functions of now go on")
    start = last or load_init(settings, data, extractor)
    config = last.config if last else model_config(settings, data)
    check_memory(settings, config, data, extractor, device)
    model = run_model(settings, config, data, start, extractor, device)
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
        restore(solver, last, folder / "last.npz")
        say(f"resumed after epoch {solver.epoch}")
    if own:
        from core.runs.in_place import try_out

        try_out(solver)
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
    if line := standstill(settings):
        say(line)
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
    by_own = f" --impl {quoted(own.path)}" if own else ""
    say(f"next: python inference.py --checkpoint {quoted(folder)} --split {split}{by_own}")


if __name__ == "__main__":
    run_command(main)
